//! What a data directory says about the processes that belong to it, whether or not a daemon can be asked.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::out::Out;

/// How long whoever else starts or stops the cluster is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const LOOK: Duration = Duration::from_millis(100);

/// A process by its full identity: a pid that was used again is nobody's.
#[derive(Debug, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    start_time: u64,
    boot_id: String,
}

/// What a daemon writes into its lock.
#[derive(Debug, Deserialize)]
pub(crate) struct Daemon {
    #[serde(flatten)]
    pub(crate) process: Process,
    program: PathBuf,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// The daemon that runs on this directory.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        json::<Self>(&dir.join("ployzd.lock")).filter(Self::runs)
    }

    fn runs(&self) -> bool {
        // Another user's program does not show; the other three say enough. A program that was replaced on disk has a suffix.
        let program = std::fs::read_link(format!("/proc/{}/exe", self.process.pid));
        let same = program.map_or(true, |program| {
            program.to_string_lossy().trim_end_matches(" (deleted)")
                == self.program.to_string_lossy()
        });
        same && self.process.runs()
    }

    /// Ends it, which leaves alone what it started; to wait for its end. `None`: it ended already, or may not be told.
    pub(crate) fn end(&self, by: Signal) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.process.pid).ok()?)?;
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after it was opened: what is looked at is what is held.
        if !self.runs() {
            return None;
        }
        pidfd_send_signal(&held, by).ok().map(|()| held)
    }
}

impl Process {
    fn runs(&self) -> bool {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name, field 2, may hold anything: fields count from its last parenthesis.
        let Some((_, after)) = stat.rsplit_once(") ") else { return false };
        let mut fields = after.split_ascii_whitespace();
        let ended = matches!(fields.next(), Some("Z" | "X" | "x") | None);
        let started = fields.nth(18).and_then(|field| field.parse().ok());
        !ended && started == Some(self.start_time) && boot.trim() == self.boot_id
    }
}

/// What the supervisor of an instance writes.
#[derive(Debug, Deserialize)]
struct Instance {
    supervisor: Process,
    workload: Option<Process>,
}

/// Every process that is recorded in the directory and still runs: daemon, sidecars, supervisors, workloads.
pub(crate) fn running(dir: &Path) -> Vec<u32> {
    let daemon = Daemon::of(dir).map(|daemon| daemon.process);
    let sidecars = below(&dir.join("sidecars")).into_iter().filter_map(|path| json(&path));
    let instances = below(&dir.join("instances")).into_iter();
    let instances = instances.filter_map(|path| json::<Instance>(&path.join("state.json")));
    let instances = instances.flat_map(|found| [Some(found.supervisor), found.workload]).flatten();
    let all = daemon.into_iter().chain(sidecars).chain(instances);
    all.filter(Process::runs).map(|process| process.pid).collect()
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The right to found, start or stop the cluster of a directory; released when the value or the program ends.
#[derive(Debug)]
pub(crate) struct Turn {
    _held: File,
    /// The directory was empty, or not even there.
    pub(crate) fresh: bool,
}

impl Turn {
    /// Makes the directory if need be and waits for whoever else has it; `None` if that takes too long.
    pub(crate) async fn take(dir: &Path, out: Out) -> std::io::Result<Option<Self>> {
        let until = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700).create(dir)?;
            let held = File::open(dir)?;
            if held.try_lock().is_ok() {
                // Whoever had it may have removed it.
                let mine = held.metadata()?;
                let current = std::fs::metadata(dir)
                    .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
                if current {
                    let fresh = std::fs::read_dir(dir)?.next().is_none();
                    return Ok(Some(Self { _held: held, fresh }));
                }
            } else if Instant::now() >= until {
                return Ok(None);
            } else if !told {
                told = true;
                out.remark("another ployzctl starts or stops this cluster; it is waited for");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
