use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::LogsOptionsBuilder;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use proto_core::id::InstanceName;
use proto_core::runtime::RuntimeError;

use super::error::{Answer, Trouble, looking, mutating, of_start, status};
use super::{Docker, PROMPT, observe};
use crate::runtime::{Exec, LogLine, LogLines, OutputStream};

/// How much of a failed probe's output becomes part of the reason.
const PROBE_OUTPUT: usize = 512;

impl Docker {
    /// What an instance wrote: the last `tail` lines (`None`: all that is kept), and with `follow` what it writes from then on, until
    /// it stops.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`], or that the engine is away.
    pub async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError> {
        let id = self.ours(instance).await.map_err(reading)?;
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(follow)
            .tail(&tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()))
            .build();
        let client = self.client(PROMPT).await.map_err(reading)?;
        let lines = client.logs(&id, Some(options));
        Ok(lines
            .map(|output| match output {
                Ok(output) => Ok(line(&output)),
                Err(error) => Err(reading(looking(error))),
            })
            .boxed())
    }

    /// The last `tail` lines as text.
    pub(super) async fn tail(&self, instance: &InstanceName, tail: u32) -> Answer<Vec<String>> {
        let lines = self.logs(instance, Some(tail), false).await.map_err(Trouble::Failed)?;
        lines.map_ok(|line| line.text).try_collect().await.map_err(Trouble::Failed)
    }

    /// Runs a command in an instance's container.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`], [`RuntimeError::CannotRun`] (if the instance does not run), or that the engine is away. A program
    /// that is not there ends with exit code 127, one that cannot be run with 126.
    pub async fn exec(
        &self,
        instance: &InstanceName,
        argv: &[String],
        tty: bool,
    ) -> Result<Exec, RuntimeError> {
        let program = argv.first().map_or("", String::as_str);
        match self.exec_in(instance, argv, tty, true).await {
            Ok((_, exec)) => Ok(translated(exec, program)),
            Err(Trouble::Failed(RuntimeError::CannotRun { detail })) => match no_program(&detail) {
                Some(missing) => Ok(Exec::not_started(program, missing)),
                None => Err(RuntimeError::CannotRun { detail }),
            },
            Err(trouble) => Err(reading(trouble)),
        }
    }

    /// Starts a command; the engine's id of it comes with it.
    async fn exec_in(
        &self,
        instance: &InstanceName,
        argv: &[String],
        tty: bool,
        input: bool,
    ) -> Answer<(String, Exec)> {
        let container = self.ours(instance).await?;
        let client = self.client(PROMPT).await?;
        let options = CreateExecOptions {
            attach_stdin: Some(input),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(argv.to_vec()),
            ..CreateExecOptions::default()
        };
        let refused = |status, text: &str| match status {
            404 => RuntimeError::NoSuchInstance { instance: instance.clone() },
            409 => RuntimeError::CannotRun { detail: format!("{instance} does not run") },
            _ => of_start(text),
        };
        let id = client
            .create_exec(&container, options)
            .await
            .map_err(|error| mutating(error, refused))?
            .id;
        let started = client
            .start_exec(&id, Some(StartExecOptions { detach: false, tty, output_capacity: None }))
            .await
            .map_err(|error| mutating(error, refused))?;
        let StartExecResults::Attached { output, input } = started else {
            unreachable!("bollard detaches only if asked to");
        };
        let output = output
            .map(|output| match output {
                Ok(output) => Ok((stream(&output), output.into_bytes())),
                Err(error) => Err(reading(looking(error))),
            })
            .boxed();
        let asked = id.clone();
        let exit = async move {
            let command =
                client.inspect_exec(&asked).await.map_err(|error| reading(looking(error)))?;
            let code = command.exit_code.filter(|_| command.running != Some(true));
            code.and_then(|code| i32::try_from(code).ok()).ok_or_else(|| RuntimeError::Other {
                detail: "the command closed its output and still runs".to_owned(),
            })
        }
        .boxed();
        let input: Pin<Box<dyn tokio::io::AsyncWrite + Send>> = input;
        Ok((id, Exec { output, input, exit }))
    }

    /// Runs a command as a probe; one that takes too long is killed.
    pub(super) async fn probe_exec(
        &self,
        instance: &InstanceName,
        command: &[String],
        limit: Duration,
    ) -> Answer<Result<(), String>> {
        let (id, mut exec) = match self.exec_in(instance, command, false, false).await {
            Ok(started) => started,
            Err(Trouble::Failed(RuntimeError::CannotRun { detail })) => return Ok(Err(detail)),
            // A probe changes nothing that counts: whether it ran is worth no "unknown".
            Err(Trouble::Unknown) => return Ok(Err("the engine did not answer".to_owned())),
            Err(trouble) => return Err(trouble),
        };
        let run = async {
            let mut said = Vec::new();
            while let Some((_, bytes)) = exec.output.try_next().await? {
                said.extend(bytes);
                said.drain(..said.len().saturating_sub(PROBE_OUTPUT));
            }
            Ok((exec.exit.await?, said))
        };
        match tokio::time::timeout(limit, run).await {
            Ok(Ok((0, _))) => Ok(Ok(())),
            Ok(Ok((code, said))) => {
                let said = String::from_utf8_lossy(&said);
                Ok(Err(format!("{command:?} exited with {code}: {}", said.trim())))
            }
            Ok(Err(error)) => Err(Trouble::Failed(error)),
            Err(_) => {
                self.kill_exec(&id).await?;
                Ok(Err(format!("{command:?} took longer than {} ms", limit.as_millis())))
            }
        }
    }

    /// Kills a command that was started by `exec`. The engine has no request for it, so this goes to the process itself, if it is
    /// visible from here and still in the container.
    async fn kill_exec(&self, id: &str) -> Answer<()> {
        let command = match self.client(PROMPT).await?.inspect_exec(id).await {
            Ok(command) => command,
            Err(error) if status(&error) == Some(404) => return Ok(()),
            Err(error) => return Err(looking(error)),
        };
        let pid = command
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(rustix::process::Pid::from_raw);
        let (Some(pid), Some(container)) = (pid, command.container_id) else { return Ok(()) };
        // The descriptor first, the check second: so the process that is checked is the one that is killed.
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        else {
            return Ok(());
        };
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
        if groups.is_ok_and(|groups| groups.contains(&container)) {
            let killed =
                rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
            if let Err(error) = killed {
                tracing::debug!(%error, "a probe that took too long could not be killed");
            }
        }
        Ok(())
    }
}

