//! A story: a cluster, what is asked of it and when, and what goes wrong when. It is drawn from choices, written as JSON for
//! people, played by [`crate::play`], and shrunk by leaving things out.

mod check;
mod draw;
mod fault;
mod idle;
mod past;
mod quiet;
mod scenes;
mod words;

use proto_core::api::OperationRequest;
use proto_core::deploy::spec::{Constraint, Manifest, Replicas, Strategy, Topology};
use proto_core::id::{Namespace, ServiceName};
use serde::{Deserialize, Serialize};

pub use draw::{Profile, Shape, draw, of_seed};
pub use fault::{CLASSES, EffectFate, Fault, What};
pub use idle::{DEPLOYED_WITHIN, idle};
pub(crate) use past::ADDRESSES;
pub use words::machine_name;

use crate::specs;

/// The version of the shape.
pub const VERSION: u32 = 1;

/// A story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    /// Shape version.
    pub v: u32,
    /// Where latencies and everything else that the story does not say come from.
    pub seed: u64,
    /// How many machines.
    pub nodes: usize,
    /// How many servers the store has, on the first machines: 1, 3 or 5.
    pub servers: usize,
    /// How long operators and faults are at work, in milliseconds. Then everything is mended.
    pub length: u64,
    /// Between two requests of clients, anywhere, in milliseconds; 0: there are none.
    pub request_every: u64,
    /// How many addresses of each machine were used before the story, by instances that are long gone; 253 at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub used: u16,
    /// What is asked for, in no particular order.
    pub operations: Vec<Asked>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// A machine that loses power when everything else is mended, and comes back a while later: until then, what cannot go on
    /// without it says so, and everything else comes to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<usize>,
    /// An invariant that this story broke when it was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broke: Option<String>,
}

/// Something that an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// When, in milliseconds from the beginning.
    pub at: u64,
    /// On which machine.
    pub machine: usize,
    /// What.
    pub action: Action,
    /// The operator changes their mind after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_after: Option<u64>,
    /// What the operator does when it does not come to an end.
    pub then: Then,
    /// Where the operator does that.
    pub then_on: usize,
}

/// What an operator does about an operation that was interrupted or is unknown, or whose daemon died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Says the same again.
    Retry,
    /// `op resume`.
    Resume,
    /// `op abort`.
    Abort,
    /// Resumes what is in the way; told that their own is unfinished, leaves that to others.
    Leave,
    /// Goes home.
    GiveUp,
}

/// What is asked for. Namespaces are `ns<n>`, their services `s<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Deploy this.
    Deploy {
        /// The namespace.
        ns: u32,
        /// Its services.
        services: Vec<Service>,
    },
    /// Deploy one service.
    DeployService {
        /// The namespace.
        ns: u32,
        /// The service.
        service: Service,
    },
    /// Scale a service.
    Scale {
        /// The namespace.
        ns: u32,
        /// The service.
        s: u32,
        /// How many instances.
        replicas: u32,
    },
    /// Restart a service.
    Restart {
        /// The namespace.
        ns: u32,
        /// The service.
        s: u32,
    },
    /// Stop a service.
    Stop {
        /// The namespace.
        ns: u32,
        /// The service.
        s: u32,
    },
    /// Go back to an earlier commit.
    Rollback {
        /// The namespace.
        ns: u32,
        /// Which; `None`: the one before the head.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Remove the namespace.
    Remove {
        /// The namespace.
        ns: u32,
    },
    /// Only look at what this would do.
    Preview {
        /// What.
        of: Box<Action>,
    },
    /// Prepare this, and apply the plan some milliseconds later.
    Prepared {
        /// What.
        of: Box<Action>,
        /// How much later.
        after: u64,
    },
}

/// A service that is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its number.
    pub s: u32,
    /// What its instances do: see [`crate::world::runtime::Behaviour`].
    pub image: String,
    /// How many; 0: one on each machine.
    pub replicas: u32,
    /// How it is rolled out.
    pub strategy: Strategy,
    /// Host names beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The memory that each instance reserves, in GiB; a machine has 8.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: u64,
    /// The port of the machine that it is published on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<u16>,
    /// The machine that its instances must be on, or must not be on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,
}

