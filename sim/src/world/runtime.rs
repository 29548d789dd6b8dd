//! One machine's runtime: containers that outlive the daemon and do what the name of their image says.
//!
//! The conformance test runs it beside Docker and beside the process runtime. *When* a request is applied, and whether its
//! answer arrives, is the caller's choice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proto_core::id::InstanceName;
use proto_core::runtime::{
    InstanceSpec, InstanceState, ObservedInstance, Probe, RestartPolicy, RuntimeError,
    RuntimeFacts, RuntimeReply, RuntimeRequest,
};
use proto_core::time::{Time, UnixTime};

/// The cores of a machine, in thousandths.
pub const CPU_MILLIS: u32 = 4000;
/// The memory of a machine, in bytes.
pub const MEMORY_BYTES: u64 = 8 << 30;
/// How long after its start an instance that exits at once has exited.
const EXIT_AFTER: Duration = Duration::from_millis(50);
/// The exit code of an instance that exits by itself and was not made to.
const EXITED: i32 = 1;
/// Between an exit and the runtime's next start of the instance.
const RESTART_PAUSE: Duration = Duration::from_millis(400);

/// What an instance does once it is started. Written in the image's name, so that a spec says it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Its probe succeeds after so long.
    ReadyAfter(Duration),
    /// It runs and its probe never succeeds.
    NeverReady,
    /// It exits with this code as soon as it is started.
    Exits(i32),
    /// There is no such image.
    Missing,
}

impl Behaviour {
    /// Reads an image name: `ready-<ms>…`, `never…`, `exits-<code>…`, `missing…`; any other is ready at once.
    #[must_use]
    pub fn of(image: &str) -> Self {
        let number = |text: &str| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().unwrap_or(0)
        };
        if let Some(rest) = image.strip_prefix("ready-") {
            Self::ReadyAfter(Duration::from_millis(number(rest).into()))
        } else if let Some(rest) = image.strip_prefix("exits-") {
            Self::Exits(i32::try_from(number(rest)).unwrap_or(1))
        } else if image.starts_with("never") {
            Self::NeverReady
        } else if image.starts_with("missing") {
            Self::Missing
        } else {
            Self::ReadyAfter(Duration::ZERO)
        }
    }
}

/// How long a runtime takes for a request where nothing is slow.
#[must_use]
pub fn takes(request: &RuntimeRequest) -> Duration {
    Duration::from_millis(match request {
        RuntimeRequest::Create { .. } => 300,
        RuntimeRequest::Start { .. } => 200,
        RuntimeRequest::Stop { .. } => 100,
        RuntimeRequest::Remove { .. } => 50,
        _ => 2,
    })
}

/// An instance of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// What it was made from.
    pub spec: InstanceSpec,
    /// When it was started, `None` while it is stopped.
    pub started: Option<Time>,
    /// When it was first started, for the start time that is shown.
    wall: UnixTime,
    /// It ended, with this code, and is not started again.
    stopped: Option<i32>,
    /// How often it was started again by the runtime before it was started last.
    restarts: u32,
    /// It ran when its machine lost power.
    interrupted: bool,
}

impl Instance {
    fn state(&self, now: Time) -> (InstanceState, u32) {
        let Some(started) = self.started else {
            let state = match self.stopped {
                Some(code) => InstanceState::Exited { code },
                None => InstanceState::Created,
            };
            return (state, self.restarts);
        };
        let Behaviour::Exits(code) = Behaviour::of(&self.spec.workload.image) else {
            let up = started <= now;
            let state = if up { InstanceState::Running } else { InstanceState::Restarting };
            return (state, self.restarts);
        };
        let again = match self.spec.workload.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::No => false,
        };
        let ran = now.since(started);
        if !again {
            let exited = ran >= EXIT_AFTER;
            return (
                if exited { InstanceState::Exited { code } } else { InstanceState::Running },
                self.restarts,
            );
        }
        let round = (EXIT_AFTER + RESTART_PAUSE).as_nanos();
        let restarts = u32::try_from(ran.as_nanos() / round).unwrap_or(u32::MAX);
        let within = ran.as_nanos() % round;
        let up = within < EXIT_AFTER.as_nanos();
        (if up { InstanceState::Running } else { InstanceState::Restarting }, restarts)
    }

    /// Whether it runs and answers requests.
    #[must_use]
    pub fn serves(&self, now: Time) -> bool {
        match Behaviour::of(&self.spec.workload.image) {
            Behaviour::ReadyAfter(after) => self.started.is_some_and(|at| at + after <= now),
            _ => false,
        }
    }

    /// Since when it has been as it is, as far as that matters: not once it serves, or runs and never will.
    #[must_use]
    pub(crate) fn counts_from(&self, now: Time) -> Option<Time> {
        self.started.filter(|at| match Behaviour::of(&self.spec.workload.image) {
            Behaviour::ReadyAfter(after) => *at + after > now,
            Behaviour::NeverReady => *at > now,
            Behaviour::Exits(_) | Behaviour::Missing => true,
        })
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&self, now: Time) -> bool {
        matches!(self.state(now).0, InstanceState::Running)
    }

    fn observed(&self, now: Time) -> ObservedInstance {
        let (state, restarts) = self.state(now);
        ObservedInstance {
            spec: self.spec.clone(),
            state,
            started_at: self.started.map(|_| self.wall),
            pid: (state == InstanceState::Running).then_some(4242),
            restarts,
            last_exit: self.last_exit(state, restarts),
        }
    }

    fn last_exit(&self, state: InstanceState, restarts: u32) -> Option<i32> {
        let ended = match state {
            InstanceState::Running => restarts > 0,
            InstanceState::Restarting => true,
            InstanceState::Created | InstanceState::Exited { .. } => false,
        };
        ended.then(|| match Behaviour::of(&self.spec.workload.image) {
            Behaviour::Exits(code) => code,
            _ => EXITED,
        })
    }
}

