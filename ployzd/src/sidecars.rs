//! nats-server, gateway and DNS server: processes that outlive the daemon, adopted when they are what they should be.
//!
//! Each has a record in `sidecars/<name>.json`: which process it is, and what it was started from. What is to be done with it is decided in
//! [`proto_core::services`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use io_adapters::dns::DnsConfig;
use io_adapters::files;
use io_adapters::gateway::GatewayConfig;
use io_adapters::nats::Credentials;
use io_adapters::nats::server::{ServerConfig, Users, render};
use io_adapters::process::{
    ProcessIdentity, Supervisor as Gate, exit_watch, is_alive, spawn_detached, terminate,
};
use proto_core::digest::Digest;
use proto_core::services::{
    Component, Decision, DiskChange, Effect, Identity, Input, Observed, ProcessState, Record,
    StoreDisk, Supervisor, adopt,
};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::Config;
use crate::events::Events;
use crate::program::Programs;
use crate::roles::RoleConfig;

/// How long a sidecar may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(35);
/// Between two looks at a sidecar that cannot be watched, and at the disk of the store's server.
const LOOK: Duration = Duration::from_secs(1);
/// How much of the disk the store may take.
const MAX_FILE_STORE: u64 = 4 << 30;

/// The sidecars of this machine.
#[derive(Debug)]
pub(crate) struct Sidecars {
    config: Config,
    program: PathBuf,
    clock: Clock,
    events: Arc<Events>,
    running: Mutex<BTreeMap<Component, ProcessIdentity>>,
    keepers: Mutex<Vec<JoinHandle<()>>>,
    programs: Programs,
}

/// How a sidecar is started.
struct Start {
    argv: Vec<OsString>,
    identity: Identity,
}

impl Sidecars {
    pub(crate) fn new(config: Config, program: PathBuf, clock: Clock, events: Arc<Events>) -> Self {
        Self {
            config,
            program,
            clock,
            events,
            running: Mutex::default(),
            keepers: Mutex::default(),
            programs: Programs::default(),
        }
    }

