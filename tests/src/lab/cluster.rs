//! A cluster of one: `ployzd` in a directory and on ports of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use io_adapters::process::{ProcessIdentity, exit_watch};
use proto_core::api::views::{
    DaemonEvent, InstancesView, LeaseView, ShutdownRequest, StatusView, Workloads,
};
use proto_core::api::{OperationRequest, OperationResult, OperationSummary, Submission};
use proto_core::deploy::HostName;
use proto_core::deploy::spec::{
    Manifest, OnFailure, Placement, Replicas, Reservation, Rollout, Route, ServiceSpec, Strategy,
    Topology,
};
use proto_core::id::{Namespace, ServiceName};
use proto_core::runtime::{Network, Probe, Readiness, RestartPolicy, Workload};
use proto_core::span::Span;

use super::client::Api;
use super::ctl::Ctl;
use super::{Parts, RuntimeParts};
use crate::ports;

/// Where the workload is reached.
pub const HOST: &str = "web.lab.test";
/// What the daemon keeps running.
pub(super) const SIDECARS: [&str; 3] = ["nats", "gateway", "dns"];
/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster. [`Cluster::destroy`] ends it.
#[derive(Debug)]
pub struct Cluster {
    /// Where everything of it is.
    pub directory: PathBuf,
    /// The gateway's port.
    pub gateway: u16,
    /// The port of nats-server.
    pub nats: u16,
    parts: Parts,
    daemon: Option<Child>,
}

