//! What an operation will do, in full, before it does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::deploy::spec::{Reservation, ServiceSpec};
use crate::digest::Digest;
use crate::id::{InstanceName, MachineId, OperationId, StepId};
use crate::runtime::{InstanceSpec, Readiness};
use crate::span::Span;
use crate::store::facts::{Allocation, Claim, Commit};
use crate::store::{Key, Scope};

/// Everything an operation will do. `preview` prints exactly the plan that `apply` executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The operation: a digest of the request and the baseline.
    pub operation: OperationId,
    /// What it changes.
    pub scope: Scope,
    /// The facts that it was made against.
    pub baseline: Baseline,
    /// For people: what is worth knowing before it runs, a sentence each.
    pub notes: Vec<String>,
    /// Before the commit; undone if the operation aborts.
    pub steps: Vec<Step>,
    /// What becomes durable at the point of no return.
    pub commit: PlannedCommit,
    /// After the commit; never undone, repeated until done.
    pub cleanup: Vec<Step>,
    /// Where the namespace sets aside more than it had: what all other namespaces together may have set aside on that machine. Looked
    /// at once more when the record is there for the others to see; see [`Reservation`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_to_others: BTreeMap<MachineId, Reservation>,
    /// How often addresses had been used of each machine on which instances are made (see [`super::command::Uses`]). Looked at once more
    /// behind the barrier: what was drawn may have been used, and given up, since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uses: BTreeMap<MachineId, u64>,
}

impl Plan {
    /// The identity of the plan, for `apply-prepared` and for comparing a preview with what ran.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }

    /// The machines that take part in it: those that only say what they serve do not.
    #[must_use]
    pub fn machines(&self) -> BTreeSet<MachineId> {
        let steps = self.steps.iter().chain(&self.cleanup);
        let taking_part = steps.filter(|step| step.action != Action::AwaitRoutes);
        taking_part.map(|step| step.machine.clone()).collect()
    }

    /// The instances that its steps make, and on which machine each.
    pub fn made(&self) -> impl Iterator<Item = (&MachineId, &InstanceSpec)> {
        self.steps.iter().filter_map(|step| Some((&step.machine, step.action.makes()?)))
    }

    /// Why no planner made it, as a sentence; `None` if it can be run to an end and writes nothing but what is its namespace's.
    ///
    /// Plans come back from files and from the store. The engine trusts those that it takes.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let Scope::Namespace(namespace) = &self.scope;
        let PlannedCommit { commit, claims, gains, releases, .. } = &self.commit;
        if commit.namespace != *namespace {
            return Some(format!("its commit is of namespace {}", commit.namespace));
        }
        if commit.operation != self.operation {
            return Some(format!("its commit is of operation {}", commit.operation));
        }
        if self.baseline.head.checked_add(1) != Some(commit.number) {
            let head = self.baseline.head;
            return Some(format!("its commit is number {} after {head}", commit.number));
        }
        let is_claim = |key: &Key| key.is_under(&Key::hosts()) || key.is_under(&Key::ports());
        let mut keys = claims.keys().chain(gains).chain(releases);
        if let Some(key) = keys.find(|key| !is_claim(key)) {
            return Some(format!("it claims {key}, which is neither host name nor port"));
        }
        if let Some((key, claim)) = claims.iter().find(|(_, claim)| claim.namespace != *namespace) {
            return Some(format!("it claims {key} for namespace {}", claim.namespace));
        }
        [&self.steps, &self.cleanup].into_iter().find_map(|steps| order_flaw(steps))
    }
}

/// Why these steps never all get their turn.
fn order_flaw(steps: &[Step]) -> Option<String> {
    let mut waiting: BTreeMap<&StepId, &[StepId]> = BTreeMap::new();
    for step in steps {
        if waiting.insert(&step.id, &step.after).is_some() {
            return Some(format!("it has the step {} twice", step.id));
        }
    }
    let mut done: BTreeSet<&StepId> = BTreeSet::new();
    while !waiting.is_empty() {
        let ready: Vec<_> = waiting
            .iter()
            .filter(|(_, after)| after.iter().all(|before| done.contains(before)))
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            let stuck = waiting.keys().next().map(ToString::to_string).unwrap_or_default();
            return Some(format!("the step {stuck} waits for one that never comes"));
        }
        for id in ready {
            waiting.remove(id);
            done.insert(id);
        }
    }
    None
}

/// The facts that a plan was made against, a component each, so that a refusal can name the one that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The number of the head commit; 0: the namespace has none.
    pub head: u64,
    /// The instances that were seen, by machine and name, with the digest of what they were made from.
    pub instances: BTreeMap<MachineId, BTreeMap<InstanceName, Digest>>,
}

