//! Processes of the host as instances: for development without root, and for machines without containers.
//!
//! Each instance has a directory `<state>/instances/<name>/` and a small supervisor process (see [`supervise`]), in a session of its
//! own, so that instances outlive `ployzd` and are restarted while it is away:
//!
//! | file | holds | written by |
//! |---|---|---|
//! | `spec.json` | the [`InstanceSpec`]: what it was made from | adapter, once |
//! | `wanted.json` | whether it is to run | adapter |
//! | `state.json` | supervisor and workload by identity, phase, restarts | supervisor |
//! | `log`, `log.1` | both outputs, line by line, two files of 5 MiB | supervisor |
//! | `poke`, `stdout`, `stderr` | named pipes: adapter to supervisor, workload to supervisor | |
//! | `data/` | the working directory | workload |
//! | `supervisor.log` | what the supervisor itself complained about | supervisor |
//!
//! A process is known by pid, start time and boot ([`ProcessIdentity`]), so that a reused pid is nobody's and everything counts as
//! exited after a reboot. Changes of an instance are serialised by a file lock, which a supervisor inherits until it has started: that is
//! what makes [`RuntimeRequest::Settle`] certain.
//!
//! If the supervisor is killed, the workload goes on and is seen as running; nobody restarts it then, and once it has written some
//! 64 KiB of output unread it waits for a reader. [`Processes::resume`], which the daemon calls when it starts, and a `Start` of the
//! instance give it a supervisor again, which reads on; exit codes that no parent saw are 255. What a workload puts into a session of its
//! own escapes a stop.

mod detached;
mod environment;
mod exec;
mod identity;
mod logs;
mod place;
mod ports;
mod readiness;
mod supervise;

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt as _;
use proto_core::Outcome;
use proto_core::id::{InstanceName, Namespace};
use proto_core::runtime::process::{HOST, unsupported};
use proto_core::runtime::{
    InstanceSpec, InstanceState, ObservedInstance, Probe, RuntimeError, RuntimeFacts, RuntimeReply,
    RuntimeRequest,
};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

pub use detached::{Held, spawn_detached};
pub use identity::{ProcessIdentity, exit_watch, is_alive, terminate};
pub use supervise::supervise;

use crate::docker::port_taken;
use crate::files::disk_free;
use crate::runtime::{Exec, LogLines};
use exec::{other, reason};
use identity::wait_blocking;
use place::{Lock, Phase, Place, Places, State, Wanted};
use supervise::{CANNOT_RUN, STARTED, UNSEEN, end_unsupervised};

/// How long a supervisor may take beyond the grace of a stop before it is killed itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a supervisor is started: a program that calls [`supervise`] with the arguments that follow `arguments`.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// The program, usually `ployzd` itself.
    pub program: PathBuf,
    /// The arguments that lead it into that role.
    pub arguments: Vec<OsString>,
}

/// The processes of one state directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Processes {
    places: Places,
    supervisor: Supervisor,
}

