//! A world of its own for a run: networks, processes and mounts that nobody else sees, and that end with it, however it ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Set inside.
const INSIDE: &str = "PLOYZ_BENCH_INSIDE";

/// Whether this process is inside already.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again, with these arguments, in a world of its own, and waits for its end. `None` if it was interrupted.
///
/// # Errors
///
/// Without root.
pub async fn run_again(arguments: Vec<OsString>) -> anyhow::Result<Option<ExitStatus>> {
    ensure!(rustix::process::geteuid().is_root(), "only root can make namespaces");
    // Everything of the run is here: short, as the paths of sockets have a limit of 107 bytes.
    let directory = tempfile::Builder::new().prefix("pb").tempdir()?;
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut child = tokio::process::Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        // The first process of the world: reaps what is left to it.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, "1")
        .env("TMPDIR", directory.path())
        .env("PATH", path)
        .kill_on_drop(true)
        .spawn()
        .context("unshare")?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        status = child.wait() => Some(status?),
        _ = int.recv() => None,
        _ = term.recv() => None,
    };
    // A no-op if it has ended; otherwise all of it goes.
    child.kill().await?;
    Ok(ended)
}

/// What is left to do inside: the network has a loopback device, which is down.
///
/// # Errors
///
/// If `ip` does not do it.
pub fn arrange() -> anyhow::Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(status.success(), "ip link set lo up: {status}");
    Ok(())
}

/// Makes the kernel look for neighbours every 5 ms instead of every second, on every bridge that is there. Whoever asks a container's port
/// before its interface is up would measure that second.
///
/// # Errors
///
/// If the kernel does not let us.
pub(super) fn look_for_neighbours_often() -> anyhow::Result<()> {
    for device in std::fs::read_dir("/proc/sys/net/ipv4/neigh")? {
        std::fs::write(device?.path().join("retrans_time_ms"), "5").context("retrans_time_ms")?;
    }
    Ok(())
}

/// A directory for one part of the run, gone with it.
///
/// # Errors
///
/// If it cannot be made.
pub(super) fn directory(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}
