//! The directory of a cluster, and the daemon that runs on it.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use proto_core::api::ErrorBody;
use proto_core::api::views::StatusView;
use proto_core::id::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::args::{DataDir, FoundArgs, Runtime};
use crate::client::Client;
use crate::failure::{DAEMON, Failure, REFUSED};
use crate::out::Out;
use crate::paths;
use crate::recorded::{Daemon, Turn};

/// How long a daemon and what it starts may take to run.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a daemon that runs may take to listen.
const LISTENING: Duration = Duration::from_secs(5);
/// How long it may take to end: every instance has its grace period.
const ENDING: Duration = Duration::from_secs(120);
/// Between two looks at a daemon that starts.
const LOOK: Duration = Duration::from_millis(100);
/// Where Docker listens.
const DOCKER: &str = "/var/run/docker.sock";

/// A cluster's directory.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
}

impl Home {
    pub(crate) fn of(args: &DataDir) -> Self {
        let named = args.data_dir.clone().filter(|dir| !dir.as_os_str().is_empty());
        let dir = named.unwrap_or_else(paths::data_dir);
        // The daemon that is started keeps the path; it must not depend on where this program was called.
        Self { dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("ployzd.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("ployzd.log")
    }

    pub(crate) async fn turn(&self, out: Out) -> Result<Turn, Failure> {
        let taken = Turn::take(&self.dir, out).await;
        taken.map_err(|error| Failure::file("make", &self.dir, &error))?.ok_or_else(|| {
            let dir = self.dir.display();
            let message = format!("another ployzctl starts or stops the cluster in {dir}");
            Failure::new(REFUSED, ErrorBody::new("CLUSTER_BUSY", message).next("ployzctl status"))
        })
    }

    /// Whether a daemon is there and has something to say.
    pub(crate) async fn answers(&self, client: &Client) -> Result<bool, Failure> {
        client.fits()?;
        match client.answers("/v1/status").await {
            Err(silent) if is_silence(&silent) => Err(self.silent(silent, "up")),
            answer => Ok(answer.is_ok()),
        }
    }

    /// Whether a daemon runs on this directory and listens where it is asked.
    pub(crate) async fn daemon_listens(&self, client: &Client) -> Result<bool, Failure> {
        let until = Instant::now() + LISTENING;
        while let Some(daemon) = Daemon::of(&self.dir) {
            match client.answers("/v1/status").await {
                Err(Failure::Error { error, .. }) if error.code == "DAEMON_AWAY" => {}
                Err(silent) if is_silence(&silent) => return Err(self.silent(silent, "up")),
                _ => return Ok(true),
            }
            if Instant::now() >= until {
                return Err(self.unreachable(client, &daemon));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(false)
    }

    fn unreachable(&self, client: &Client, daemon: &Daemon) -> Failure {
        let (dir, pid, socket) = (self.dir.display(), daemon.process.pid, daemon.socket.display());
        let (why, next) = if daemon.socket.exists() && daemon.socket != client.socket() {
            (format!("it listens at {socket}"), format!("ployzctl --socket {socket} status"))
        } else {
            let up = format!("ployzctl --socket {socket} dev up --data-dir {dir}");
            // What it started runs on meanwhile and is adopted.
            (format!("its socket {socket} is gone"), format!("kill {pid}; {up}"))
        };
        let message = format!("the daemon of {dir} runs as process {pid}, and {why}");
        Failure::new(DAEMON, ErrorBody::new("DAEMON_UNREACHABLE", message).next(next))
    }

    /// A daemon that takes connections and does not answer: which process it is, and how another takes its place, with this
    /// subcommand of `dev`.
    pub(crate) fn silent(&self, failure: Failure, then: &str) -> Failure {
        let Some(daemon) = Daemon::of(&self.dir).filter(|_| is_silence(&failure)) else {
            return failure;
        };
        let (dir, pid, socket) = (self.dir.display(), daemon.process.pid, daemon.socket.display());
        let message = format!("the daemon of {dir}, process {pid}, does not answer at {socket}");
        // What does not answer may not end when it is asked to either. What it started runs on and is adopted.
        let next = format!("kill -9 {pid}; ployzctl --socket {socket} dev {then} --data-dir {dir}");
        Failure::new(DAEMON, ErrorBody::new("DAEMON_SILENT", message).next(next))
    }

    /// Ends a daemon and waits for its end.
    pub(crate) async fn end(&self, daemon: &Daemon, by: Signal) -> Result<(), Failure> {
        match daemon.end(by) {
            Some(process) => self.wait_for_end(process).await,
            None if Daemon::of(&self.dir).is_none() => Ok(()),
            None => {
                let pid = daemon.process.pid;
                let message = format!("the daemon, process {pid}, is another user's");
                let error = ErrorBody::new("DAEMON_FORBIDDEN", message);
                Err(Failure::new(DAEMON, error.next(format!("sudo kill {pid}"))))
            }
        }
    }

    pub(crate) async fn wait_for_end(&self, process: OwnedFd) -> Result<(), Failure> {
        let ended = tokio::task::spawn_blocking(move || ended(&process)).await;
        if matches!(ended, Ok(true)) {
            return Ok(());
        }
        let message = format!("the daemon has not ended within {} s", ENDING.as_secs());
        let error = ErrorBody::new("DAEMON_RUNS_ON", message);
        Err(Failure::new(DAEMON, error.next("ployzctl events")))
    }

    /// `ployzd check`: whether a daemon could start. What cannot be asked is left to its start.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut command = ployzd();
        command.arg("check").arg("--config").arg(self.config()).stdin(Stdio::null());
        let output = command.output().map_err(|error| cannot_run(&command, &error))?;
        refused(&output).map_or(Ok(()), Err)
    }

    /// Whether there is a cluster. What this user may not see may well be there.
    pub(crate) fn is_founded(&self) -> Result<bool, Failure> {
        let config = self.config();
        config.try_exists().map_err(|error| Failure::file("look for", &config, &error))
    }

    /// `ployzd init`: writes the configuration.
    pub(crate) async fn found(
        &self,
        client: &Client,
        out: Out,
        name: &Namespace,
        found: &FoundArgs,
    ) -> Result<(), Failure> {
        let (runtime, why) = match found.runtime {
            Some(runtime) => (runtime, "as asked for".to_owned()),
            None => choose_runtime().await,
        };
        out.remark(format_args!("runtime {}: {why}", runtime.as_str()));
        let mut command = ployzd();
        command.arg("init").arg("--name").arg(name.as_str()).arg("--data-dir").arg(&self.dir);
        command.arg("--runtime").arg(runtime.as_str()).arg("--socket").arg(client.socket());
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        };
        option("--gateway-listen", found.gateway_listen.map(|at| at.to_string()));
        option("--dns-listen", found.dns_listen.map(|at| at.to_string()));
        option("--subnet", found.subnet.map(|base| base.to_string()));
        option("--nats-port", found.nats_port.map(|port| port.to_string()));
        let output = command.stdin(Stdio::null()).output().map_err(|e| cannot_run(&command, &e))?;
        if output.status.success() {
            return Ok(());
        }
        if let Some(refused) = refused(&output) {
            return Err(refused);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut error =
            ErrorBody::new("INIT_FAILED", format!("`ployzd init` ended with {}", output.status));
        error.logs = last_lines(&said);
        Err(Failure::new(DAEMON, error.next("ployzctl mesh init --help")))
    }

    /// Starts the daemon, which outlives this program, and waits until all of it runs.
    pub(crate) async fn start(&self, client: &Client, out: Out) -> Result<StatusView, Failure> {
        let log_from = std::fs::metadata(self.log()).map_or(0, |log| log.len());
        let mut child = match self.daemon_listens(client).await? {
            true => None,
            false => Some(self.spawn()?),
        };
        let spinner = out.moving.then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.set_message("starting");
            spinner.enable_steady_tick(LOOK);
        }
        let started = self.wait(client, child.as_mut(), log_from).await;
        if let Some(spinner) = &spinner {
            spinner.finish_and_clear();
        }
        started
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let log = self.log();
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|error| Failure::file("write", &log, &error))?;
        let twin = file.try_clone().map_err(|error| Failure::file("write", &log, &error))?;
        let mut command = ployzd();
        command.arg("run").arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        own_session(&mut command);
        command.spawn().map_err(|error| cannot_run(&command, &error))
    }

    async fn wait(
        &self,
        client: &Client,
        mut child: Option<&mut Child>,
        log_from: u64,
    ) -> Result<StatusView, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let last = match client.get::<StatusView>("/v1/status").await {
                Ok(status) => match lacking(&status) {
                    nothing if nothing.is_empty() => return Ok(status),
                    lacking => lacking,
                },
                Err(Failure::Error { error, .. }) => error.message,
                Err(other) => return Err(other),
            };
            if let Some(own) = child.as_mut()
                && let Ok(Some(status)) = own.try_wait()
            {
                // Somebody else's was faster.
                if !self.daemon_listens(client).await? {
                    let message = format!("ployzd ended with {status} instead of running");
                    return Err(self.failed("DAEMON_ENDED", message, log_from));
                }
                child = None;
            }
            if Instant::now() >= until {
                let message = format!("not everything runs after {} s: {last}", PATIENCE.as_secs());
                return Err(self.failed("DAEMON_NOT_READY", message, log_from));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// With the last lines of the log after its first `log_from` bytes, which are of earlier starts.
    pub(crate) fn failed(&self, code: &str, message: String, log_from: u64) -> Failure {
        let mut error =
            ErrorBody::new(code, message).next(format!("less {}", self.log().display()));
        // Without its log the error says less, and is the same error.
        error.logs = std::fs::read(self.log())
            .map(|bytes| {
                let from = usize::try_from(log_from).unwrap_or(usize::MAX).min(bytes.len());
                last_lines(&String::from_utf8_lossy(&bytes[from..]))
            })
            .unwrap_or_default();
        Failure::new(DAEMON, error)
    }
}

fn is_silence(failure: &Failure) -> bool {
    matches!(failure, Failure::Error { error, .. } if error.code == "DAEMON_SILENT")
}

/// What is still missing until everything runs and serves, in words; empty: nothing.
fn lacking(status: &StatusView) -> String {
    let why = |detail: &Option<String>| {
        detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
    };
    let store = &status.store;
    let away =
        (!store.reachable).then(|| format!("the store does not answer{}", why(&store.detail)));
    let components = status.components.iter().filter_map(|component| {
        // The store's server has nothing to apply; the others are there to serve what is committed.
        let serves = component.name == "nats" || component.applied.is_some() && !component.stale;
        let is = match component.state.as_str() {
            "running" if serves => return None,
            "running" => "behind",
            state => state,
        };
        Some(format!("{} is {is}{}", component.name, why(&component.detail)))
    });
    away.into_iter().chain(components).collect::<Vec<_>>().join("; ")
}

/// Docker if this program may use it and it answers; why.
async fn choose_runtime() -> (Runtime, String) {
    if !paths::is_root() {
        return (Runtime::Process, "containers need root, and this is a user's cluster".to_owned());
    }
    let docker = Client::new(PathBuf::from(DOCKER), Duration::from_secs(2));
    match docker.answers("/_ping").await {
        Ok(()) => (Runtime::Docker, format!("the Docker engine answers at {DOCKER}")),
        Err(_) => (Runtime::Process, format!("no Docker engine answers at {DOCKER}")),
    }
}

/// `ployzd` beside this program, otherwise the one in `PATH`.
fn ployzd() -> Command {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("ployzd"));
    Command::new(beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("ployzd")))
}

/// A session of its own: neither what is typed at this terminal nor its end reaches it.
#[allow(unsafe_code)]
fn own_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// What `ployzd` refused, in its own words.
fn refused(output: &std::process::Output) -> Option<Failure> {
    let said = serde_json::from_slice::<ErrorBody>(&output.stdout).ok();
    said.filter(|_| !output.status.success()).map(|error| Failure::new(REFUSED, error))
}

fn cannot_run(command: &Command, error: &std::io::Error) -> Failure {
    let program = Path::new(command.get_program()).display();
    let message = format!("cannot run {program}: {error}; it is wanted beside ployzctl or in PATH");
    let error = ErrorBody::new("PLOYZD_MISSING", message).next("command -v ployzd");
    Failure::new(DAEMON, error)
}

fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Waits until the process ends; false if it does not.
fn ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let patience =
        Timespec { tv_sec: i64::try_from(ENDING.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&patience)), Ok(1))
}