    /// Adopts or starts every sidecar, and restarts those that die, for as long as the daemon runs.
    pub(crate) fn keep(self: &Arc<Self>) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        for component in Component::ALL {
            let this = Arc::clone(self);
            keepers.push(tokio::spawn(async move { this.keep_one(component).await }));
        }
    }

    /// Which process each one is.
    pub(crate) fn running(&self) -> BTreeMap<Component, ProcessIdentity> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends every sidecar, and no longer keeps them.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        let keepers =
            std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        for keeper in keepers {
            keeper.abort();
            // Until it has ended it may be about to start one. Nothing is between a start and its record that could be broken off.
            if let Err(error) = keeper.await
                && !error.is_cancelled()
            {
                tracing::error!(%error, "the keeper of a sidecar");
            }
        }
        // Gateway and DNS first: they follow the store.
        for component in [Component::Gateway, Component::Dns, Component::Nats] {
            if let Some(record) = self.recorded(component)? {
                terminate(&process(&record), GRACE)
                    .await
                    .with_context(|| format!("{component} does not end"))?;
                std::fs::remove_file(self.record_path(component))?;
            }
        }
        Ok(())
    }

    async fn keep_one(&self, component: Component) {
        let mut supervisor = Supervisor::to_start();
        loop {
            while let Some(Effect::Start(attempt)) = supervisor.poll_effect() {
                match self.bring_up(component).await {
                    Ok(process) => {
                        self.set_running(component, Some(process.clone()));
                        supervisor.handle_input(self.clock.now(), Input::Started(attempt));
                        let ended = end_of(&process, exit_watch(&process), |error| {
                            let message = format!(
                                "process {} cannot be watched ({error}); it is looked at every second instead",
                                process.pid
                            );
                            self.tell(component, "SIDECAR_UNWATCHED", message);
                        });
                        tokio::select! {
                            () = ended => {}
                            never = self.follow_disk(component, &process) => match never {},
                        }
                        self.set_running(component, None);
                        let message = format!("process {} ended", process.pid);
                        self.tell(component, "SIDECAR_DIED", message);
                    }
                    Err(error) => self.tell(component, "SIDECAR_FAILED", format!("{error:#}")),
                }
                supervisor.handle_input(self.clock.now(), Input::Died(attempt));
            }
            let Some((at, _)) = supervisor.poll_timeout() else { return };
            tokio::time::sleep_until(self.clock.instant(at)).await;
            supervisor.handle_input(self.clock.now(), Input::Tick);
        }
    }

    /// Looks at the disk of the store's server, and ends it where it has to be started anew.
    async fn follow_disk(&self, component: Component, process: &ProcessIdentity) -> Infallible {
        if component != Component::Nats {
            return std::future::pending().await;
        }
        let mut disk = StoreDisk::default();
        loop {
            // One that cannot be looked at now is looked at again.
            let free = files::disk_free(&self.config.data_dir).ok();
            match free.and_then(|free| disk.seen(free)) {
                None => {}
                Some(DiskChange::Full) => {
                    let at = self.config.data_dir.display();
                    let message = format!("the disk of {at} is full: nothing can be changed");
                    self.tell(component, "STORE_DISK_FULL", message);
                }
                Some(DiskChange::Freed) => {
                    let message = format!(
                        "there is room again; process {} does not write again by itself and is started anew",
                        process.pid
                    );
                    self.tell(component, "STORE_DISK_FREED", message);
                    if let Err(error) = terminate(process, GRACE).await {
                        self.tell(component, "SIDECAR_FAILED", format!("it does not end: {error}"));
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn set_running(&self, component: Component, process: Option<ProcessIdentity>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match process {
            Some(process) => running.insert(component, process),
            None => running.remove(&component),
        };
    }

    fn tell(&self, component: Component, code: &str, message: String) {
        self.events.publish(code, &component.to_string(), message);
    }

    async fn bring_up(&self, component: Component) -> anyhow::Result<ProcessIdentity> {
        // Reading a whole program takes a while.
        let start = tokio::task::block_in_place(|| self.start(component))?;
        let recorded = self.recorded(component)?;
        let observed = match &recorded {
            None => None,
            Some(record) => Some((record.clone(), observe(record)?)),
        };
        let wanted = [(component, start.identity.clone())].into();
        let recorded_map = observed.into_iter().map(|found| (component, found)).collect();
        let decision = adopt(&wanted, &recorded_map).remove(&component);
        match (decision, recorded) {
            (Some(Decision::Adopt), Some(record)) => {
                let process = process(&record);
                self.tell(
                    component,
                    "SIDECAR_ADOPTED",
                    format!("process {} is as it should be", process.pid),
                );
                return Ok(process);
            }
            (Some(Decision::Recreate { changed }), Some(record)) => {
                let parts: Vec<_> = changed.iter().map(ToString::to_string).collect();
                let message = format!(
                    "process {}: {} changed; it is started anew",
                    record.pid,
                    parts.join(", ")
                );
                self.tell(component, "SIDECAR_DRIFTED", message);
                terminate(&process(&record), GRACE).await?;
            }
            (Some(Decision::Start { reason }), _) => {
                self.tell(component, "SIDECAR_STARTED", reason.to_string());
            }
            (decision, _) => anyhow::bail!("there is nothing to do for {component}: {decision:?}"),
        }
        // Two syncs of the disk and an exec.
        tokio::task::block_in_place(|| self.spawn(component, start))
    }

    /// Starts a sidecar that is never without a record: it becomes the program once its record is on disk, and ends if that never happens.
    fn spawn(&self, component: Component, start: Start) -> anyhow::Result<ProcessIdentity> {
        // By this link also a program that was replaced on disk since is found.
        let gate = Gate { program: "/proc/self/exe".into(), arguments: vec!["supervise".into()] };
        let log = self.config.path(&format!("{component}.log"));
        let nothing = BTreeMap::new();
        let held = spawn_detached(&gate, &start.argv, &nothing, &log, &self.config.data_dir)
            .with_context(|| format!("{component} cannot be started"))?;
        let process = held.identity();
        let record = Record {
            component,
            pid: process.pid,
            start_time: process.start_time,
            boot_id: process.boot_id.clone(),
            identity: start.identity,
        };
        let json = serde_json::to_vec_pretty(&record).context("a record is plain JSON")?;
        files::write_atomic(&self.record_path(component), &json, 0o600)?;
        held.release().with_context(|| format!("{component} cannot be run"))
    }

    fn record_path(&self, component: Component) -> PathBuf {
        record_path(&self.config, component)
    }

    fn recorded(&self, component: Component) -> anyhow::Result<Option<Record>> {
        recorded(&self.config, component)
    }

    /// Writes a sidecar's configuration and says how it is started.
    fn start(&self, component: Component) -> anyhow::Result<Start> {
        let (program, arguments, path, text) = match component {
            Component::Nats => {
                let path = self.config.path("nats/nats.conf");
                let text = self.nats_config()?;
                (self.config.nats.server.clone(), vec!["-c".into()], path, text)
            }
            Component::Gateway => {
                let serve = GatewayConfig::new(
                    self.config.gateway.listen.clone(),
                    self.config.control_socket("gateway"),
                    self.config.path("gateway.snapshot.json"),
                );
                self.role("gateway", serve)?
            }
            Component::Dns => {
                let mut serve = DnsConfig::new(
                    self.config.dns.listen.clone(),
                    self.config.control_socket("dns"),
                    self.config.path("dns.snapshot.json"),
                );
                let bridge = self.config.container_dns();
                serve.bridge = bridge.map(|address| SocketAddr::new(address.into(), 53));
                serve.upstream = self.config.dns.upstream.clone();
                self.role("dns", serve)?
            }
        };
        if files::read(&path)?.as_deref() != Some(text.as_bytes()) {
            files::write_atomic(&path, text.as_bytes(), 0o600)?;
        }
        let mut argv: Vec<OsString> = vec![program.clone().into()];
        argv.extend(arguments);
        argv.push(path.into());
        let own = namespace()?;
        let identity = Identity {
            binary: self.programs.digest(&program)?,
            arguments: argv.iter().map(|a| a.to_string_lossy().into_owned()).collect(),
            config: Digest::of_bytes(text.as_bytes()),
            network_namespace: own,
            parent_namespace: (component == Component::Nats).then_some(own),
        };
        Ok(Start { argv, identity })
    }

    fn role<T: serde::Serialize>(
        &self,
        role: &str,
        serve: T,
    ) -> anyhow::Result<(PathBuf, Vec<OsString>, PathBuf, String)> {
        let config = RoleConfig {
            nats: self.config.nats_address(),
            credentials: self.config.credentials("follower"),
            serve,
        };
        let text =
            toml::to_string_pretty(&config).context("a role's configuration is plain TOML")?;
        let path = self.config.path(&format!("{role}.toml"));
        Ok((self.program.clone(), vec![role.into(), "--config".into()], path, text))
    }

    fn nats_config(&self) -> anyhow::Result<String> {
        let key = |user: &str| -> anyhow::Result<String> {
            let credentials = Credentials::load(&self.config.credentials(user))?;
            Ok(credentials.public_key().to_owned())
        };
        Ok(render(&ServerConfig {
            name: self.config.machine.id.to_string(),
            machine: self.config.machine.id.clone(),
            port: self.config.nats.port,
            monitor_port: None,
            store_dir: self.config.path("nats/store"),
            pid_file: None,
            log_file: Some(self.config.path("nats.log")),
            max_file_store: MAX_FILE_STORE,
            users: Users {
                participant: key("participant")?,
                coordinator: key("coordinator")?,
                follower: key("follower")?,
                system: None,
            },
        }))
    }
}

/// Whether an earlier daemon's sidecar runs.
///
/// # Errors
///
/// If its record or `/proc` cannot be read.
pub(crate) fn runs(config: &Config, component: Component) -> anyhow::Result<bool> {
    let record = recorded(config, component)?;
    record.map_or(Ok(false), |record| Ok(is_alive(&process(&record))?))
}

fn record_path(config: &Config, component: Component) -> PathBuf {
    config.path(&format!("sidecars/{component}.json"))
}

fn recorded(config: &Config, component: Component) -> anyhow::Result<Option<Record>> {
    let path = record_path(config, component);
    let Some(bytes) = files::read(&path)? else { return Ok(None) };
    let record = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Some(record))
}

/// Waits for the end of a process. If the watch fails, `unwatched` is told, and the process is looked at until it has ended: that
/// it cannot be watched does not make it dead.
async fn end_of(
    process: &ProcessIdentity,
    watch: impl Future<Output = io::Result<()>>,
    unwatched: impl FnOnce(io::Error),
) {
    let Err(error) = watch.await else { return };
    unwatched(error);
    while is_alive(process).unwrap_or(true) {
        tokio::time::sleep(LOOK).await;
    }
}

fn process(record: &Record) -> ProcessIdentity {
    ProcessIdentity {
        pid: record.pid,
        start_time: record.start_time,
        boot_id: record.boot_id.clone(),
    }
}

fn observe(record: &Record) -> anyhow::Result<Observed> {
    let process = if is_alive(&process(record))? {
        ProcessState::Alive
    } else if ProcessIdentity::of(record.pid)?.is_some() {
        ProcessState::Reused
    } else {
        ProcessState::Dead
    };
    Ok(Observed { process })
}

/// The network namespace that this process is in, and that its children will be in.
fn namespace() -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata("/proc/self/ns/net")
        .context("/proc does not show the network namespace")?;
    Ok(meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sidecar_that_cannot_be_watched_is_not_taken_for_dead() {
        let mut sleep = tokio::process::Command::new("sleep");
        let mut child = sleep.arg("1000").kill_on_drop(true).spawn().unwrap();
        let process = ProcessIdentity::of(child.id().unwrap()).unwrap().unwrap();
        let told = std::cell::Cell::new(0);
        let watch = async { Err(io::Error::other("no descriptors left")) };
        let ended = end_of(&process, watch, |_| told.set(told.get() + 1));
        tokio::pin!(ended);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut ended).await;
        assert!(early.is_err(), "it still runs");
        child.kill().await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
        assert_eq!(told.get(), 1);
    }
}
