//! The two runtimes behind one interface, and what both stream to a person: log lines and the output of `exec`.

use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use proto_core::Outcome;
use proto_core::id::InstanceName;
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use proto_core::time::UnixTime;
use tokio::io::AsyncWrite;

use crate::docker::Docker;
use crate::process::Processes;

/// The runtime of a machine.
#[derive(Debug, Clone)]
pub enum Runtime {
    /// Containers of a Docker engine.
    Docker(Docker),
    /// Processes of the host.
    Processes(Processes),
}

impl Runtime {
    /// Does what is asked, once.
    pub async fn execute(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.execute(request).await,
            Self::Processes(processes) => processes.execute(request).await,
        }
    }

    /// What an instance wrote: the last `tail` lines (`None`: all that is kept), and with `follow` what it writes from
    /// then on, until the instance is removed or the stream is dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`], or that the runtime is away.
    pub async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.logs(instance, tail, follow).await,
            Self::Processes(processes) => processes.logs(instance, tail, follow).await,
        }
    }

    /// Runs a command in an instance's environment.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`], [`RuntimeError::CannotRun`], or that the runtime is away.
    pub async fn exec(
        &self,
        instance: &InstanceName,
        argv: &[String],
        tty: bool,
    ) -> Result<Exec, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.exec(instance, argv, tty).await,
            Self::Processes(processes) => processes.exec(instance, argv, tty).await,
        }
    }
}

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

/// What a command writes, as it comes.
pub type ExecOutput = BoxStream<'static, Result<(OutputStream, Bytes), RuntimeError>>;

/// A command that runs in an instance.
pub struct Exec {
    /// What it writes, as it comes; ends when the command ended.
    pub output: ExecOutput,
    /// Its standard input; shut it down to end it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its exit code, 128 + n for signal n. Ready once the output has ended.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl Exec {
    /// A command that did not start, told as a shell tells it: a line on standard error, and exit code 127 if there is no such program,
    /// 126 if there is one that cannot be run.
    pub(crate) fn not_started(program: &str, missing: bool) -> Self {
        let line = (OutputStream::Stderr, Self::why(program, missing));
        Self {
            output: futures::stream::iter([Ok(line)]).boxed(),
            input: Box::pin(tokio::io::sink()),
            exit: futures::future::ready(Ok(Self::code_of(missing))).boxed(),
        }
    }

    /// The exit code.
    pub(crate) fn code_of(missing: bool) -> i32 {
        if missing { 127 } else { 126 }
    }

    /// The line on standard error.
    pub(crate) fn why(program: &str, missing: bool) -> Bytes {
        let why = if missing { "there is no such program" } else { "it cannot be run" };
        Bytes::from(format!("{program}: {why}\n"))
    }
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}