/// A machine's runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    instances: BTreeMap<InstanceName, Instance>,
    /// How many changes were made, of any kind: what asks for nothing must change nothing.
    pub changes: u64,
    /// The memory that its machine has.
    pub memory_bytes: u64,
    wrong: Option<Wrong>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { instances: BTreeMap::new(), changes: 0, memory_bytes: MEMORY_BYTES, wrong: None }
    }
}

/// Ways for the model to be wrong, for the test that shows that conformance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A name can be taken twice: the newer one wins.
    NamesAreShared,
    /// Stopping what is not there fails.
    StopNeedsInstance,
    /// A stop removes.
    StopRemoves,
    /// A start of what is not there succeeds.
    StartInvents,
    /// A stop of what has exited makes its code that of a stop.
    StopForgetsCode,
    /// What exits is never started again.
    NoRestarts,
}

impl Runtime {
    /// A runtime that is wrong on purpose.
    #[must_use]
    pub fn wrong(how: Wrong) -> Self {
        Self { wrong: Some(how), ..Self::default() }
    }

    /// Everything that what it does later depends on.
    pub(crate) fn write_state(&self, now: Time, to: &mut impl std::fmt::Write) -> std::fmt::Result {
        let Self { instances, changes, memory_bytes, wrong } = self;
        write!(to, "{changes} {memory_bytes} {wrong:?}")?;
        for there in instances.values() {
            let Instance { spec, started, wall, stopped, restarts, interrupted } = there;
            let (from, started) = (there.counts_from(now), started.is_some());
            write!(
                to,
                "{spec:?} {started} {from:?} {wall:?} {stopped:?} {restarts} {interrupted}"
            )?;
        }
        Ok(())
    }

    /// The instances by name.
    #[must_use]
    pub fn instances(&self) -> &BTreeMap<InstanceName, Instance> {
        &self.instances
    }

    /// The instance that listens at this address.
    #[must_use]
    pub fn listens_at(&self, address: IpAddr) -> Option<&Instance> {
        self.instances.values().find(|there| there.spec.address == address)
    }

    /// The machine loses power: nothing runs.
    pub fn power_off(&mut self) {
        for there in self.instances.values_mut() {
            there.interrupted = there.started.take().is_some();
        }
    }

    /// The machine is on again: the engine starts what ran and shall always run.
    pub fn power_on(&mut self, now: Time, wall: UnixTime) {
        for there in self.instances.values_mut() {
            if !std::mem::take(&mut there.interrupted) {
                continue;
            }
            if there.spec.workload.restart == RestartPolicy::No {
                there.stopped = Some(137);
            } else {
                (there.started, there.wall) = (Some(now), wall);
            }
        }
    }

    /// An instance exits by itself; its engine starts it again, if that is its policy.
    pub fn exit(&mut self, now: Time, wall: UnixTime, name: &InstanceName) {
        if let Some(there) = self.instances.get_mut(name)
            && there.started.is_some()
        {
            if there.spec.workload.restart == RestartPolicy::No {
                (there.started, there.stopped) = (None, Some(EXITED));
            } else {
                there.restarts += 1;
                (there.started, there.wall) = (Some(now + RESTART_PAUSE), wall);
            }
        }
    }

