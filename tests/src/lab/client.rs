//! HTTP/1.1 to the daemon's socket and through the gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use proto_core::api::{OperationEvent, OperationResult, Submission};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

/// How long a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The API of one daemon.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its socket.
    pub socket: PathBuf,
}

impl Api {
    /// Asks a question.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or with an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let ask = async {
            let response = self.send(Method::GET, path, Bytes::new()).await?;
            read(response).await
        };
        tokio::time::timeout(ANSWER_WITHIN, ask).await.context("the daemon is silent")?
    }

    /// Asks a question that is answered with lines.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or with an error.
    pub async fn lines(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{status}: {text}");
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or with an error.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let response = self.send(Method::POST, path, serde_json::to_vec(body)?.into()).await?;
        read(response).await
    }

    /// Submits an operation and does not wait for it.
    ///
    /// # Errors
    ///
    /// If the daemon does not take it.
    pub async fn submit(&self, submission: &Submission) -> anyhow::Result<Running> {
        let body = serde_json::to_vec(submission)?.into();
        let response = self.send(Method::POST, "/v1/operations", body).await?;
        if !response.status().is_success() {
            return Err(read::<()>(response).await.err().context("an error without a body")?);
        }
        let handle = response.headers().get("ployz-handle").context("no handle")?;
        let handle = handle.to_str()?.parse()?;
        Ok(Running { handle, body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Cancels a running operation.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer.
    pub async fn cancel(&self, handle: u64) -> anyhow::Result<()> {
        let body = serde_json::json!({ "handle": handle });
        self.post::<serde_json::Value>("/v1/operations/cancel", &body).await.map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.context("the daemon's socket")?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors come out of the request and the body too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ployzd")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        Ok(sender.send_request(request).await?)
    }
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> anyhow::Result<T> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())
}

/// An operation whose events are being read.
#[derive(Debug)]
pub struct Running {
    /// By which it is cancelled.
    pub handle: u64,
    body: Incoming,
    buffer: BytesMut,
}

impl Running {
    /// The next event; `None` when the stream ended, or broke off with the daemon.
    ///
    /// # Errors
    ///
    /// If a line is no event.
    pub async fn next(&mut self) -> anyhow::Result<Option<OperationEvent>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// Reads to the end. `None` if the stream broke off.
    ///
    /// # Errors
    ///
    /// If a line is no event.
    pub async fn end(mut self) -> anyhow::Result<Option<OperationResult>> {
        while let Some(event) = self.next().await? {
            if let OperationEvent::Finished { result } = event {
                return Ok(Some(result));
            }
        }
        Ok(None)
    }
}

/// A connection to the gateway.
#[derive(Debug)]
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Whether it can take another request: a connection that the server has closed between two requests is no failure.
    pub(crate) async fn usable(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }

    /// Status and body.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let request =
            Request::builder().uri(path).header("host", host).body(Full::new(Bytes::new()))?;
        let response = self.0.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// One request on a connection of its own: status and body.
///
/// # Errors
///
/// If there is no answer within five seconds.
pub async fn get_once(
    address: SocketAddr,
    host: &str,
    path: &str,
) -> anyhow::Result<(u16, String)> {
    let get = async { Connection::open(address).await?.get(host, path).await };
    tokio::time::timeout(Duration::from_secs(5), get).await.context("no answer in 5 s")?
}

/// One request through the gateway on this port of this machine.
///
/// # Errors
///
/// If there is no answer within five seconds.
pub async fn get_through(port: u16, host: &str, path: &str) -> anyhow::Result<(u16, String)> {
    get_once(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), host, path).await
}
