use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::ProcessIdentity;

/// Starts a process that outlives this one: in a session and a process group of its own, so that no signal to ours and no end of our
/// session reaches it. It gets exactly the environment `env`, no standard input, and appends both outputs to `log_file`.
///
/// Must be called within a tokio runtime, which waits for the process as its parent for as long as it runs.
///
/// # Errors
///
/// If the program cannot be run (nothing is left running then), or the log file cannot be opened.
pub fn spawn_detached(
    argv: &[OsString],
    env: &BTreeMap<OsString, OsString>,
    log_file: &Path,
    cwd: &Path,
) -> io::Result<ProcessIdentity> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty command"))?;
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(log_file)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    own_session(&mut command);
    let child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("it was waited for already"))?;
    let identity = ProcessIdentity::of(pid);
    reap(child);
    identity?.ok_or_else(|| io::Error::other(format!("{} ended at once", program.display())))
}

/// Waits for a child whenever it ends, so that it does not stay in the process table.
pub(super) fn reap(mut child: tokio::process::Child) {
    tokio::spawn(async move {
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "a child could not be waited for");
        }
    });
}

/// Makes the process the leader of a session of its own before it becomes the program.
#[allow(unsafe_code)]
pub(super) fn own_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::{is_alive, terminate};

    fn env() -> BTreeMap<OsString, OsString> {
        [("WHO".into(), "me".into()), ("PATH".into(), "/usr/bin:/bin".into())].into()
    }

    #[tokio::test]
    async fn it_leads_a_session_of_its_own_and_its_environment_is_what_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = "env | sort | grep -v '^_\\|PWD\\|SHLVL'; pwd; echo ready; exec sleep 1000";
        let argv = ["sh", "-c", script].map(OsString::from);
        let identity = spawn_detached(&argv, &env(), &log, directory.path()).unwrap();
        while !std::fs::read_to_string(&log).unwrap().ends_with("ready\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = rustix::process::Pid::from_raw(identity.pid.cast_signed());
        assert_eq!(rustix::process::getsid(pid).ok(), pid);
        assert_eq!(rustix::process::getpgid(pid).ok(), pid);
        let said = std::fs::read_to_string(&log).unwrap();
        let here = directory.path().display();
        assert_eq!(said, format!("PATH=/usr/bin:/bin\nWHO=me\n{here}\nready\n"));
        assert!(is_alive(&identity).unwrap());
        terminate(&identity, Duration::from_secs(5)).await.unwrap();
        assert!(!is_alive(&identity).unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let argv = ["/no/such/program".into()];
        let error = spawn_detached(&argv, &env(), &directory.path().join("log"), directory.path());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
