use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal,
};
use serde::{Deserialize, Serialize};

use super::readiness::readable;

/// Which process: a pid alone is given to another process some day, and all of them are after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: u32,
    /// When it was started, in clock ticks since the boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
    /// The boot that it belongs to.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the process that has this pid now; `None` if there is none, or only one that has ended and was not waited for.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let Some(start_time) = start_time(pid)? else { return Ok(None) };
        Ok(Some(Self { pid, start_time, boot_id: boot_id()? }))
    }

    /// The identity of the process that this is.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())?
            .ok_or_else(|| io::Error::other("/proc does not show this process"))
    }
}

/// Whether exactly this process still runs. One that has ended counts as ended even if its parent has not waited for it.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn is_alive(identity: &ProcessIdentity) -> io::Result<bool> {
    Ok(start_time(identity.pid)? == Some(identity.start_time) && boot_id()? == identity.boot_id)
}

/// Returns when the process has ended; at once if it has already. Costs nothing while it waits.
///
/// # Errors
///
/// If `/proc` cannot be read or the process cannot be watched.
pub async fn exit_watch(identity: &ProcessIdentity) -> io::Result<()> {
    if let Some(process) = handle(identity)? {
        readable(process)?.readable().await?.retain_ready();
    }
    Ok(())
}

/// Ends a process and, if it leads one, its process group: SIGTERM, after `grace` SIGKILL. Returns when the process has ended.
///
/// # Errors
///
/// If `/proc` cannot be read or the signal is not permitted.
pub async fn terminate(identity: &ProcessIdentity, grace: Duration) -> io::Result<()> {
    let identity = identity.clone();
    tokio::task::spawn_blocking(move || terminate_blocking(&identity, grace))
        .await
        .map_err(io::Error::other)?
}

pub(super) fn terminate_blocking(identity: &ProcessIdentity, grace: Duration) -> io::Result<()> {
    let Some(process) = handle(identity)? else { return Ok(()) };
    for (signal, limit) in [(Signal::TERM, Some(grace)), (Signal::KILL, None)] {
        send(identity, &process, signal)?;
        if wait(&process, limit)? {
            break;
        }
    }
    Ok(())
}

/// Waits for the end of a process, up to `limit`; says whether it has ended.
pub(super) fn wait_blocking(identity: &ProcessIdentity, limit: Duration) -> io::Result<bool> {
    match handle(identity)? {
        Some(process) => wait(&process, Some(limit)),
        None => Ok(true),
    }
}

/// A descriptor of exactly this process, `None` if it has ended.
pub(super) fn handle(identity: &ProcessIdentity) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = pid(identity) else { return Ok(None) };
    let process = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Checked after it was opened, so that what was checked is what is held.
    Ok(is_alive(identity)?.then_some(process))
}

pub(super) fn pid(identity: &ProcessIdentity) -> Option<Pid> {
    Pid::from_raw(i32::try_from(identity.pid).ok()?)
}

/// Whether the process ended within `limit`.
fn wait(process: &OwnedFd, limit: Option<Duration>) -> io::Result<bool> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn send(identity: &ProcessIdentity, process: &OwnedFd, signal: Signal) -> io::Result<()> {
    let leads = |pid: &Pid| getpgid(Some(*pid)).is_ok_and(|group| group == *pid);
    let sent = match pid(identity).filter(leads) {
        // While the process that `process` holds has not been waited for, its pid and so its group are its own.
        Some(group) => kill_process_group(group, signal),
        None => pidfd_send_signal(process, signal),
    };
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// When the process with this pid was started, `None` if there is no such process or it has ended.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // ESRCH: it went away between the opening and the reading.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    parse_stat(&stat)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be read: {stat:?}")))
}

/// Field 22, or `Some(None)` if the state (field 3) is that of one that has ended. The name, field 2, may hold anything, also
/// parentheses and blanks, so fields count from its last parenthesis.
fn parse_stat(stat: &str) -> Option<Option<u64>> {
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((!matches!(state, "Z" | "X" | "x")).then_some(start_time))
}

fn boot_id() -> io::Result<String> {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot.clone());
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT.get_or_init(|| boot).clone())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 9 9";
        assert_eq!(parse_stat(&format!("7 (a) b (c)) S {tail}")), Some(Some(777)));
        assert_eq!(parse_stat(&format!("7 (x) Z {tail}")), Some(None));
        assert_eq!(parse_stat("7 (x) S 1 2"), None);
    }

    #[test]
    fn a_reused_pid_and_another_boot_are_nobodys() {
        let own = ProcessIdentity::own().unwrap();
        assert!(is_alive(&own).unwrap());
        let earlier = ProcessIdentity { start_time: own.start_time - 1, ..own.clone() };
        let before = ProcessIdentity { boot_id: "another".to_owned(), ..own };
        for other in [earlier, before] {
            assert!(!is_alive(&other).unwrap());
            assert!(handle(&other).unwrap().is_none(), "no signal can reach it");
            // This very process would die.
            terminate_blocking(&other, Duration::ZERO).unwrap();
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_without_waiting_for_it_as_a_parent() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), exit_watch(&identity)).await;
        assert!(early.is_err(), "it runs");
        terminate(&identity, Duration::from_secs(5)).await.unwrap();
        exit_watch(&identity).await.unwrap();
        assert!(!is_alive(&identity).unwrap(), "although nobody waited for it");
        child.wait().unwrap();
        exit_watch(&identity).await.unwrap();
    }
}
