//! What a run asks, and the instances that it asks for.

use std::net::Ipv4Addr;

use proto_core::digest::Digest;
use proto_core::id::{InstanceName, OperationId};
use proto_core::runtime::{InstanceSpec, Network, Probe, RestartPolicy, RuntimeRequest, Workload};
use proto_core::span::Span;
use tests::conformance::Simpler;

/// An instance of a run: the model reads what it does from its image, the real part runs a script that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    namespace: &'static str,
    pub(crate) image: &'static str,
    restart: RestartPolicy,
    script: &'static str,
}

/// Says that it runs once signals are handled.
const RUNS: &str = "trap 'exit 143' TERM; trap 'exit 1' USR1; echo a line; sleep 100000 & wait";

const fn kind(
    name: &'static str,
    image: &'static str,
    restart: RestartPolicy,
    script: &'static str,
) -> Kind {
    Kind { name, namespace: "shop", image, restart, script }
}

pub(crate) const KINDS: [Kind; 9] = [
    kind("runs", "ready-0", RestartPolicy::No, RUNS),
    Kind { namespace: "blog", ..kind("other", "ready-0", RestartPolicy::No, RUNS) },
    kind("never", "never", RestartPolicy::No, RUNS),
    kind("keeps", "ready-0", RestartPolicy::Always, RUNS),
    kind("exits", "exits-3", RestartPolicy::No, "echo a line; exit 3"),
    kind("zero", "exits-0", RestartPolicy::OnFailure, "echo a line; exit 0"),
    kind("fails", "exits-3", RestartPolicy::OnFailure, "echo a line; exit 3"),
    kind("loops", "exits-0", RestartPolicy::Always, "echo a line; exit 0"),
    kind("missing", "missing", RestartPolicy::No, RUNS),
];

impl Kind {
    /// It runs until it is told to end.
    pub(crate) fn runs(&self) -> bool {
        self.script == RUNS
    }

    /// It exits again and again.
    pub(crate) fn loops(&self) -> bool {
        matches!(self.name, "fails" | "loops")
    }

    /// It is of an image that is not here.
    pub(crate) fn is_missing(&self) -> bool {
        self.name == "missing"
    }

    pub(crate) fn instance(&self) -> InstanceName {
        InstanceName::new(self.name).expect("a literal")
    }

    /// What the model makes of it.
    pub(crate) fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            name: self.instance(),
            namespace: self.namespace.parse().expect("a literal"),
            service: "web".parse().expect("a literal"),
            slot: 0,
            operation: OperationId::from_digest(&Digest::of_bytes(self.name.as_bytes())),
            workload: Workload {
                image: self.image.to_owned(),
                entrypoint: vec!["sh".to_owned(), "-c".to_owned()],
                command: vec![self.script.to_owned()],
                env: [].into(),
                user: None,
                cap_add: Vec::new(),
                cap_drop: Vec::new(),
                cpu_limit_millis: None,
                memory_limit_bytes: None,
                restart: self.restart,
                stop_grace_period: Span::from_secs(10),
                labels: [].into(),
                publish: [].into(),
                network: Network::None,
            },
            address: Ipv4Addr::LOCALHOST.into(),
            ports: [].into(),
        }
    }
}

/// One thing that is done to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Create(usize),
    Start(usize),
    Stop(usize),
    Remove(usize),
    Inspect(usize),
    Probe(usize),
    Logs(usize),
    Settle(usize),
    ListAll,
    ListNamespace,
    Images,
    /// An instance that runs fails by itself, with 1.
    Fail(usize),
}

impl Ask {
    /// The instance that it is about.
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            Self::Create(kind)
            | Self::Start(kind)
            | Self::Stop(kind)
            | Self::Remove(kind)
            | Self::Inspect(kind)
            | Self::Probe(kind)
            | Self::Logs(kind)
            | Self::Settle(kind)
            | Self::Fail(kind) => Some(KINDS[kind]),
            Self::ListAll | Self::ListNamespace | Self::Images => None,
        }
    }

    /// The request, if it is one.
    pub(crate) fn request(self) -> Option<RuntimeRequest> {
        let of = |kind: usize| KINDS[kind].instance();
        Some(match self {
            Self::Create(kind) => RuntimeRequest::Create { spec: Box::new(KINDS[kind].spec()) },
            Self::Start(kind) => RuntimeRequest::Start { instance: of(kind) },
            Self::Stop(kind) => {
                RuntimeRequest::Stop { instance: of(kind), grace: Span::from_secs(10) }
            }
            Self::Remove(kind) => RuntimeRequest::Remove { instance: of(kind) },
            Self::Inspect(kind) => RuntimeRequest::Inspect { instance: of(kind) },
            Self::Probe(kind) => {
                let command = if KINDS[kind].image == "never" { "false" } else { "true" };
                RuntimeRequest::Probe {
                    instance: of(kind),
                    address: Ipv4Addr::LOCALHOST.into(),
                    probe: Probe::Exec { command: vec![command.to_owned()] },
                    port: 0,
                    timeout: Span::from_secs(30),
                }
            }
            Self::Logs(kind) => RuntimeRequest::Logs { instance: of(kind), tail: 1 },
            Self::Settle(kind) => RuntimeRequest::Settle { instance: of(kind) },
            Self::ListAll => RuntimeRequest::List { namespace: None },
            Self::ListNamespace => {
                RuntimeRequest::List { namespace: Some("shop".parse().expect("a literal")) }
            }
            Self::Images => RuntimeRequest::Facts {
                images: vec!["ready-0".to_owned(), "missing".to_owned()],
                ports: Vec::new(),
            },
            Self::Fail(_) => return None,
        })
    }
}

impl Simpler for Ask {
    fn simpler(&self) -> Vec<Self> {
        Vec::new()
    }
}