impl Processes {
    /// Instances live in `<state>/instances`, which is made when the first one is.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>, supervisor: Supervisor) -> Self {
        Self { places: Places::new(state.into().join("instances")), supervisor }
    }

    /// Does what is asked, once.
    pub async fn execute(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError> {
        let answer = match request {
            RuntimeRequest::Inspect { instance } => {
                self.blocking(move |all| all.inspect(&instance)).await.map(RuntimeReply::Instance)
            }
            RuntimeRequest::List { namespace } => self
                .blocking(move |all| all.list(namespace.as_ref()))
                .await
                .map(RuntimeReply::Instances),
            RuntimeRequest::Create { spec } => self.create(*spec).await,
            RuntimeRequest::Start { instance } => self.start(instance).await,
            RuntimeRequest::Stop { instance, grace } => {
                self.blocking(move |all| all.stop(&instance, grace.duration())).await
            }
            RuntimeRequest::Remove { instance } => {
                self.blocking(move |all| all.remove(&instance)).await
            }
            RuntimeRequest::Probe { instance, address, probe, port, timeout } => {
                let limit = timeout.duration();
                match probe {
                    Probe::Http { path, .. } => {
                        Ok(crate::probe::http(address, port, &path, limit).await)
                    }
                    Probe::Tcp { .. } => Ok(crate::probe::tcp(address, port, limit).await),
                    Probe::Exec { command } => self.probe_exec(instance, &command, limit).await,
                }
                .map(RuntimeReply::Probed)
            }
            RuntimeRequest::Logs { instance, tail } => self
                .blocking(move |all| {
                    let (place, _) = all.existing(&instance)?;
                    let (lines, _) =
                        logs::LogReader::open(&place, Some(tail)).map_err(|e| reason(&e))?;
                    Ok(lines.into_iter().map(|line| line.text).collect())
                })
                .await
                .map(RuntimeReply::Logs),
            RuntimeRequest::Settle { instance } => {
                self.blocking(move |all| all.settle(&instance)).await
            }
            RuntimeRequest::Facts { images, ports } => {
                self.blocking(move |all| all.facts(images, ports)).await.map(RuntimeReply::Facts)
            }
        };
        match answer {
            Ok(reply) => Outcome::Ok(reply),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// What an instance wrote: the last `tail` lines (`None`: all that is kept), and with `follow` what it writes from then on, until
    /// it is removed.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`], or that the log cannot be read.
    pub async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError> {
        let instance = instance.clone();
        let (place, lines, reader) = self
            .blocking(move |all| {
                let (place, _) = all.existing(&instance)?;
                let (lines, reader) =
                    logs::LogReader::open(&place, tail).map_err(|e| reason(&e))?;
                Ok((place, lines, reader))
            })
            .await?;
        let first = futures::stream::iter(lines.into_iter().map(Ok));
        if !follow {
            return Ok(first.boxed());
        }
        let (send, mut receive) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            if let Err(error) = reader.follow(&place, &send).await {
                // Whoever reads the lines gets the error; if nobody does, it concerns nobody.
                drop(send.send(Err(error)).await);
            }
        });
        let added = futures::stream::poll_fn(move |context| receive.poll_recv(context));
        Ok(first.chain(added.map(|line| line.map_err(|error| reason(&error)))).boxed())
    }

    /// Runs a command as the instance would: in its directory, with its environment and user.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoSuchInstance`]; [`RuntimeError::CannotRun`], also if the instance does not run; and that a terminal is not supported.
    pub async fn exec(
        &self,
        instance: &InstanceName,
        argv: &[String],
        tty: bool,
    ) -> Result<Exec, RuntimeError> {
        if tty {
            return Err(other("the process runtime does not support a terminal"));
        }
        let (place, spec) = self.running(instance.clone()).await?;
        exec::exec(&place, &spec, argv)
    }

    /// Gives a supervisor to every instance of this boot that is to run and has none, because its supervisor was killed. Answers with
    /// their names.
    ///
    /// # Errors
    ///
    /// The first error; instances before it were resumed.
    pub async fn resume(&self) -> Result<Vec<InstanceName>, RuntimeError> {
        let lost = self.blocking(|all| all.unsupervised()).await?;
        let mut resumed = Vec::new();
        for instance in lost {
            let name = instance.clone();
            let found = self
                .blocking(move |all| {
                    let lock = all.lock(&name)?;
                    // Looked at again, now that nobody else can change it.
                    Ok(all.is_unsupervised(&all.places.of(&name))?.then_some(lock))
                })
                .await?;
            if let Some(lock) = found {
                self.supervise(&self.places.of(&instance), &lock, "resume").await?;
                resumed.push(instance);
            }
        }
        Ok(resumed)
    }

    async fn create(&self, spec: InstanceSpec) -> Result<RuntimeReply, RuntimeError> {
        // The planner has refused it; a spec may come from elsewhere.
        if let Some(what) = unsupported(&spec.workload).first() {
            return Err(other(&format!("the process runtime cannot give {what}")));
        }
        let cannot = |detail: String| RuntimeError::CannotRun { detail };
        let user =
            environment::user(spec.workload.user.as_deref().unwrap_or_default()).map_err(cannot)?;
        let name = spec.name.clone();
        let (lock, place) = self
            .blocking(move |all| {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o711)
                    .create(all.places.path())
                    .map_err(|e| reason(&e))?;
                let lock = all.lock(&spec.name)?;
                if all.places.of(&spec.name).path().exists() {
                    return Err(RuntimeError::NameTaken { instance: spec.name });
                }
                ports::refuse_taken(&spec)?;
                let place = all.places.make(&spec, user).map_err(|e| reason(&e))?;
                Ok((lock, place))
            })
            .await?;
        let Err(error) = self.supervise(&place, &lock, "run").await else {
            return Ok(RuntimeReply::Done);
        };
        // "Failed" promises that nothing is there.
        self.blocking(move |all| {
            end_unsupervised(&place, Duration::ZERO).map_err(|e| reason(&e))?;
            all.places.remove(&name).and_then(|()| lock.retire()).map_err(|e| reason(&e))
        })
        .await?;
        Err(error)
    }

    async fn start(&self, instance: InstanceName) -> Result<RuntimeReply, RuntimeError> {
        let name = instance.clone();
        let role = self
            .blocking(move |all| {
                let lock = all.lock(&name)?;
                let (place, spec) = all.existing(&name)?;
                let wanted = place.wanted().map_err(|e| reason(&e))?;
                // A supervisor whose instance has ended for good ends too, a moment later, and starts nothing any more.
                if wanted.run && supervised(&place)? && !has_exited(&place)? {
                    return Ok(None);
                }
                let role = if wanted.run && all.is_unsupervised(&place)? && workload_runs(&place)? {
                    "resume"
                } else {
                    // A stop that its daemon did not live to complete.
                    halt(&place, Duration::from_millis(wanted.grace_millis))?;
                    ports::refuse_taken(&spec)?;
                    place.want(Wanted::RUN).map_err(|e| reason(&e))?;
                    "run"
                };
                Ok(Some((lock, place, role)))
            })
            .await?;
        if let Some((lock, place, role)) = role {
            self.supervise(&place, &lock, role).await?;
        }
        Ok(RuntimeReply::Done)
    }

    /// Starts a supervisor and waits until it says how it went.
    async fn supervise(&self, place: &Place, lock: &Lock, role: &str) -> Result<(), RuntimeError> {
        let program = self.supervisor.program.display();
        let fail = |error: &io::Error| {
            other(&format!("the supervisor {program} cannot be started: {error}"))
        };
        let complaints = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(place.at("supervisor.log"))
            .map_err(|e| reason(&e))?;
        let mut command = Command::new(&self.supervisor.program);
        command
            .args(&self.supervisor.arguments)
            .arg(role)
            .arg(place.path())
            .env_clear()
            .current_dir(place.path())
            .stdin(Stdio::from(lock.share().map_err(|e| reason(&e))?))
            .stdout(Stdio::piped())
            .stderr(complaints);
        detached::own_session(&mut command);
        let mut child = command.spawn().map_err(|e| fail(&e))?;
        let said = child.stdout.take();
        detached::reap(child);
        let mut line = String::new();
        if let Some(mut said) = said {
            // One line; the supervisor keeps the pipe open afterwards, so this does not read to its end.
            while !line.ends_with('\n') {
                let mut buffer = [0; 512];
                let count = said.read(&mut buffer).await.map_err(|e| fail(&e))?;
                if count == 0 {
                    break;
                }
                line.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
        let line = line.trim_end();
        if line == STARTED {
            return Ok(());
        }
        match line.strip_prefix(CANNOT_RUN) {
            Some(why) => Err(RuntimeError::CannotRun { detail: why.to_owned() }),
            None => {
                let why = std::fs::read_to_string(place.at("supervisor.log")).unwrap_or_default();
                let why = why.lines().last().unwrap_or("it said nothing");
                Err(other(&format!(
                    "the supervisor {program} ended before it started the instance: {why}"
                )))
            }
        }
    }

    async fn probe_exec(
        &self,
        instance: InstanceName,
        command: &[String],
        limit: Duration,
    ) -> Result<Result<(), String>, RuntimeError> {
        match self.running(instance).await {
            Ok((place, spec)) => exec::probe(&place, &spec, command, limit).await,
            Err(RuntimeError::CannotRun { detail }) => Ok(Err(detail)),
            Err(error) => Err(error),
        }
    }

    /// Place and spec of an instance that runs.
    async fn running(&self, instance: InstanceName) -> Result<(Place, InstanceSpec), RuntimeError> {
        self.blocking(move |all| {
            let (place, spec) = all.existing(&instance)?;
            match observe(&place, spec)? {
                ObservedInstance { state: InstanceState::Running, spec, .. } => Ok((place, spec)),
                _ => Err(RuntimeError::CannotRun { detail: format!("{instance} does not run") }),
            }
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// What follows blocks: it waits for files, locks and the ends of processes.
impl Processes {
    fn inspect(&self, instance: &InstanceName) -> Result<Option<ObservedInstance>, RuntimeError> {
        let place = self.places.of(instance);
        let spec = place.spec().map_err(|e| reason(&e))?;
        spec.map(|spec| observe(&place, spec)).transpose()
    }

    fn list(&self, namespace: Option<&Namespace>) -> Result<Vec<ObservedInstance>, RuntimeError> {
        let mut found = Vec::new();
        for place in self.places.all().map_err(|e| reason(&e))? {
            // One without a spec was removed just now, or is nobody's.
            if let Some(spec) = place.spec().map_err(|e| reason(&e))?
                && namespace.is_none_or(|namespace| *namespace == spec.namespace)
            {
                found.push(observe(&place, spec)?);
            }
        }
        Ok(found)
    }

    fn stop(&self, instance: &InstanceName, grace: Duration) -> Result<RuntimeReply, RuntimeError> {
        let _lock = self.lock(instance)?;
        match self.existing(instance) {
            Ok((place, _)) => halt(&place, grace)?,
            Err(RuntimeError::NoSuchInstance { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(RuntimeReply::Done)
    }

    fn remove(&self, instance: &InstanceName) -> Result<RuntimeReply, RuntimeError> {
        let lock = self.lock(instance)?;
        match self.existing(instance) {
            Ok((place, _)) => {
                halt(&place, Duration::ZERO)?;
                self.places.remove(instance).map_err(|e| reason(&e))?;
            }
            Err(RuntimeError::NoSuchInstance { .. }) => {
                self.places.clear(instance).map_err(|e| reason(&e))?;
            }
            Err(error) => return Err(error),
        }
        lock.retire().map_err(|e| reason(&e))?;
        Ok(RuntimeReply::Done)
    }

    /// Whoever was changing the instance is dead or done once the lock is had, and a supervisor that was starting has started. What can
    /// be left is a stop that was asked for and not completed; it is completed here.
    fn settle(&self, instance: &InstanceName) -> Result<RuntimeReply, RuntimeError> {
        let lock = self.lock(instance)?;
        match self.existing(instance) {
            Ok((place, _)) => {
                let wanted = place.wanted().map_err(|e| reason(&e))?;
                if !wanted.run {
                    halt(&place, Duration::from_millis(wanted.grace_millis))?;
                }
            }
            Err(RuntimeError::NoSuchInstance { .. }) => {
                self.places.clear(instance).map_err(|e| reason(&e))?;
                lock.retire().map_err(|e| reason(&e))?;
            }
            Err(error) => return Err(error),
        }
        Ok(RuntimeReply::Done)
    }

    fn facts(&self, images: Vec<String>, ports: Vec<u16>) -> Result<RuntimeFacts, RuntimeError> {
        let cores = std::thread::available_parallelism().map_err(|e| reason(&e))?.get();
        let memory = std::fs::read_to_string("/proc/meminfo").map_err(|e| reason(&e))?;
        let total =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
        let total: Option<u64> = total.and_then(|total| total.trim().parse().ok());
        // The directory is made with the first instance; until then its file system is that of the nearest one above.
        let there = self.places.path().ancestors().find(|path| path.exists());
        let free = disk_free(there.unwrap_or(std::path::Path::new("/"))).map_err(|e| reason(&e))?;
        Ok(RuntimeFacts {
            images_present: images
                .into_iter()
                .filter(|image| matches!(image.as_str(), "" | HOST))
                .collect(),
            ports_taken: ports.into_iter().filter(|&port| port_taken(port)).collect(),
            ports_listening: ports::listening().map_err(|e| reason(&e))?,
            cpu_total_millis: u32::try_from(cores * 1000).unwrap_or(u32::MAX),
            memory_total_bytes: total.ok_or_else(|| other("/proc/meminfo has no MemTotal"))? * 1024,
            disk_free_bytes: free,
        })
    }

    fn unsupervised(&self) -> Result<Vec<InstanceName>, RuntimeError> {
        let mut names = Vec::new();
        for place in self.places.all().map_err(|e| reason(&e))? {
            if self.is_unsupervised(&place)?
                && let Some(spec) = place.spec().map_err(|e| reason(&e))?
            {
                names.push(spec.name);
            }
        }
        Ok(names)
    }

    /// Whether it is to run, was not done by itself, and has lost its supervisor during this boot.
    #[expect(clippy::unused_self, reason = "reads as a question to the processes")]
    fn is_unsupervised(&self, place: &Place) -> Result<bool, RuntimeError> {
        let Some(state) = place.state().map_err(|e| reason(&e))? else { return Ok(false) };
        let own = ProcessIdentity::own().map_err(|e| reason(&e))?;
        Ok(place.wanted().map_err(|e| reason(&e))?.run
            && !matches!(state.phase, Phase::Exited(_))
            && state.supervisor.boot_id == own.boot_id
            && !is_alive(&state.supervisor).map_err(|e| reason(&e))?)
    }

    fn lock(&self, instance: &InstanceName) -> Result<Lock, RuntimeError> {
        self.places.lock(instance).map_err(|e| reason(&e))
    }

    fn existing(&self, instance: &InstanceName) -> Result<(Place, InstanceSpec), RuntimeError> {
        let place = self.places.of(instance);
        match place.spec().map_err(|e| reason(&e))? {
            Some(spec) => Ok((place, spec)),
            None => Err(RuntimeError::NoSuchInstance { instance: instance.clone() }),
        }
    }
}

fn observe(place: &Place, spec: InstanceSpec) -> Result<ObservedInstance, RuntimeError> {
    let Some(State { supervisor, phase, workload, started_at, restarts, last_exit }) =
        place.state().map_err(|e| reason(&e))?
    else {
        let (started_at, pid, restarts) = (None, None, 0);
        return Ok(ObservedInstance {
            spec,
            state: InstanceState::Created,
            started_at,
            pid,
            restarts,
            last_exit: None,
        });
    };
    let runs = match &workload {
        Some(workload) => is_alive(workload).map_err(|e| reason(&e))?,
        None => false,
    };
    let state = match phase {
        Phase::Exited(code) => InstanceState::Exited { code },
        // While there is a supervisor, what it says holds: it may not have noticed an end yet that is a moment old.
        Phase::Restarting if is_alive(&supervisor).map_err(|e| reason(&e))? => {
            InstanceState::Restarting
        }
        Phase::Running if runs || is_alive(&supervisor).map_err(|e| reason(&e))? => {
            InstanceState::Running
        }
        Phase::Restarting | Phase::Running => InstanceState::Exited { code: UNSEEN },
    };
    let pid = workload.filter(|_| runs).map(|workload| workload.pid);
    Ok(ObservedInstance { spec, state, started_at, pid, restarts, last_exit })
}

fn supervised(place: &Place) -> Result<bool, RuntimeError> {
    match place.state().map_err(|e| reason(&e))? {
        Some(state) => is_alive(&state.supervisor).map_err(|e| reason(&e)),
        None => Ok(false),
    }
}

fn has_exited(place: &Place) -> Result<bool, RuntimeError> {
    let state = place.state().map_err(|e| reason(&e))?;
    Ok(state.is_some_and(|state| matches!(state.phase, Phase::Exited(_))))
}

fn workload_runs(place: &Place) -> Result<bool, RuntimeError> {
    match place.state().map_err(|e| reason(&e))?.and_then(|state| state.workload) {
        Some(workload) => is_alive(&workload).map_err(|e| reason(&e)),
        None => Ok(false),
    }
}

/// Stops an instance, and returns when neither it nor its supervisor runs. The caller has the lock.
fn halt(place: &Place, grace: Duration) -> Result<(), RuntimeError> {
    let halted = (|| {
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        place.want(Wanted { run: false, grace_millis })?;
        if let Some(State { supervisor, .. }) = place.state()? {
            place.poke()?;
            if !wait_blocking(&supervisor, grace + PATIENCE)? {
                identity::terminate_blocking(&supervisor, Duration::ZERO)?;
            }
        }
        end_unsupervised(place, grace)
    })();
    halted.map_err(|error: io::Error| reason(&error))
}
