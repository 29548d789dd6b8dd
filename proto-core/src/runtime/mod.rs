//! What an instance is, and what can be asked of a container or process runtime.
//!
//! The requests are what the adapters of Docker and of host processes implement; they decide nothing.
//! Every request names its instance, says the same thing however often it is sent, and changes nothing that does
//! not carry the label `ployz.instance`.

pub mod process;
mod readiness;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use readiness::{Probe, Readiness};

use crate::digest::Digest;
use crate::id::{InstanceName, Namespace, OperationId, ServiceName};
use crate::span::Span;
use crate::time::UnixTime;

/// Everything a runtime needs to make an instance; nothing else goes into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The container's name, or the process's directory.
    pub name: InstanceName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service.
    pub service: ServiceName,
    /// Its index within the service, from 0.
    pub slot: u32,
    /// The operation that makes it.
    pub operation: OperationId,
    /// What runs in it.
    pub workload: Workload,
    /// Where it listens: its own address in the container runtime, a loopback address in the process runtime.
    pub address: IpAddr,
    /// The port behind each port name, as the instance sees it. The process runtime passes the first as `PORT` and each as
    /// `PORT_<NAME>`.
    pub ports: BTreeMap<String, u16>,
}

impl InstanceSpec {
    /// The identity that is compared on adoption: any change of it needs a new instance.
    #[must_use]
    pub fn config_hash(&self) -> Digest {
        Digest::of(self)
    }

    /// Whether it cannot listen beside another instance of its machine that has this address and these ports. On a loopback address
    /// instances share the address, and differ by their ports.
    #[must_use]
    pub fn clashes<'a>(&self, address: IpAddr, ports: impl IntoIterator<Item = &'a u16>) -> bool {
        self.workload.network == Network::Overlay
            && self.address == address
            && (!address.is_loopback()
                || ports.into_iter().any(|port| self.ports.values().any(|own| own == port)))
    }
}

/// The part of a service that an instance is made from; two services with equal workloads need no new instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Image reference; in the process runtime empty or `host`.
    pub image: String,
    /// Replaces the image's entry point if not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Replaces the image's command if not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User (and group) to run as, as Docker writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Capabilities to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// CPU limit in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u32>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What the runtime does when it exits by itself.
    pub restart: RestartPolicy,
    /// How long a stop waits between SIGTERM and SIGKILL.
    pub stop_grace_period: Span,
    /// The operator's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports published on the machine's own addresses: machine port to port name.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::number_keys::deserialize"
    )]
    pub publish: BTreeMap<u16, String>,
    /// Which network it joins.
    pub network: Network,
}

/// What becomes of an instance that exits by itself; kept by the runtime, never by `ployzd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Started again, with growing pauses.
    #[default]
    Always,
    /// Started again unless it exited with 0.
    OnFailure,
    /// Left as it is.
    No,
}

/// The network of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The cluster's network: an address of its own.
    #[default]
    Overlay,
    /// The machine's network.
    Host,
    /// None.
    None,
}

/// What is asked of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeRequest {
    /// What is this instance like? Answered with [`RuntimeReply::Instance`].
    Inspect {
        /// The instance.
        instance: InstanceName,
    },
    /// All labelled instances on this machine, of one namespace or of all. Answered with [`RuntimeReply::Instances`].
    List {
        /// `None`: all.
        namespace: Option<Namespace>,
    },
    /// Makes the instance and starts it. Fails if the name is taken.
    Create {
        /// What to make.
        spec: Box<InstanceSpec>,
    },
    /// Starts an instance that was stopped. Running already is success.
    Start {
        /// The instance.
        instance: InstanceName,
    },
    /// Stops an instance: SIGTERM, after `grace` SIGKILL. Stopped or gone already is success. A stopped instance
    /// stays stopped over restarts of the runtime.
    Stop {
        /// The instance.
        instance: InstanceName,
        /// How long it may take.
        grace: Span,
    },
    /// Removes an instance, killing it if it runs. Gone already is success.
    Remove {
        /// The instance.
        instance: InstanceName,
    },
    /// One readiness probe. Answered with [`RuntimeReply::Probed`]: that it is not ready is no failure.
    Probe {
        /// The instance.
        instance: InstanceName,
        /// Where it listens.
        address: IpAddr,
        /// What to try.
        probe: Probe,
        /// The port behind the probe's port name; 0 where the probe has none.
        port: u16,
        /// How long it may take.
        timeout: Span,
    },
    /// The last lines that it wrote. Answered with [`RuntimeReply::Logs`].
    Logs {
        /// The instance.
        instance: InstanceName,
        /// How many lines.
        tail: u32,
    },
    /// Answers only when no effect that an earlier incarnation of the daemon issued on this instance can still land.
    Settle {
        /// The instance.
        instance: InstanceName,
    },
    /// What this machine offers, and which of these images are here. Answered with [`RuntimeReply::Facts`].
    Facts {
        /// Image references to look up.
        images: Vec<String>,
        /// Machine ports that are to be published: which of them are taken?
        ports: Vec<u16>,
    },
}

