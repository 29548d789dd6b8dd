//! Founding a cluster on this machine, and taking it down.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use proto_core::api::ErrorBody;
use proto_core::api::views::{ShutdownRequest, StartedView, StatusView, Workloads};
use proto_core::id::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::args::{DataDir, DevCommand, FoundArgs, Runtime};
use crate::client::Client;
use crate::failure::{DAEMON, Failure, OK, REFUSED};
use crate::out::Out;
use crate::{paths, render};

/// How long a daemon and what it starts may take to run.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to end: every instance has its grace period.
const ENDING: Duration = Duration::from_secs(120);
/// Between two looks at a daemon that starts.
const LOOK: Duration = Duration::from_millis(100);
/// Where Docker listens.
const DOCKER: &str = "/var/run/docker.sock";

/// `dev …`.
pub(crate) async fn dev(
    client: &Client,
    out: Out,
    command: Option<DevCommand>,
) -> Result<u8, Failure> {
    match command.unwrap_or(DevCommand::Up { found: FoundArgs::default() }) {
        DevCommand::Up { found } => up(client, out, &found).await,
        DevCommand::Status => crate::status(client, out).await,
        DevCommand::Down { dir } => {
            let home = Home::of(&dir);
            if down(client, out, &home, Workloads::Stop).await? {
                out.remark("everything is stopped; what is on disk stays. `ployzctl dev up` starts it again");
            }
            Ok(OK)
        }
        DevCommand::Destroy { dir, force } => destroy(client, out, &Home::of(&dir), force).await,
    }
}

/// `mesh init`.
pub(crate) async fn init(
    client: &Client,
    out: Out,
    name: &Namespace,
    found: &FoundArgs,
) -> Result<u8, Failure> {
    let home = Home::of(&found.dir);
    if home.is_founded() {
        let message = format!("there is a cluster in {} already", home.dir.display());
        let error = ErrorBody::new("CLUSTER_EXISTS", message).next("ployzctl dev up");
        return Err(Failure::new(REFUSED, error));
    }
    // A daemon that answers here belongs to another directory; a second one cannot have its socket.
    if client.answers("/v1/status").await.is_ok() {
        let message = format!("another daemon listens at {}", client.socket().display());
        let error = ErrorBody::new("SOCKET_TAKEN", message).next("ployzctl status");
        return Err(Failure::new(REFUSED, error));
    }
    home.found(client, out, name, found).await?;
    let status = home.start(client, out).await?;
    out.document(&status, render::status::status)?;
    Ok(OK)
}

async fn up(client: &Client, out: Out, found: &FoundArgs) -> Result<u8, Failure> {
    let home = Home::of(&found.dir);
    if client.answers("/v1/status").await.is_ok() {
        out.remark("the daemon runs already");
        start_instances(client, out).await?;
        return crate::status(client, out).await;
    }
    if !home.is_founded() {
        let name = Namespace::new("dev").expect("a name");
        return init(client, out, &name, found).await;
    }
    home.start(client, out).await?;
    start_instances(client, out).await?;
    crate::status(client, out).await
}

/// Starts the instances that `dev down` stopped, and says which.
async fn start_instances(client: &Client, out: Out) -> Result<(), Failure> {
    let view: StartedView = client.post("/v1/instances/start", &serde_json::json!({})).await?;
    for at in view.started {
        let (namespace, service, slot) = (at.namespace, at.service, at.slot);
        out.remark(format_args!("{namespace}/{service}/{slot} is started ({})", at.instance));
    }
    let Some(first) = view.failed.first() else { return Ok(()) };
    let told = view.failed.iter().map(|failed| {
        let at = &failed.instance;
        format!("{}/{}/{}: {}", at.namespace, at.service, at.slot, failed.reason)
    });
    let message =
        format!("not every instance starts again: {}", told.collect::<Vec<_>>().join("; "));
    let next = format!("ployzctl restart {}/{}", first.instance.namespace, first.instance.service);
    Err(Failure::new(DAEMON, ErrorBody::new("INSTANCES_NOT_STARTED", message).next(next)))
}