impl Cluster {
    /// Founds a cluster and starts its daemon.
    ///
    /// # Errors
    ///
    /// If it is not ready within half a minute.
    pub async fn start(parts: &Parts) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("ployz-lab-").tempdir()?.keep();
        Self::start_in(parts, directory).await
    }

    /// The same in this directory.
    ///
    /// # Errors
    ///
    /// If it is not ready within half a minute.
    pub async fn start_in(parts: &Parts, directory: PathBuf) -> anyhow::Result<Self> {
        let [gateway, dns, nats] = ports::free()?;
        let mut command = Command::new(&parts.ployzd);
        command.args(["init", "--name", "lab", "--data-dir"]).arg(&directory);
        command.args(["--gateway-listen", &format!("127.0.0.1:{gateway}")]);
        command.args(["--dns-listen", &format!("127.0.0.1:{dns}")]);
        command.args(["--nats-port", &nats.to_string()]);
        match &parts.runtime {
            RuntimeParts::Process => {
                let first = ports::range(ports::cluster());
                let range = format!("{first}-{}", first + ports::RANGE - 1);
                command.args(["--runtime", "process", "--ports", &range]);
            }
            RuntimeParts::Docker { socket, .. } => {
                command.args(["--runtime", "docker", "--docker-socket"]).arg(socket);
                let number = ports::cluster();
                let subnet = format!("10.{}.{}.0", 102 + number / 250, number % 250);
                command.args(["--subnet", &subnet]);
            }
        }
        let output = command.output().context("ployzd init")?;
        ensure!(
            output.status.success(),
            "ployzd init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut cluster = Self { directory, gateway, nats, parts: parts.clone(), daemon: None };
        if let Err(error) = cluster.run(&[]).await {
            let log = cluster.log_tail();
            let left = cluster.directory.clone();
            drop(cluster.destroy().await);
            return Err(error.context(format!("{}:\n{log}", left.display())));
        }
        Ok(cluster)
    }

    /// Starts the daemon and waits until it says that store and runtime are there.
    ///
    /// # Errors
    ///
    /// If that takes more than half a minute.
    pub async fn run(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        self.spawn(env)?;
        self.ready().await
    }

    /// Starts the daemon.
    ///
    /// # Errors
    ///
    /// If it runs already or cannot be started.
    pub fn spawn(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.parts.ployzd);
        command.envs(env.iter().copied());
        self.spawn_by(command)
    }

    /// Starts the daemon in a network namespace of its own, with its loopback up. Only root may.
    ///
    /// # Errors
    ///
    /// If it runs already or cannot be started.
    pub fn spawn_elsewhere(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("unshare");
        let then = "ip link set lo up && exec \"$0\" \"$@\"";
        command.args(["--net", "sh", "-c", then]).arg(&self.parts.ployzd);
        self.spawn_by(command)
    }

    fn spawn_by(&mut self, mut command: Command) -> anyhow::Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("ployzd.log"))?;
        let child = command
            .args(["run", "--config"])
            .arg(self.directory.join("ployzd.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Runs the daemon until it ends by itself: its exit code and what it said.
    ///
    /// # Errors
    ///
    /// If it does not end within half a minute.
    pub async fn run_to_the_end(&self) -> anyhow::Result<(Option<i32>, String)> {
        let output = tokio::process::Command::new(&self.parts.ployzd)
            .args(["run", "--config"])
            .arg(self.directory.join("ployzd.toml"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.context("it does not end")??;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Waits until the daemon says that store and runtime are there.
    ///
    /// # Errors
    ///
    /// If that takes more than half a minute, or the daemon ends.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if self.events().await.is_ok_and(|all| all.iter().any(|event| event.code == "READY")) {
                return Ok(());
            }
            if let Some(status) = self.daemon.as_mut().context("it is not started")?.try_wait()? {
                bail!("ployzd ended: {status}");
            }
            ensure!(begun.elapsed() < PATIENCE, "ployzd was not ready in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9` of the daemon, and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.daemon.take().context("the daemon does not run")?;
        child.kill()?;
        Ok(child.wait()?)
    }

    /// Whether the daemon was ended by SIGKILL; waits for its end for `within`.
    ///
    /// # Errors
    ///
    /// If it cannot be watched.
    pub async fn died(&mut self, within: Duration) -> anyhow::Result<bool> {
        let child = self.daemon.as_mut().context("the daemon does not run")?;
        if let Some(identity) = ProcessIdentity::of(child.id())?
            && tokio::time::timeout(within, exit_watch(&identity)).await.is_err()
        {
            return Ok(false);
        }
        let status = child.wait()?;
        self.daemon = None;
        ensure!(status.signal() == Some(9), "ployzd ended by itself: {status}");
        Ok(true)
    }

    /// Kills the daemon and starts it again without failpoints.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.run(&[]).await
    }

    /// Its API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api { socket: self.directory.join("ployzd.sock") }
    }

    /// What it was made of.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// `ployzctl` in the cluster's directory, asking its daemon.
    #[must_use]
    pub fn ctl(&self) -> Ctl {
        Ctl {
            program: self.parts.ployzctl.clone(),
            directory: self.directory.clone(),
            socket: self.api().socket,
            user: None,
        }
    }

    /// What the daemon told since its start.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn events(&self) -> anyhow::Result<Vec<DaemonEvent>> {
        let api = self.api();
        let text = api.lines("/v1/events").await?;
        text.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits for an event.
    ///
    /// # Errors
    ///
    /// If it does not come within half a minute.
    pub async fn event(&self, code: &str, component: &str) -> anyhow::Result<DaemonEvent> {
        let begun = Instant::now();
        loop {
            let events = self.events().await?;
            let found = events.iter().rfind(|e| e.code == code && e.component == component);
            if let Some(event) = found {
                return Ok(event.clone());
            }
            ensure!(begun.elapsed() < PATIENCE, "no {code} of {component}; {events:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusView> {
        self.api().get("/v1/status").await
    }

    /// `GET /v1/operations`.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer.
    pub async fn operations(&self) -> anyhow::Result<Vec<OperationSummary>> {
        self.api().get("/v1/operations").await
    }

    /// What runs.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or the machine does not.
    pub async fn instances(&self) -> anyhow::Result<InstancesView> {
        let view: InstancesView = self.api().get("/v1/instances").await?;
        ensure!(view.silent.is_empty(), "silent: {:?}", view.silent);
        Ok(view)
    }

    /// What an ended operation left behind: instances of no commit, leases, operations that are not at their end. Empty if all is well.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer.
    pub async fn leftovers(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for row in self.instances().await?.rows {
            if !row.committed {
                left.push(format!("instance {}", row.instance.spec.name));
            }
        }
        for lease in self.api().get::<Vec<LeaseView>>("/v1/leases").await? {
            left.push(format!("lease {} of {}", lease.key, lease.lease.operation.short()));
        }
        for operation in self.operations().await? {
            if !operation.record.phase.is_final() {
                left.push(format!("operation {} {}", operation.record.id, operation.record.phase));
            }
        }
        Ok(left)
    }

    /// Every workload and sidecar process: which it is.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer, or something does not run.
    pub async fn processes(&self) -> anyhow::Result<BTreeMap<String, ProcessIdentity>> {
        let mut found = self.sidecars().await?;
        for row in self.instances().await?.rows {
            let name = row.instance.spec.name.to_string();
            let pid = row.instance.pid.with_context(|| format!("{name} does not run"))?;
            let process = ProcessIdentity::of(pid)?.with_context(|| format!("{name} is gone"))?;
            found.insert(name, process);
        }
        Ok(found)
    }

    /// Every sidecar's process, as the daemon sees it; waits until all three run.
    ///
    /// # Errors
    ///
    /// If one does not run after half a minute.
    pub async fn sidecars(&self) -> anyhow::Result<BTreeMap<String, ProcessIdentity>> {
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            let mut found = BTreeMap::new();
            for component in &status.components {
                if let Some(pid) = component.pid
                    && let Some(process) = ProcessIdentity::of(pid)?
                {
                    found.insert(component.name.clone(), process);
                }
            }
            if SIDECARS.iter().all(|name| found.contains_key(*name)) {
                return Ok(found);
            }
            ensure!(begun.elapsed() < PATIENCE, "sidecars are missing: {:?}", status.components);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The lab's service, with so many replicas, answering with `version`.
    #[must_use]
    pub fn service(&self, version: &str, replicas: u32) -> ServiceSpec {
        let (image, command, listen) = match &self.parts.runtime {
            RuntimeParts::Process => {
                (String::new(), self.parts.app.display().to_string(), "127.0.0.1")
            }
            RuntimeParts::Docker { image, .. } => {
                (image.clone(), "/bin/lab-app".to_owned(), "0.0.0.0")
            }
        };
        let env = [("VERSION", version), ("LISTEN", listen)];
        ServiceSpec {
            workload: Workload {
                image,
                entrypoint: Vec::new(),
                // The directory tells whose process it is; the program does not look at it.
                command: vec![command, self.directory.display().to_string()],
                env: env.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                user: None,
                cap_add: Vec::new(),
                cap_drop: Vec::new(),
                cpu_limit_millis: None,
                memory_limit_bytes: None,
                restart: RestartPolicy::Always,
                stop_grace_period: Span::from_secs(5),
                labels: BTreeMap::new(),
                publish: BTreeMap::new(),
                network: Network::Overlay,
            },
            placement: Placement {
                replicas: Replicas::Count(replicas),
                constraints: Vec::new(),
                spread: Topology::Machine,
            },
            reservation: Reservation::default(),
            ports: [("http".to_owned(), 8080)].into(),
            routes: vec![Route {
                hostnames: vec![HostName::new(HOST).expect("a host name")],
                path_prefix: "/".to_owned(),
                port: "http".to_owned(),
            }],
            readiness: Some(Readiness {
                interval: Span::from_millis(100),
                ..Readiness::new(Probe::Http { path: "/healthz".into(), port: "http".into() })
            }),
            rollout: Rollout { strategy: Strategy::Rolling, batch: 1, drain: Span::from_secs(5) },
            on_failure: OnFailure::Abort,
        }
    }

    /// Whether workloads are made from images.
    #[must_use]
    pub fn uses_images(&self) -> bool {
        matches!(self.parts.runtime, RuntimeParts::Docker { .. })
    }

    /// Deploys the service and waits for the end. `None` if the daemon died meanwhile.
    ///
    /// # Errors
    ///
    /// If the daemon does not take the request.
    pub async fn deploy(&self, service: ServiceSpec) -> anyhow::Result<Option<OperationResult>> {
        self.api().submit(&submission(service)).await?.end().await
    }

    /// Deploys the service, which must be committed.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub async fn deployed(&self, service: ServiceSpec) -> anyhow::Result<u64> {
        match self.deploy(service).await? {
            Some(OperationResult::Committed { commit, .. }) => Ok(commit),
            other => bail!("the deploy was not committed: {other:?}"),
        }
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.directory.join("ployzd.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends daemon, sidecars and workloads; then nothing that names the directory may run. The directory stays.
    ///
    /// # Errors
    ///
    /// If something was left; it is killed.
    pub async fn destroy(mut self) -> anyhow::Result<PathBuf> {
        let ended = tokio::time::timeout(2 * PATIENCE, self.shut_down()).await;
        if let Some(mut child) = self.daemon.take() {
            // It may have ended by itself; `wait` takes it all the same.
            drop(child.kill());
            child.wait()?;
        }
        let left = kill_all_of(&self.directory)?;
        ended.context("the daemon does not end")??;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(self.directory.clone())
    }

    async fn shut_down(&mut self) -> anyhow::Result<()> {
        if self.daemon.is_none() {
            self.run(&[]).await?;
        }
        let all = ShutdownRequest { data_plane: true, workloads: Workloads::Remove };
        self.api().post::<serde_json::Value>("/v1/shutdown", &all).await?;
        let child = self.daemon.as_mut().context("the daemon does not run")?;
        if let Some(identity) = ProcessIdentity::of(child.id())? {
            exit_watch(&identity).await?;
        }
        let status = child.wait()?;
        self.daemon = None;
        ensure!(status.success(), "ployzd ended with {status}");
        Ok(())
    }
}

/// The lab's namespace with this one service.
#[must_use]
pub fn manifest(service: ServiceSpec) -> Manifest {
    let namespace = Namespace::new("lab").expect("a name");
    let name = ServiceName::new("web").expect("a name");
    Manifest { namespace, services: [(name, service)].into() }
}

/// A deploy of it.
pub(super) fn submission(service: ServiceSpec) -> Submission {
    let request = OperationRequest::Deploy { manifest: manifest(service) };
    Submission::Apply { request }
}

/// Kills every process whose arguments name the directory, which is nobody else's; says which.
fn kill_all_of(directory: &Path) -> anyhow::Result<Vec<String>> {
    let name = directory.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse::<i32>().ok()) else {
            continue;
        };
        // It may end while it is looked at.
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let names_it = arguments.windows(name.len()).any(|window| window == name);
        if let Some(process) = rustix::process::Pid::from_raw(pid)
            && names_it
            && pid.cast_unsigned() != std::process::id()
        {
            let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
            found.push(format!("{pid} {text}"));
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
    Ok(found)
}

/// Where a program is: beside this one, or one directory up (tests are in `deps`).
///
/// # Errors
///
/// If it is not there.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directories = own.ancestors().skip(1).take(2);
    let candidates: Vec<_> = directories.map(|dir| dir.join(name)).collect();
    let found = candidates.iter().find(|path| path.is_file());
    found.cloned().with_context(|| format!("there is no {name} beside {}", own.display()))
}

/// A variable of the environment as a path.
pub(super) fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}
