//! The control socket of the gateway and the DNS server: HTTP/1 over a unix socket of mode 0600.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | 200 and a [`Status`] |
//! | `GET /applied?at_least=N&timeout_ms=M[&namespace=NS]` | waits until every head up to revision N (of one namespace, or of all) is served: 200 `{"applied": A}`, or after M milliseconds 408 with `code`, `message` and `applied` |
//!
//! | `GET /drained?backend=ADDRESS[&backend=…]&timeout_ms=M` | gateway only: waits until no request is under way to any of these instances: 200 `{"under_way": 0}`, or after M milliseconds 408 with `code`, `message` and `under_way` |
//!
//! [`applied`], [`drained`] and [`status`] are the client's side. A drain is waited for once the table without the instances is
//! applied; before that, new requests would keep coming.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto_core::id::Namespace;
use proto_core::routing::ProjectionStatus;
use proto_core::store::Revision;
use proto_core::time::UnixTime;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::gateway::UnderWay;
use crate::projection::{now, stopped};

/// What the process is and what it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `gateway` or `dns`.
    pub role: String,
    /// The build.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: UnixTime,
    /// Where it listens.
    pub listen: Vec<String>,
    /// What it serves, and how far that can be trusted.
    #[serde(flatten)]
    pub projection: ProjectionStatus,
    /// How old `stale.since` was when this was answered, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_for_ms: Option<u64>,
    /// Why the last good state could not be written to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_error: Option<String>,
    /// What is wrong with what it serves, apart from what could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

impl Status {
    pub(crate) fn new(role: &str, listen: Vec<String>, projection: ProjectionStatus) -> Self {
        Self {
            role: role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: now(),
            listen,
            projection,
            stale_for_ms: None,
            snapshot_error: None,
            conflicts: Vec::new(),
        }
    }
}

/// Why a control socket gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens, or the connection broke.
    #[error("{}: {error}", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What happened.
        error: String,
    },
    /// It has not applied the position in time.
    #[error("applied up to {applied} when the time was over")]
    Timeout {
        /// What it had applied.
        applied: Revision,
    },
    /// Requests are still under way to the instances.
    #[error("{requests} requests are still under way when the time to drain is over")]
    StillUnderWay {
        /// How many.
        requests: usize,
    },
    /// It answered with something else.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// Asks for the status.
///
/// # Errors
///
/// If there is no answer within `timeout`.
pub async fn status(socket: &Path, timeout: Duration) -> Result<Status, ControlError> {
    let (status, body) = get(socket, "/status", timeout).await?;
    match serde_json::from_slice(&body) {
        Ok(answer) if status == StatusCode::OK => Ok(answer),
        _ => Err(unexpected(status, &body)),
    }
}

/// Waits until the gateway has no request under way to any of these instances.
///
/// # Errors
///
/// [`ControlError::StillUnderWay`] if there are some after `timeout`, [`ControlError::Silent`] if nobody answers.
pub async fn drained(
    socket: &Path,
    backends: &[SocketAddr],
    timeout: Duration,
) -> Result<(), ControlError> {
    let mut path = format!("/drained?timeout_ms={}", timeout.as_millis());
    for backend in backends {
        path.push_str(&format!("&backend={backend}"));
    }
    let (status, body) = get(socket, &path, timeout + Duration::from_secs(1)).await?;
    let answer: Result<Drained, _> = serde_json::from_slice(&body);
    match (status, answer) {
        (StatusCode::OK, _) => Ok(()),
        (StatusCode::REQUEST_TIMEOUT, Ok(answer)) => {
            Err(ControlError::StillUnderWay { requests: answer.under_way })
        }
        _ => Err(unexpected(status, &body)),
    }
}

/// Waits until every head up to `at_least` is served, of one namespace or of all; answers with what is applied then.
///
/// # Errors
///
/// [`ControlError::Timeout`] if it is not within `timeout`, [`ControlError::Silent`] if nobody answers.
pub async fn applied(
    socket: &Path,
    namespace: Option<&Namespace>,
    at_least: Revision,
    timeout: Duration,
) -> Result<Revision, ControlError> {
    let mut path = format!("/applied?at_least={at_least}&timeout_ms={}", timeout.as_millis());
    if let Some(namespace) = namespace {
        path.push_str(&format!("&namespace={namespace}"));
    }
    // The other side keeps the time; this one only stops waiting for one that hangs.
    let (status, body) = get(socket, &path, timeout + Duration::from_secs(1)).await?;
    let answer: Result<Applied, _> = serde_json::from_slice(&body);
    match (status, answer) {
        (StatusCode::OK, Ok(answer)) => Ok(answer.applied),
        (StatusCode::REQUEST_TIMEOUT, Ok(answer)) => {
            Err(ControlError::Timeout { applied: answer.applied })
        }
        _ => Err(unexpected(status, &body)),
    }
}

#[derive(Deserialize)]
struct Applied {
    applied: Revision,
}

fn unexpected(status: StatusCode, body: &[u8]) -> ControlError {
    ControlError::Unexpected(format!("{status} {}", String::from_utf8_lossy(body)))
}

async fn get(
    socket: &Path,
    path: &str,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), ControlError> {
    let silent = |error: String| ControlError::Silent { path: socket.to_owned(), error };
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let request = Request::get(path).header("host", "control").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(text)?;
            let status = response.status();
            Ok((status, response.into_body().collect().await.map_err(text)?.to_bytes()))
        };
        // The connection is driven beside the exchange, and dropped with it.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                // The connection may be done before its last answer is picked up.
                Ok(()) => answer.await,
                Err(error) => Err(text(error)),
            },
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result.map_err(silent),
        Err(_) => Err(silent("no answer in time".to_owned())),
    }
}