/// A constraint to one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinned {
    /// To be there only.
    To(usize),
    /// To be anywhere else.
    AwayFrom(usize),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Action {
    /// Kinds of operations, by the names that reports count them under.
    pub const KINDS: [&str; 9] = [
        "deploy",
        "deploy_service",
        "scale",
        "restart",
        "stop",
        "rollback",
        "remove",
        "preview",
        "prepared",
    ];

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deploy { .. } => "deploy",
            Self::DeployService { .. } => "deploy_service",
            Self::Scale { .. } => "scale",
            Self::Restart { .. } => "restart",
            Self::Stop { .. } => "stop",
            Self::Rollback { .. } => "rollback",
            Self::Remove { .. } => "remove",
            Self::Preview { .. } => "preview",
            Self::Prepared { .. } => "prepared",
        }
    }

    /// The number of its namespace.
    #[must_use]
    pub fn ns(&self) -> u32 {
        match self {
            Self::Deploy { ns, .. }
            | Self::DeployService { ns, .. }
            | Self::Scale { ns, .. }
            | Self::Restart { ns, .. }
            | Self::Stop { ns, .. }
            | Self::Rollback { ns, .. }
            | Self::Remove { ns } => *ns,
            Self::Preview { of } | Self::Prepared { of, .. } => of.ns(),
        }
    }

    /// The request that a daemon is sent.
    ///
    /// # Panics
    ///
    /// Never: the names are made from numbers.
    #[must_use]
    pub fn request(&self) -> OperationRequest {
        match self {
            Self::Deploy { ns, services } => {
                let spec = |service: &Service| (name(service.s), service.spec(*ns));
                let services = services.iter().map(spec).collect();
                OperationRequest::Deploy {
                    manifest: Manifest { namespace: namespace(*ns), services },
                }
            }
            Self::DeployService { ns, service } => OperationRequest::DeployService {
                namespace: namespace(*ns),
                service: name(service.s),
                spec: Box::new(service.spec(*ns)),
            },
            Self::Scale { ns, s, replicas } => OperationRequest::Scale {
                namespace: namespace(*ns),
                replicas: [(name(*s), *replicas)].into(),
            },
            Self::Restart { ns, s } => {
                OperationRequest::Restart { namespace: namespace(*ns), service: name(*s) }
            }
            Self::Stop { ns, s } => {
                OperationRequest::Stop { namespace: namespace(*ns), service: name(*s) }
            }
            Self::Rollback { ns, to } => {
                OperationRequest::Rollback { namespace: namespace(*ns), to: *to }
            }
            Self::Remove { ns } => OperationRequest::RemoveNamespace { namespace: namespace(*ns) },
            Self::Preview { of } | Self::Prepared { of, .. } => of.request(),
        }
    }
}

impl Service {
    /// One with nothing but the host name of its own.
    #[must_use]
    pub fn new(s: u32, image: String, replicas: u32, strategy: Strategy) -> Self {
        let (names, memory, publish, pinned) = (Vec::new(), 0, None, None);
        Self { s, image, replicas, strategy, names, memory, publish, pinned }
    }

    fn spec(&self, ns: u32) -> proto_core::deploy::spec::ServiceSpec {
        let replicas = match self.replicas {
            0 => Replicas::Global,
            n => Replicas::Count(n),
        };
        let mut spec = specs::service(&self.image, self.strategy, replicas, &host(ns, self.s));
        let names = self.names.iter().map(|name| name.parse().expect("a host name"));
        spec.routes[0].hostnames.extend(names);
        spec.reservation.memory_bytes = self.memory << 30;
        spec.workload.publish.extend(self.publish.map(|port| (port, "http".to_owned())));
        spec.placement.constraints.extend(self.pinned.map(|pinned| {
            let (equal, machine) = match pinned {
                Pinned::To(machine) => (true, machine),
                Pinned::AwayFrom(machine) => (false, machine),
            };
            Constraint { attribute: Topology::Machine, equal, value: machine_name(machine) }
        }));
        spec
    }
}

/// The host name under which a service is reached.
#[must_use]
pub fn host(ns: u32, s: u32) -> String {
    format!("s{s}.ns{ns}.example.com")
}

pub(crate) fn namespace(ns: u32) -> Namespace {
    Namespace::new(format!("ns{ns}")).expect("letters and digits")
}

fn name(s: u32) -> ServiceName {
    ServiceName::new(format!("s{s}")).expect("letters and digits")
}