/// Whether these words of the engine say that a program is not there (true), or cannot be run (false); `None` if something else.
fn no_program(words: &str) -> Option<bool> {
    const MISSING: [&str; 2] = ["executable file not found", "no such file or directory"];
    const UNFIT: [&str; 3] = ["permission denied", "is a directory", "exec format error"];
    let says = |texts: &[&str]| texts.iter().any(|part| words.contains(part));
    // A user that is not there is told with "no such file" too.
    let of_program = words.contains("exec: ") || words.contains("exec /");
    (of_program && (says(&MISSING) || says(&UNFIT))).then(|| says(&MISSING))
}

/// Some engines start a command that cannot be, put into its output why, and end it with 126 whatever it was.
fn translated(exec: Exec, program: &str) -> Exec {
    let program = program.to_owned();
    let told = Arc::new(OnceLock::new());
    let tells = Arc::clone(&told);
    let output = exec.output.map_ok(move |(stream, bytes)| {
        let words = String::from_utf8_lossy(&bytes);
        let missing = words.starts_with("OCI runtime exec failed: ").then(|| no_program(&words));
        match missing.flatten() {
            Some(missing) => {
                tells.get_or_init(|| missing);
                (OutputStream::Stderr, Exec::why(&program, missing))
            }
            None => (stream, bytes),
        }
    });
    let exit =
        exec.exit.map_ok(move |code| told.get().map_or(code, |missing| Exec::code_of(*missing)));
    Exec { output: output.boxed(), exit: exit.boxed(), ..exec }
}

/// Trouble with something whose repetition is harmless: a lost answer is only an engine that is away.
fn reading(trouble: Trouble) -> RuntimeError {
    match trouble {
        Trouble::Failed(error) => error,
        Trouble::Unknown => {
            RuntimeError::Unavailable { detail: "the engine's answer was lost".to_owned() }
        }
    }
}

fn stream(output: &LogOutput) -> OutputStream {
    match output {
        LogOutput::StdErr { .. } => OutputStream::Stderr,
        LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => {
            OutputStream::Stdout
        }
    }
}

fn line(output: &LogOutput) -> LogLine {
    let bytes: &[u8] = output.as_ref();
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    // Each line comes with its time in front, since it is asked for.
    let (stamp, rest) = text.split_once(' ').unwrap_or((text, ""));
    let time = observe::time(stamp);
    let text = if time.is_some() { rest } else { text };
    LogLine { stream: stream(output), text: text.to_owned(), time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_cannot_be_run() {
        let failed = "OCI runtime exec failed: exec failed: unable to start container process: ";
        for (words, missing) in [
            ("exec: \"nope\": executable file not found in $PATH: unknown", Some(true)),
            ("exec: \"/nope\": stat /nope: no such file or directory: unknown", Some(true)),
            ("exec: \"/etc/passwd\": permission denied: unknown", Some(false)),
            ("exec: \"/etc\": is a directory: unknown", Some(false)),
            ("exec /x: exec format error", Some(false)),
            ("unable to find user nobody1: no matching entries in passwd file", None),
            ("web-0 does not run", None),
        ] {
            assert_eq!(no_program(&format!("{failed}{words}")), missing, "{words}");
        }
    }

    #[tokio::test]
    async fn the_engine_s_own_words_do_not_stand_in_the_output() {
        let said = |text: &'static str| {
            let bytes = bytes::Bytes::from(text);
            let output = futures::stream::iter([Ok((OutputStream::Stdout, bytes))]).boxed();
            Exec {
                output,
                input: Box::pin(tokio::io::sink()),
                exit: futures::future::ready(Ok(126)).boxed(),
            }
        };
        let oci = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown\r\n";
        for (text, stream, line, code) in [
            (oci, OutputStream::Stderr, "nope: there is no such program\n", 127),
            ("ok\n", OutputStream::Stdout, "ok\n", 126),
        ] {
            let exec = translated(said(text), "nope");
            let all: Vec<_> = exec.output.try_collect().await.unwrap();
            assert_eq!(all, [(stream, bytes::Bytes::from(line))]);
            assert_eq!(exec.exit.await, Ok(code));
        }
    }
}