impl RuntimeRequest {
    /// The instance that the request changes, `None` if it only looks.
    #[must_use]
    pub fn mutates(&self) -> Option<&InstanceName> {
        match self {
            Self::Create { spec } => Some(&spec.name),
            Self::Start { instance } | Self::Stop { instance, .. } | Self::Remove { instance } => {
                Some(instance)
            }
            Self::Inspect { .. }
            | Self::List { .. }
            | Self::Probe { .. }
            | Self::Logs { .. }
            | Self::Settle { .. }
            | Self::Facts { .. } => None,
        }
    }
}

/// A runtime's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeReply {
    /// It is done.
    Done,
    /// To an inspect: `None` if there is none.
    Instance(Option<ObservedInstance>),
    /// To a list.
    Instances(Vec<ObservedInstance>),
    /// To a probe: `Err` says why it is not ready.
    Probed(Result<(), String>),
    /// To a question for logs, oldest line first.
    Logs(Vec<String>),
    /// To a question for facts.
    Facts(RuntimeFacts),
}

/// An instance as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// What it was made from, as its labels say.
    pub spec: InstanceSpec,
    /// What it does now.
    pub state: InstanceState,
    /// When it was last started.
    pub started_at: Option<UnixTime>,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// How often the runtime started it again.
    pub restarts: u32,
    /// The exit code with which it last ended by itself before the runtime started it again, or will; 128 + n for signal n. `None`: it never
    /// did, or the runtime does not know it (Docker forgets it at the start).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<i32>,
}

impl ObservedInstance {
    /// The exit code with which it ended last, if that is known.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            InstanceState::Exited { code } => Some(code),
            InstanceState::Created | InstanceState::Running | InstanceState::Restarting => {
                self.last_exit
            }
        }
    }
}

/// An exit code, with the signal that it stands for: `3`, `137 (signal 9)`.
#[must_use]
pub fn exit_in_words(code: i32) -> String {
    match code - 128 {
        // The highest number of a signal.
        signal @ 1..=64 => format!("{code} (signal {signal})"),
        _ => code.to_string(),
    }
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum InstanceState {
    /// Made, never started.
    Created,
    /// It runs.
    Running,
    /// It exited by itself and the runtime will start it again after a pause.
    Restarting,
    /// It ended, by itself or by a stop.
    Exited {
        /// Its exit code; 128 + n for signal n.
        code: i32,
    },
}

impl InstanceState {
    /// Whether it runs, or will without anybody's doing.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self, Self::Running | Self::Restarting)
    }
}

/// What a machine offers, observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuntimeFacts {
    /// Which of the images asked for are here.
    pub images_present: Vec<String>,
    /// Which of the machine ports asked for are in use, by anything.
    pub ports_taken: Vec<u16>,
    /// The TCP ports that anybody listens on, running instances too, where instances listen on the machine itself: no new instance gets
    /// one of them. Empty in the container runtime, whose instances have addresses of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports_listening: Vec<u16>,
    /// Cores in thousandths.
    pub cpu_total_millis: u32,
    /// Memory in bytes.
    pub memory_total_bytes: u64,
    /// Free bytes where the runtime keeps its data, or where the daemon and the store's server keep theirs: the lesser.
    pub disk_free_bytes: u64,
}

/// Why a runtime did not do it. It did not happen, and never will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RuntimeError {
    /// The image is not on this machine.
    #[error("image {image} is not on this machine")]
    ImageMissing {
        /// The image.
        image: String,
    },
    /// The name is taken by an instance that is not this one, or by something that is not ours.
    #[error("the name {instance} is taken")]
    NameTaken {
        /// The name.
        instance: InstanceName,
    },
    /// A machine port is in use.
    #[error("a port is in use: {detail}")]
    PortInUse {
        /// What the runtime said.
        detail: String,
    },
    /// No space, or another limit.
    #[error("the disk is full: {detail}")]
    DiskFull {
        /// What the runtime said.
        detail: String,
    },
    /// There is no such instance.
    #[error("there is no instance {instance}")]
    NoSuchInstance {
        /// The name.
        instance: InstanceName,
    },
    /// Nothing can be run as the service says: a command that is not found or not executable, a bad user, capability or limit.
    #[error("the instance cannot be run as its service is written: {detail}")]
    CannotRun {
        /// What the runtime said.
        detail: String,
    },
    /// The runtime itself is away.
    #[error("the runtime is away: {detail}")]
    Unavailable {
        /// What was tried.
        detail: String,
    },
    /// Anything else.
    #[error("{detail}")]
    Other {
        /// What the runtime said.
        detail: String,
    },
}

impl RuntimeError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ImageMissing { .. } => "IMAGE_MISSING",
            Self::NameTaken { .. } => "NAME_TAKEN",
            Self::PortInUse { .. } => "PORT_IN_USE",
            Self::DiskFull { .. } => "DISK_FULL",
            Self::NoSuchInstance { .. } => "NO_SUCH_INSTANCE",
            Self::CannotRun { .. } => "CANNOT_RUN",
            Self::Unavailable { .. } => "RUNTIME_AWAY",
            Self::Other { .. } => "RUNTIME_ERROR",
        }
    }
}