fn text(error: hyper::Error) -> String {
    error.to_string()
}

/// A bound control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Takes the path over from whatever has it: it appears in one step, with its mode.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&temporary)?.ino();
        std::fs::rename(&temporary, path)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Answers until `shutdown` turns true.
    pub(crate) async fn serve(
        self,
        status: watch::Receiver<Status>,
        under_way: Option<Arc<UnderWay>>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        loop {
            let stream = tokio::select! {
                () = stopped(&mut shutdown) => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: accepting at once again would only spin.
                        tracing::warn!(%error, "the control socket can't accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (status, under_way) = (status.clone(), under_way.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let (status, under_way) = (status.clone(), under_way.clone());
                    async move { Ok::<_, Infallible>(answer(&request, status, under_way).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a control connection broke");
                }
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A successor may have taken the path already.
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the control socket was not removed");
        }
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer<B>(
    request: &Request<B>,
    status: watch::Receiver<Status>,
    under_way: Option<Arc<UnderWay>>,
) -> Answer {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/status") => {
            let mut status = status.borrow().clone();
            let since = status.projection.stale.as_ref().map(|stale| stale.since);
            status.stale_for_ms =
                since.map(|since| now().as_millis().saturating_sub(since.as_millis()));
            json(StatusCode::OK, &serde_json::json!(status))
        }
        ("GET", "/applied") => match Wanted::parse(request.uri().query().unwrap_or("")) {
            Ok(wanted) => wait_applied(wanted, status).await,
            Err(error) => refuse(StatusCode::BAD_REQUEST, "BAD_REQUEST", &error),
        },
        ("GET", "/drained") if under_way.is_some() => {
            match (parse_drained(request.uri().query().unwrap_or("")), under_way) {
                (Ok((backends, timeout)), Some(all)) => {
                    wait_drained(&all, &backends, timeout).await
                }
                (Err(error), _) => refuse(StatusCode::BAD_REQUEST, "BAD_REQUEST", &error),
                (Ok(_), None) => unreachable!("the guard has looked"),
            }
        }
        (_, "/status" | "/applied") => {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", "only GET is answered here")
        }
        _ => refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "there are /status and /applied"),
    }
}

#[derive(Deserialize)]
struct Drained {
    under_way: usize,
}

struct Wanted {
    at_least: Revision,
    namespace: Option<Namespace>,
    timeout: Duration,
}

impl Wanted {
    fn parse(query: &str) -> Result<Self, String> {
        let mut wanted =
            Self { at_least: Revision::ABSENT, namespace: None, timeout: Duration::ZERO };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number =
                || value.parse::<u64>().map_err(|_| format!("{name} must be a whole number"));
            match name {
                "at_least" => wanted.at_least = Revision(number()?),
                // An hour is longer than any drain.
                "timeout_ms" => wanted.timeout = Duration::from_millis(number()?.min(3_600_000)),
                "namespace" => {
                    wanted.namespace = Some(value.parse().map_err(|e| format!("namespace: {e}"))?);
                }
                _ => return Err(format!("{name:?} is no parameter of /applied")),
            }
        }
        Ok(wanted)
    }
}

fn parse_drained(query: &str) -> Result<(Vec<SocketAddr>, Duration), String> {
    let (mut backends, mut timeout) = (Vec::new(), Duration::ZERO);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("backend", address) => {
                backends.push(
                    address
                        .parse()
                        .map_err(|_| format!("{address:?} is no address with a port"))?,
                );
            }
            ("timeout_ms", millis) => {
                let millis: u64 =
                    millis.parse().map_err(|_| "timeout_ms must be a whole number")?;
                timeout = Duration::from_millis(millis.min(3_600_000));
            }
            (name, _) => return Err(format!("{name:?} is no parameter of /drained")),
        }
    }
    Ok((backends, timeout))
}

async fn wait_drained(all: &UnderWay, backends: &[SocketAddr], timeout: Duration) -> Answer {
    if tokio::time::timeout(timeout, all.drained(backends)).await.is_ok() {
        return json(StatusCode::OK, &serde_json::json!({ "under_way": 0 }));
    }
    let left = all.count(backends);
    let body = serde_json::json!({
        "code": "DRAIN_TIMEOUT",
        "message": format!("{left} requests are still under way"),
        "under_way": left,
    });
    json(StatusCode::REQUEST_TIMEOUT, &body)
}

async fn wait_applied(wanted: Wanted, mut status: watch::Receiver<Status>) -> Answer {
    let applied = |status: &Status| status.projection.applied(wanted.namespace.as_ref());
    let reached = status.wait_for(|s| s.projection.loaded && applied(s) >= wanted.at_least);
    if let Ok(Ok(status)) = tokio::time::timeout(wanted.timeout, reached).await {
        return json(StatusCode::OK, &serde_json::json!({ "applied": applied(&status) }));
    }
    let applied = applied(&status.borrow());
    let body = serde_json::json!({
        "code": "APPLIED_TIMEOUT",
        "message": format!("applied up to {applied}, not up to {}", wanted.at_least),
        "applied": applied,
    });
    json(StatusCode::REQUEST_TIMEOUT, &body)
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Answer {
    json(status, &serde_json::json!({ "code": code, "message": message }))
}

fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}
