use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::process::Command;

use super::{ProcessIdentity, Supervisor};

/// A process that outlives this one: in a session and a process group of its own, so that no signal to ours and no end of our session
/// reaches it. It has its pid, and is not the program yet: nobody can kill the daemon at an instant at which a program runs that is in
/// no record. Write [`Held::identity`] down, then [`release`](Held::release) it.
///
/// Dropped, or if this process is killed, it ends without ever having been the program.
#[derive(Debug)]
pub struct Held {
    identity: ProcessIdentity,
    control: UnixStream,
}

impl Held {
    /// Which process it is, and will be.
    #[must_use]
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Lets it become the program. Blocking, for as long as an `exec` takes.
    ///
    /// # Errors
    ///
    /// If the program cannot be run (nothing is left running then).
    pub fn release(mut self) -> io::Result<ProcessIdentity> {
        let mut why = String::new();
        self.control.write_all(b".")?;
        self.control.read_to_string(&mut why)?;
        if why.is_empty() { Ok(self.identity) } else { Err(io::Error::other(why)) }
    }
}

/// Starts a process that is held back by the `gate` (a program that calls [`super::supervise`]). It gets exactly the environment `env`, no
/// standard input, and appends both outputs to `log_file`.
///
/// Must be called within a tokio runtime, which waits for the process as its parent for as long as it runs.
///
/// # Errors
///
/// If the gate cannot be run, or the log file cannot be opened.
pub fn spawn_detached(
    gate: &Supervisor,
    argv: &[OsString],
    env: &BTreeMap<OsString, OsString>,
    log_file: &Path,
    cwd: &Path,
) -> io::Result<Held> {
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(log_file)?;
    let (control, its_end) = UnixStream::pair()?;
    let mut command = Command::new(&gate.program);
    command
        .args(&gate.arguments)
        // As the user that this process is.
        .args(["gate", ""])
        .args(argv)
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .stdin(OwnedFd::from(its_end))
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn()?;
    // The command holds the gate's end of the pair, whose closing is to be seen.
    drop(command);
    let pid = child.id().ok_or_else(|| io::Error::other("it was waited for already"))?;
    let identity = ProcessIdentity::of(pid);
    reap(child);
    let identity = identity?.ok_or_else(|| io::Error::other("the gate ended at once"))?;
    Ok(Held { identity, control })
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