    /// Applies a request at this time. A settling is answered at once: what can still land is the caller's to know.
    ///
    /// # Errors
    ///
    /// As the real runtimes: see [`RuntimeError`]. Nothing was changed then.
    pub fn apply(
        &mut self,
        now: Time,
        wall: UnixTime,
        request: &RuntimeRequest,
    ) -> Result<RuntimeReply, RuntimeError> {
        match request {
            RuntimeRequest::Inspect { instance } => {
                let seen = self.instances.get(instance).map(|there| there.observed(now));
                Ok(RuntimeReply::Instance(seen))
            }
            RuntimeRequest::List { namespace } => {
                let all = self.instances.values();
                let wanted = |there: &&Instance| {
                    namespace.as_ref().is_none_or(|namespace| there.spec.namespace == *namespace)
                };
                let seen = all.filter(wanted).map(|there| there.observed(now)).collect();
                Ok(RuntimeReply::Instances(seen))
            }
            RuntimeRequest::Create { spec } => self.create(now, wall, spec),
            RuntimeRequest::Start { instance } => self.start(now, wall, instance),
            RuntimeRequest::Stop { instance, .. } => self.stop(now, instance),
            RuntimeRequest::Remove { instance } => {
                self.changes += u64::from(self.instances.remove(instance).is_some());
                Ok(RuntimeReply::Done)
            }
            RuntimeRequest::Probe { instance, probe, .. } => {
                let there = self.instances.get(instance);
                // A command needs an instance to run in; a request over the network does not.
                if there.is_none() && matches!(probe, Probe::Exec { .. }) {
                    return Err(RuntimeError::NoSuchInstance { instance: instance.clone() });
                }
                let ready = there.is_some_and(|there| there.serves(now));
                let result = if ready { Ok(()) } else { Err("connection refused".to_owned()) };
                Ok(RuntimeReply::Probed(result))
            }
            RuntimeRequest::Logs { instance, .. } => {
                if !self.instances.contains_key(instance) {
                    return Err(RuntimeError::NoSuchInstance { instance: instance.clone() });
                }
                Ok(RuntimeReply::Logs(vec!["a line".to_owned()]))
            }
            RuntimeRequest::Settle { .. } => Ok(RuntimeReply::Done),
            RuntimeRequest::Facts { images, ports, .. } => {
                let here = |image: &&String| Behaviour::of(image) != Behaviour::Missing;
                Ok(RuntimeReply::Facts(RuntimeFacts {
                    images_present: images.iter().filter(here).cloned().collect(),
                    ports_taken: ports.iter().copied().filter(|p| self.is_published(*p)).collect(),
                    // As with containers: each has an address of its own.
                    ports_listening: Vec::new(),
                    cpu_total_millis: CPU_MILLIS,
                    memory_total_bytes: self.memory_bytes,
                    disk_free_bytes: 50 << 30,
                }))
            }
        }
    }

    fn create(
        &mut self,
        now: Time,
        wall: UnixTime,
        spec: &InstanceSpec,
    ) -> Result<RuntimeReply, RuntimeError> {
        let image = &spec.workload.image;
        if Behaviour::of(image) == Behaviour::Missing {
            return Err(RuntimeError::ImageMissing { image: image.clone() });
        }
        let shared = self.wrong == Some(Wrong::NamesAreShared);
        if self.instances.contains_key(&spec.name) && !shared {
            return Err(RuntimeError::NameTaken { instance: spec.name.clone() });
        }
        self.publishes(spec)?;
        let mut spec = spec.clone();
        if self.wrong == Some(Wrong::NoRestarts) {
            spec.workload.restart = RestartPolicy::No;
        }
        let instance = Instance {
            spec,
            started: Some(now),
            wall,
            stopped: None,
            restarts: 0,
            interrupted: false,
        };
        self.instances.insert(instance.spec.name.clone(), instance);
        self.changes += 1;
        Ok(RuntimeReply::Done)
    }

    /// Whether an instance that was started has this port of the machine.
    fn is_published(&self, port: u16) -> bool {
        let mut started = self.instances.values().filter(|there| there.started.is_some());
        started.any(|there| there.spec.workload.publish.contains_key(&port))
    }

    fn publishes(&self, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        let mut wanted = spec.workload.publish.keys();
        match wanted.find(|port| self.is_published(**port)) {
            Some(port) => Err(RuntimeError::PortInUse { detail: format!("port {port}") }),
            None => Ok(()),
        }
    }

    fn start(
        &mut self,
        now: Time,
        wall: UnixTime,
        name: &InstanceName,
    ) -> Result<RuntimeReply, RuntimeError> {
        if let Some(there) = self.instances.get(name).filter(|there| there.started.is_none()) {
            self.publishes(&there.spec)?;
        }
        match self.instances.get_mut(name) {
            None if self.wrong == Some(Wrong::StartInvents) => Ok(RuntimeReply::Done),
            None => Err(RuntimeError::NoSuchInstance { instance: name.clone() }),
            Some(there) => {
                let (state, _) = there.state(now);
                if !state.runs() {
                    (there.started, there.wall, there.stopped) = (Some(now), wall, None);
                    there.restarts = 0;
                    self.changes += 1;
                }
                Ok(RuntimeReply::Done)
            }
        }
    }

    fn stop(&mut self, now: Time, name: &InstanceName) -> Result<RuntimeReply, RuntimeError> {
        match self.instances.get_mut(name) {
            None if self.wrong == Some(Wrong::StopNeedsInstance) => {
                return Err(RuntimeError::NoSuchInstance { instance: name.clone() });
            }
            None => {}
            Some(there) => {
                // What has ended by itself keeps its code.
                let (state, restarts) = there.state(now);
                there.restarts = restarts;
                there.stopped = match state {
                    InstanceState::Exited { .. } if self.wrong == Some(Wrong::StopForgetsCode) => {
                        Some(143)
                    }
                    InstanceState::Exited { code } => Some(code),
                    InstanceState::Running | InstanceState::Restarting => Some(143),
                    InstanceState::Created => None,
                };
                self.changes += u64::from(there.started.take().is_some());
            }
        }
        if self.wrong == Some(Wrong::StopRemoves) {
            self.instances.remove(name);
        }
        Ok(RuntimeReply::Done)
    }
}
