//! HTTP/1.1 with JSON over the daemon's unix socket: a connection a request.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto_core::api::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::failure::{DAEMON, Failure, USAGE};
use crate::{next, paths};

/// The longest line of a stream that is taken: a plan with a thousand instances stays far below it.
const MAX_LINE: usize = 64 << 20;
/// The longest path of a unix socket, in bytes: `sun_path` of `unix(7)` without the zero at its end.
const MAX_SOCKET: usize = 107;
/// The name of the header with the handle by which a streamed operation is cancelled.
const HANDLE: &str = "ployz-handle";

/// Whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout }
    }

    /// The same at another socket.
    pub(crate) fn at(&self, socket: PathBuf) -> Self {
        Self::new(socket, self.timeout)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Refuses a path that no socket can have.
    pub(crate) fn fits(&self) -> Result<(), Failure> {
        let length = self.socket.as_os_str().len();
        if length <= MAX_SOCKET {
            return Ok(());
        }
        let socket = self.socket.display();
        let message = format!(
            "the path of a socket has at most {MAX_SOCKET} bytes, and {socket} has {length}"
        );
        let next = format!("ployzctl --socket {} status", paths::socket().display());
        Err(Failure::new(USAGE, ErrorBody::new("SOCKET_PATH_TOO_LONG", message).next(next)))
    }

    /// Asks a question.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Asks for something and reads the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, encode(body)).await
    }

    /// Opens a stream of lines.
    pub(crate) async fn get_lines(&self, path: &str) -> Result<Lines, Failure> {
        let sent = self.send(Method::GET, path, Bytes::new());
        self.in_time(sent).await.map(Lines::new)
    }

    /// Asks for something whose answer is a stream of lines.
    pub(crate) async fn post_lines(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Lines, Failure> {
        let sent = self.send(Method::POST, path, encode(body));
        self.in_time(sent).await.map(Lines::new)
    }

    /// Whether anything answers `GET path` with 200.
    pub(crate) async fn answers(&self, path: &str) -> Result<(), Failure> {
        self.in_time(self.send(Method::GET, path, Bytes::new())).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        self.in_time(async {
            let response = self.send(method, path, body).await?;
            let bytes = response.into_body().collect().await.map_err(|e| broken_off(&e))?;
            decode(&bytes.to_bytes())
        })
        .await
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            let message = format!(
                "the daemon at {} did not answer within {} s",
                self.socket.display(),
                self.timeout.as_secs()
            );
            let log = paths::data_dir_of_environment().unwrap_or_else(paths::data_dir);
            let log = log.join("ployzd.log");
            let next = format!("tail {}", next::quoted(&log.to_string_lossy()));
            Err(Failure::new(DAEMON, ErrorBody::new("DAEMON_SILENT", message).next(next)))
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        self.fits()?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken_off(&e))?;
        // Its errors come out of the request and the body too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ployzd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("paths are put together from checked names");
        let response = sender.send_request(request).await.map_err(|e| broken_off(&e))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| broken_off(&e))?;
        Err(refusal(status, &bytes.to_bytes()))
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        if std::fs::metadata(&self.socket).is_ok_and(|there| !there.file_type().is_socket()) {
            let message = format!("{socket} is there and is no socket");
            let error = ErrorBody::new("NOT_A_SOCKET", message).next(format!("ls -ld {socket}"));
            return Failure::new(USAGE, error);
        }
        let up = "ployzctl dev up";
        let error = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                let dir = paths::data_dir_of_environment().unwrap_or_else(paths::data_dir);
                // A socket that is left over, or a configuration: there was a daemon.
                let was = self.socket.exists() || dir.join("ployzd.toml").exists();
                let then = if was {
                    "whatever it started runs on without it".to_owned()
                } else {
                    format!("there is no cluster in {} either", dir.display())
                };
                let message = format!("no daemon listens at {socket}; {then}");
                ErrorBody::new("DAEMON_AWAY", message).next(up)
            }
            ErrorKind::PermissionDenied => forbidden(&self.socket),
            _ => ErrorBody::new("DAEMON_AWAY", format!("cannot connect to {socket}: {error}"))
                .next(up),
        };
        Failure::new(DAEMON, error)
    }
}

/// This user may not use the socket; who may.
fn forbidden(socket: &Path) -> ErrorBody {
    use std::os::unix::fs::MetadataExt as _;
    let path = socket.display();
    let as_root = format!("sudo ployzctl --socket {path} status");
    let (message, next) = match std::fs::metadata(socket) {
        // Where there is no group `ployz` the daemon gives its socket to nobody else.
        Ok(there) if there.mode() & 0o060 != 0o060 => {
            (format!("it belongs to user {} alone", there.uid()), as_root)
        }
        Ok(_) => (
            "it belongs to its owner and the group `ployz`".to_owned(),
            "sudo usermod -aG ployz \"$USER\", then log in again".to_owned(),
        ),
        Err(_) => ("its directory is closed to this user".to_owned(), as_root),
    };
    ErrorBody::new("SOCKET_FORBIDDEN", format!("this user may not use {path}: {message}"))
        .next(next)
}

fn encode(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("requests are plain JSON").into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("the daemon's answer is not understood: {error}");
        let error = ErrorBody::new("ANSWER_UNREADABLE", message).next("ployzctl version");
        Failure::new(DAEMON, error)
    })
}

/// A line is what is streamed, or the error that ended it.
fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, Failure> {
    decode(line).map_err(|failure| match serde_json::from_slice::<ErrorBody>(line) {
        Ok(error) => Failure::new(DAEMON, error),
        Err(_) => failure,
    })
}

fn broken_off(error: &hyper::Error) -> Failure {
    let message = format!("the connection to the daemon broke off: {error}");
    Failure::new(DAEMON, ErrorBody::new("CONNECTION_LOST", message).next("ployzctl status"))
}

/// An answer that is not 200: the operator's fault (400, 422), a refusal (other 4xx) or the daemon's (all else).
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let error: ErrorBody = serde_json::from_slice(body).unwrap_or_else(|_| {
        // Not from the daemon's own code: it did not understand the request, or broke down.
        let text = String::from_utf8_lossy(body);
        let code = if status.is_client_error() { "REQUEST_INVALID" } else { "DAEMON_FAILED" };
        let message = format!("the daemon answered {status}: {}", text.trim());
        ErrorBody::new(code, message).next("ployzctl version")
    });
    let exit = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => USAGE,
        status if status.is_client_error() => error.exit_code(),
        _ => DAEMON,
    };
    Failure::new(exit, error)
}

/// A stream of JSON values, one a line.
#[derive(Debug)]
pub(crate) struct Lines {
    /// By which the operation is cancelled.
    pub(crate) handle: Option<u64>,
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Self {
        let handle = response.headers().get(HANDLE);
        let handle = handle.and_then(|value| value.to_str().ok()?.parse().ok());
        Self { handle, body: response.into_body(), buffer: BytesMut::new(), ended: false }
    }

    /// The next value; `None` at the end. May be dropped while it waits: nothing is lost.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return decode_line(&line).map(Some);
            }
            if self.ended {
                let rest = self.buffer.split();
                let rest = rest.trim_ascii();
                return if rest.is_empty() { Ok(None) } else { decode_line(rest).map(Some) };
            }
            if self.buffer.len() > MAX_LINE {
                let message =
                    format!("a line of the daemon's answer has more than {MAX_LINE} bytes");
                let error = ErrorBody::new("ANSWER_UNREADABLE", message).next("ployzctl version");
                return Err(Failure::new(DAEMON, error));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken_off(&error)),
            }
        }
    }
}
