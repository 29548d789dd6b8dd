//! What the runtimes stream to a person: log lines and the output of `exec`.

use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proto_core::runtime::RuntimeError;
use proto_core::time::UnixTime;
use tokio::io::AsyncWrite;

/// Where something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where to.
    pub stream: OutputStream,
    /// The line without its end; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// When the runtime read it.
    pub time: Option<UnixTime>,
}

/// Lines, oldest first.
pub type LogLines = BoxStream<'static, Result<LogLine, RuntimeError>>;

/// A command that runs in an instance.
pub struct Exec {
    /// What it writes, as it comes; ends when the command ended.
    pub output: BoxStream<'static, Result<(OutputStream, Bytes), RuntimeError>>,
    /// Its standard input; shut it down to end it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its exit code, 128 + n for signal n. Ready once the output has ended.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}
