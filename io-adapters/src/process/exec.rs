use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use proto_core::runtime::{InstanceSpec, RuntimeError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::process::{ChildStdin, Command};

use super::environment::{self, User};
use super::place::Place;
use crate::runtime::{Exec, OutputStream};

/// How much of a failed probe's output becomes part of the reason.
const PROBE_OUTPUT: usize = 512;

/// Runs a command as the instance would: in its directory, with its environment and user. It ends with the caller's interest in it.
pub(super) fn exec(
    place: &Place,
    spec: &InstanceSpec,
    argv: &[String],
) -> Result<Exec, RuntimeError> {
    let (mut child, program) = match spawn(place, spec, argv, Stdio::piped()) {
        Ok(started) => started,
        Err(NotStarted::Program(program, error)) => {
            return Ok(Exec::not_started(&program, error.kind() == io::ErrorKind::NotFound));
        }
        Err(NotStarted::Instance(error)) => return Err(error),
    };
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(input), Some(stdout), Some(stderr)) = (input, stdout, stderr) else {
        return Err(other(&format!("{program} has no pipes")));
    };
    let output =
        stream::select(chunks(stdout, OutputStream::Stdout), chunks(stderr, OutputStream::Stderr));
    let exit = async move {
        let status = child.wait().await.map_err(|error| other(&error.to_string()))?;
        Ok(code(status))
    };
    Ok(Exec { output: output.boxed(), input: Box::pin(Input(Some(input))), exit: exit.boxed() })
}

/// Runs a command as a probe; one that takes too long is killed, with all that it started.
pub(super) async fn probe(
    place: &Place,
    spec: &InstanceSpec,
    argv: &[String],
    limit: Duration,
) -> Result<Result<(), String>, RuntimeError> {
    let (mut child, _) = match spawn(place, spec, argv, Stdio::null()) {
        Ok(started) => started,
        Err(NotStarted::Program(program, error)) => return Ok(Err(format!("{program}: {error}"))),
        Err(NotStarted::Instance(RuntimeError::CannotRun { detail })) => return Ok(Err(detail)),
        Err(NotStarted::Instance(error)) => return Err(error),
    };
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(other("the probe has no pipes"));
    };
    let run = async {
        let mut said = Vec::new();
        let mut output = stream::select(
            chunks(stdout, OutputStream::Stdout),
            chunks(stderr, OutputStream::Stderr),
        );
        while let Some((_, bytes)) = output.try_next().await? {
            said.extend(bytes);
            said.drain(..said.len().saturating_sub(PROBE_OUTPUT));
        }
        let status = child.wait().await.map_err(|error| other(&error.to_string()))?;
        Ok((code(status), said))
    };
    match tokio::time::timeout(limit, run).await {
        Ok(Ok((0, _))) => Ok(Ok(())),
        Ok(Ok((code, said))) => {
            let said = String::from_utf8_lossy(&said);
            Ok(Err(format!("{argv:?} exited with {code}: {}", said.trim())))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            // The child was not waited for, so the group's id is still its own.
            if let Some(group) = group
                && let Err(error) =
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
            {
                tracing::debug!(%error, "a probe that took too long could not be killed");
            }
            Ok(Err(format!("{argv:?} took longer than {} ms", limit.as_millis())))
        }
    }
}

/// Why a command did not start.
enum NotStarted {
    /// The program is not there or cannot be run.
    Program(String, io::Error),
    /// Nothing can be run so in the instance.
    Instance(RuntimeError),
}

fn spawn(
    place: &Place,
    spec: &InstanceSpec,
    argv: &[String],
    input: Stdio,
) -> Result<(tokio::process::Child, String), NotStarted> {
    let cannot = |detail: String| NotStarted::Instance(RuntimeError::CannotRun { detail });
    let (program, arguments) =
        argv.split_first().ok_or_else(|| cannot("there is no command".to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment::variables(spec))
        .current_dir(place.at("data"))
        .process_group(0)
        .kill_on_drop(true)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let user = spec.workload.user.as_deref().unwrap_or_default();
    if let Some(User { uid, gid }) = environment::user(user).map_err(cannot)? {
        command.uid(uid).gid(gid);
    }
    match command.spawn() {
        Ok(child) => Ok((child, program.clone())),
        Err(error) => Err(NotStarted::Program(program.clone(), error)),
    }
}

/// A child's input that ends when it is shut down: the pipe has no other way to say so than being closed.
struct Input(Option<ChildStdin>);

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(input) => Pin::new(input).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.as_mut().poll_flush(context);
        if flushed.is_ready() {
            self.0 = None;
        }
        flushed
    }
}

fn chunks(
    from: impl AsyncRead + Unpin + Send + 'static,
    name: OutputStream,
) -> impl Stream<Item = Result<(OutputStream, Bytes), RuntimeError>> + Send + Unpin {
    Box::pin(stream::try_unfold(from, move |mut from| async move {
        let mut buffer = vec![0; 8192];
        let count = from.read(&mut buffer).await.map_err(|error| other(&error.to_string()))?;
        buffer.truncate(count);
        Ok((count > 0).then(|| ((name, Bytes::from(buffer)), from)))
    }))
}

fn code(status: std::process::ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

pub(super) fn other(detail: &str) -> RuntimeError {
    RuntimeError::Other { detail: detail.to_owned() }
}

/// The reason behind an error of the operating system.
pub(super) fn reason(error: &io::Error) -> RuntimeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            RuntimeError::DiskFull { detail: error.to_string() }
        }
        _ => other(&error.to_string()),
    }
}
