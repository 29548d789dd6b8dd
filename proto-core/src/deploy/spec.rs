//! The manifest's types, as they are after parsing and as they are stored in `ns.<ns>.revision.<digest>`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HostName;
use crate::digest::Digest;
use crate::id::{Namespace, ServiceName};
use crate::runtime::{Readiness, Workload};
use crate::span::Span;

/// What a namespace shall be: every service that it shall have. A service that is left out is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The namespace.
    pub namespace: Namespace,
    /// The services, by name.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
}

impl Manifest {
    /// The identity of what is asked for: equal for two texts that ask for the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }
}

/// A service, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// What its instances are made from.
    pub workload: Workload,
    /// How many, and where.
    pub placement: Placement,
    /// CPU and memory that are set aside for each instance.
    #[serde(default, skip_serializing_if = "Reservation::is_zero")]
    pub reservation: Reservation,
    /// Named ports that its instances listen on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// How requests reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// When an instance counts as ready; `None`: when it is still running one second after its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How a change is rolled out.
    pub rollout: Rollout,
    /// What becomes of a deploy when this service's new instances do not become ready.
    pub on_failure: OnFailure,
}

impl ServiceSpec {
    /// The name under which the spec is stored.
    #[must_use]
    pub fn revision(&self) -> Digest {
        Digest::of(self)
    }
}

/// How many instances of a service there are, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// How many.
    pub replicas: Replicas,
    /// Every one must hold on a machine that takes an instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// The topology over which instances are spread evenly.
    pub spread: Topology,
}

/// How many instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replicas {
    /// One on each machine that the constraints allow.
    Global,
    /// This many, 0 to 1000.
    Count(u32),
}

/// A condition on the machine: `attribute == value` or `attribute != value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Constraint {
    /// What is looked at.
    pub attribute: Topology,
    /// True for `==`, false for `!=`.
    pub equal: bool,
    /// What it is compared with.
    pub value: String,
}

/// An attribute of a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Its id.
    Machine,
    /// Its region.
    Region,
    /// Its availability zone.
    Az,
    /// One of its labels.
    Label(String),
}

impl std::fmt::Display for Topology {
    /// As a manifest writes it: `machine`, `region`, `az`, `label.disk`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine => f.write_str("machine"),
            Self::Region => f.write_str("region"),
            Self::Az => f.write_str("az"),
            Self::Label(name) => write!(f, "label.{name}"),
        }
    }
}

impl std::fmt::Display for Constraint {
    /// As a manifest writes it: `region == eu`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operator = if self.equal { "==" } else { "!=" };
        write!(f, "{} {operator} {}", self.attribute, self.value)
    }
}

/// What is set aside for each instance; zero sets nothing aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reservation {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Reservation {
    /// Whether nothing is set aside.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// How requests reach a service: any of the host names, and a path that starts with whole segments of the prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Host names, at least one.
    pub hostnames: Vec<HostName>,
    /// Starts with `/`; `/api` takes `/api` and `/api/x`, not `/apix`.
    pub path_prefix: String,
    /// The name of the port that takes the requests.
    pub port: String,
}

/// How a change is rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// In which order old instances go and new ones come.
    pub strategy: Strategy,
    /// How many instances are replaced at a time by `rolling`; at least 1.
    pub batch: u32,
    /// How long an old instance goes on serving what it has begun, after the gateways sent new requests elsewhere.
    pub drain: Span,
}

/// What becomes of a deploy when a service's new instances do not become ready.
///
/// A manifest that wants `rollback` is refused: a deploy fails before its commit or not at all, so there is never anything
/// committed that could be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The deploy is undone before it commits, and the old instances serve on.
    #[default]
    Abort,
}

/// In which order old instances go and new ones come. The head moves once, when all new ones are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The old instances stop, then the new ones start: what cannot run twice at once.
    Recreate,
    /// New instances start beside the old ones, `batch` at a time; after the commit the old ones go, `batch` at a time.
    Rolling,
    /// All new instances start beside the old ones at once; after the commit all the old ones go at once.
    BlueGreen,
}