impl Baseline {
    /// The first component in which `now` differs, as a sentence; `None` if they agree.
    #[must_use]
    pub fn drift(&self, now: &Self) -> Option<String> {
        if self.head != now.head {
            return Some(format!(
                "the head moved: the plan was made against commit {}, the head is commit {}",
                self.head, now.head
            ));
        }
        let machines: BTreeSet<_> = self.instances.keys().chain(now.instances.keys()).collect();
        machines.into_iter().find_map(|machine| {
            let (then, now) = (self.instances.get(machine), now.instances.get(machine));
            (then.unwrap_or(&BTreeMap::new()) != now.unwrap_or(&BTreeMap::new()))
                .then(|| format!("the instances on machine {machine} changed"))
        })
    }
}

/// What becomes durable in the one atomic batch of the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCommit {
    /// `ns.<ns>.commit.<n>`; its time is filled in when it is written.
    pub commit: Commit,
    /// The namespace goes with this commit.
    pub removes_namespace: bool,
    /// `ns.<ns>.revision.<digest>`: written before the batch, as they are immutable and named by their content.
    pub revisions: BTreeMap<Digest, ServiceSpec>,
    /// `allocation.<ns>`: what the namespace takes after the commit.
    pub allocation: Allocation,
    /// Claims to be held after the commit.
    pub claims: BTreeMap<Key, Claim>,
    /// Those of them that the namespace did not have when this was planned: an abort gives them up, in case a store that lost its
    /// power in the middle of the batch has kept them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gains: BTreeSet<Key>,
    /// Claims to be given up.
    pub releases: BTreeSet<Key>,
}

/// One bounded, idempotent change of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique within the plan.
    pub id: StepId,
    /// Where.
    pub machine: MachineId,
    /// What.
    pub action: Action,
    /// What takes it back; `None` if there is nothing to take back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Action>,
    /// Steps that must be done before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<StepId>,
    /// How long it may take, all attempts together.
    pub deadline: Span,
}

/// What a machine is told to make true. Absolute: doing it twice is doing it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// This instance exists, as specified, and runs.
    Ensure {
        /// The instance.
        spec: Box<InstanceSpec>,
    },
    /// This instance is ready.
    AwaitReady {
        /// The instance.
        instance: InstanceName,
        /// Where it listens.
        address: IpAddr,
        /// The port that the probe's port name stands for; 0 if it has none.
        port: u16,
        /// When it counts as ready; `None`: still running after one second.
        readiness: Option<Readiness>,
    },
    /// This instance exists and runs again.
    Start {
        /// The instance.
        instance: InstanceName,
    },
    /// This instance does not run.
    Stop {
        /// The instance.
        instance: InstanceName,
        /// Between SIGTERM and SIGKILL.
        grace: Span,
    },
    /// This instance does not exist.
    Remove {
        /// The instance.
        instance: InstanceName,
        /// Between SIGTERM and SIGKILL, if it runs.
        grace: Span,
    },
    /// The machine's gateway and DNS serve the commit of this operation, or did not say so in time: a machine that does not answer
    /// holds nobody up, but what it may still route to gets this time.
    AwaitRoutes,
    /// The machine's gateway has no request under way to these backends, or the step's deadline passed.
    Drain {
        /// Where the instance listens.
        backends: Vec<SocketAddr>,
        /// For how long at the most.
        within: Span,
    },
}

impl Action {
    /// The instance that it changes; `None` if it only looks.
    #[must_use]
    pub fn changes(&self) -> Option<&InstanceName> {
        match self {
            Self::Ensure { spec } => Some(&spec.name),
            Self::Start { instance }
            | Self::Stop { instance, .. }
            | Self::Remove { instance, .. } => Some(instance),
            Self::AwaitReady { .. } | Self::AwaitRoutes | Self::Drain { .. } => None,
        }
    }

    /// The instance that it makes.
    #[must_use]
    pub fn makes(&self) -> Option<&InstanceSpec> {
        match self {
            Self::Ensure { spec } => Some(spec),
            _ => None,
        }
    }
}

impl std::fmt::Display for Action {
    /// What a person reads in a preview.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ensure { spec } => write!(f, "start {} at {}", spec.name, spec.address),
            Self::AwaitReady { instance, .. } => write!(f, "wait until {instance} is ready"),
            Self::Start { instance } => write!(f, "start {instance} again"),
            Self::Stop { instance, grace } => write!(f, "stop {instance} (within {grace})"),
            Self::Remove { instance, .. } => write!(f, "remove {instance}"),
            Self::AwaitRoutes => f.write_str("wait until gateway and DNS serve the commit"),
            Self::Drain { within, .. } => write!(f, "drain old connections (at most {within})"),
        }
    }
}