/// Stops everything, and removes the instances if that is wanted; false if there is nothing.
async fn down(
    client: &Client,
    out: Out,
    home: &Home,
    workloads: Workloads,
) -> Result<bool, Failure> {
    let status = match client.get::<StatusView>("/v1/status").await {
        Ok(status) => status,
        Err(Failure::Error { error, .. }) if error.code == "DAEMON_AWAY" => {
            if !home.is_founded() {
                out.remark(format_args!("there is no cluster in {}", home.dir.display()));
                return Ok(false);
            }
            // What it started may run on without it, and only a daemon knows what that is.
            out.remark("the daemon is away; it is started to take down what may run without it");
            home.start(client, out).await?
        }
        Err(other) => return Err(other),
    };
    // Opened while it runs: its number cannot have gone to another process.
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let Some(Ok(process)) = process else {
        let message =
            format!("the daemon says that it is process {}, which is not there", status.pid);
        let error = ErrorBody::new("DAEMON_ELSEWHERE", message).next("ployzctl status");
        return Err(Failure::new(DAEMON, error));
    };
    let request = ShutdownRequest { data_plane: true, workloads };
    let _: serde_json::Value = client.post("/v1/shutdown", &request).await?;
    let ended = tokio::task::spawn_blocking(move || ended(&process)).await;
    if !matches!(ended, Ok(true)) {
        let message = format!("the daemon has not ended within {} s", ENDING.as_secs());
        let error = ErrorBody::new("DAEMON_RUNS_ON", message);
        return Err(Failure::new(DAEMON, error.next("ployzctl events")));
    }
    // The last thing that a daemon does which has taken everything down.
    if client.socket().exists() {
        let message = "the daemon ended before everything was taken down".to_owned();
        return Err(home.failed("DOWN_INCOMPLETE", message));
    }
    Ok(true)
}

/// Waits until the process ends; false if it does not.
fn ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let patience =
        Timespec { tv_sec: i64::try_from(ENDING.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&patience)), Ok(1))
}

async fn destroy(client: &Client, out: Out, home: &Home, force: bool) -> Result<u8, Failure> {
    if !home.is_founded() {
        out.remark(format_args!("there is no cluster in {}", home.dir.display()));
        return Ok(OK);
    }
    let dir = home.dir.display();
    out.confirm(
        &format!("Stop everything and remove {dir} with all that is in it?"),
        &format!("ployzctl dev destroy --data-dir {dir}"),
    )?;
    match down(client, out, home, Workloads::Remove).await {
        Ok(_) => {}
        Err(Failure::Error { error, .. }) if force => {
            out.remark(format_args!("what runs may run on: {}", error.message));
        }
        Err(Failure::Error { error, exit }) => {
            let next = format!("ployzctl dev destroy --force --data-dir {dir}");
            return Err(Failure::new(exit, error.next(next)));
        }
        Err(other) => return Err(other),
    }
    std::fs::remove_dir_all(&home.dir)
        .map_err(|error| Failure::file("remove", &home.dir, &error))?;
    out.remark(format_args!("{dir} is removed"));
    Ok(OK)
}

/// A cluster's directory.
#[derive(Debug)]
struct Home {
    dir: PathBuf,
}

impl Home {
    fn of(args: &DataDir) -> Self {
        let dir = args.data_dir.clone().unwrap_or_else(paths::data_dir);
        // The daemon that is started keeps the path; it must not depend on where this program was called.
        Self { dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("ployzd.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("ployzd.log")
    }

    fn is_founded(&self) -> bool {
        self.config().exists()
    }

    /// `ployzd init`: writes the configuration.
    async fn found(
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
        option("--nats-port", found.nats_port.map(|port| port.to_string()));
        let output = command.stdin(Stdio::null()).output().map_err(|e| cannot_run(&command, &e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut error =
            ErrorBody::new("INIT_FAILED", format!("`ployzd init` ended with {}", output.status));
        error.logs = last_lines(&said);
        Err(Failure::new(DAEMON, error.next("ployzctl mesh init --help")))
    }

    /// Starts the daemon, which outlives this program, and waits until all of it runs.
    async fn start(&self, client: &Client, out: Out) -> Result<StatusView, Failure> {
        let mut child = self.spawn()?;
        let spinner = out.moving.then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.set_message("starting");
            spinner.enable_steady_tick(LOOK);
        }
        let started = self.wait(client, &mut child).await;
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

    async fn wait(&self, client: &Client, child: &mut Child) -> Result<StatusView, Failure> {
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
            if let Ok(Some(status)) = child.try_wait() {
                let message = format!("ployzd ended with {status} instead of running");
                return Err(self.failed("DAEMON_ENDED", message));
            }
            if Instant::now() >= until {
                let message = format!("not everything runs after {} s: {last}", PATIENCE.as_secs());
                return Err(self.failed("DAEMON_NOT_READY", message));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn failed(&self, code: &str, message: String) -> Failure {
        let mut error =
            ErrorBody::new(code, message).next(format!("less {}", self.log().display()));
        // Without its log the error says less, and is the same error.
        error.logs = std::fs::read(self.log())
            .map(|bytes| last_lines(&String::from_utf8_lossy(&bytes)))
            .unwrap_or_default();
        Failure::new(DAEMON, error)
    }
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
