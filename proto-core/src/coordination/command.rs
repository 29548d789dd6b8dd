//! What a coordinator says to a machine, and what the machine answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Action;
use crate::id::{Epoch, MachineId, Namespace, OperationId, StepId};
use crate::runtime::{ObservedInstance, RuntimeError, RuntimeFacts, exit_in_words};
use crate::span::Span;
use crate::store::{Revision, Scope};

/// A message to a machine. JSON on `ployz.cmd.<machine>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Shape version, 1.
    pub v: u32,
    /// On whose behalf.
    pub operation: OperationId,
    /// Which try of it: counts from 1. 0: of nothing that is recorded, or the sender is too old to say.
    #[serde(default)]
    pub attempt: u32,
    /// How long the sender waits for the answer.
    pub deadline: Span,
    /// What is wanted.
    pub body: CommandBody,
}

/// What is wanted of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum CommandBody {
    /// Look, change nothing. Needs no epoch. Answered with [`CommandReply::Observed`].
    Observe {
        /// Instances of this namespace, or of all.
        namespace: Option<Namespace>,
        /// Are these images here?
        images: Vec<String>,
        /// Are these machine ports taken?
        ports: Vec<u16>,
    },
    /// From now on reject lower epochs of the scope; answer when no effect of a lower one can still land.
    /// Answered with [`CommandReply::Done`].
    Barrier {
        /// The fenced scope.
        scope: Scope,
        /// The new floor.
        epoch: Epoch,
    },
    /// Make it true. Answered with [`CommandReply::Done`] or [`CommandReply::Failed`].
    Perform {
        /// The fenced scope.
        scope: Scope,
        /// The sender's epoch.
        epoch: Epoch,
        /// The step, for idempotence and for the journal.
        step: StepId,
        /// What.
        action: Action,
        /// The store position of the operation's commit, once there is one.
        commit: Option<Revision>,
    },
}

/// A machine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum CommandReply {
    /// To [`CommandBody::Observe`].
    Observed(MachineObservation),
    /// It is so. The note is for people: what was worth saying.
    Done {
        /// For example that a gateway did not answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        /// To [`CommandBody::Barrier`]: which addresses of this machine others than the try that asks have used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used_by_others: Option<Uses>,
    },
    /// The epoch is lower than one that this machine has seen. Nothing was done, and nothing will be.
    Stale {
        /// The highest that it has seen.
        floor: Epoch,
    },
    /// It is not so, and nothing of this command is under way any more.
    Failed(StepFailure),
    /// This machine cannot tell: the runtime lost an answer and does not say what became of it. Ask again.
    Unknown,
}

/// Which addresses of a machine have been used, and in which order.
///
/// A place is the last byte of an address of the machine's subnet, or a port where all instances share one address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Uses {
    /// How many there have been: they are counted from 1 on. That an address is given up is one too.
    pub count: u64,
    /// The newest use that is not remembered any more; 0 if all are.
    #[serde(default)]
    pub forgotten: u64,
    /// When each place was used last: as JSON a list of pairs, as a tagged answer cannot have keys that are numbers.
    #[serde(default, with = "pairs")]
    pub places: BTreeMap<u16, u64>,
}

mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<u16, u64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<u16, u64>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

impl Uses {
    /// Whether a place has been used since there were so many uses. What is forgotten may have been one of it.
    #[must_use]
    pub fn since(&self, count: u64, place: u16) -> bool {
        self.forgotten > count || self.places.get(&place).is_some_and(|at| *at > count)
    }
}

/// A machine as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineObservation {
    /// Which machine.
    pub machine: MachineId,
    /// Its labelled instances.
    pub instances: Vec<ObservedInstance>,
    /// What it offers.
    pub facts: RuntimeFacts,
    /// The runtime's name: `docker` or `process`.
    pub runtime: String,
    /// Which of its addresses have been used: a new instance gets one that has not been for longest.
    #[serde(default)]
    pub uses: Uses,
}

/// Why a step cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum StepFailure {
    /// The runtime would not.
    #[error("{error}")]
    Runtime {
        /// What it said.
        error: RuntimeError,
    },
    /// It ended before it was ready.
    #[error("{instance} exited{}{}", with(*code), restarted(*restarts))]
    Exited {
        /// The instance.
        instance: crate::id::InstanceName,
        /// Its exit code, 128 + n for signal n; `None`: it runs again, and the runtime does not tell how it ended before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// How often the runtime had started it again.
        restarts: u32,
        /// Its last log lines.
        logs: Vec<String>,
    },
    /// Its readiness probe went on failing.
    #[error("{instance} did not become ready: {probe}")]
    NotReady {
        /// The instance.
        instance: crate::id::InstanceName,
        /// What the last probe said.
        probe: String,
        /// Its last log lines.
        logs: Vec<String>,
    },
    /// Another instance has the address that the plan drew.
    #[error("the address of {instance} is in use by {by}")]
    AddressTaken {
        /// The instance.
        instance: crate::id::InstanceName,
        /// Who has it.
        by: crate::id::InstanceName,
    },
}

fn with(code: Option<i32>) -> String {
    code.map_or(", how is not known".to_owned(), |code| {
        format!(" with code {}", exit_in_words(code))
    })
}

fn restarted(restarts: u32) -> String {
    match restarts {
        0 => String::new(),
        1 => " (after a restart)".to_owned(),
        n => format!(" (after {n} restarts)"),
    }
}

impl StepFailure {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Runtime { error } => error.code(),
            Self::Exited { .. } => "INSTANCE_EXITED",
            Self::NotReady { .. } => "NOT_READY",
            Self::AddressTaken { .. } => "ADDRESS_TAKEN",
        }
    }

    /// The next command to type, once the operation has ended.
    #[must_use]
    pub fn next(&self, machine: &MachineId, operation: &OperationId) -> String {
        match self {
            Self::Runtime { error } => match error {
                RuntimeError::ImageMissing { image } => {
                    format!("docker pull {image}, or docker load, on machine {machine}")
                }
                RuntimeError::NameTaken { .. } | RuntimeError::PortInUse { .. } => {
                    "ployzctl ps".to_owned()
                }
                RuntimeError::DiskFull { .. } | RuntimeError::Unavailable { .. } => {
                    "ployzctl doctor".to_owned()
                }
                RuntimeError::NoSuchInstance { .. }
                | RuntimeError::CannotRun { .. }
                | RuntimeError::Other { .. } => format!("ployzctl op show {operation}"),
            },
            // What it wrote is in the record; the instance itself is gone by then.
            Self::Exited { .. } | Self::NotReady { .. } => format!("ployzctl op show {operation}"),
            Self::AddressTaken { .. } => "ployzctl ps".to_owned(),
        }
    }

    /// The last log lines of the instance, if it had come so far.
    #[must_use]
    pub fn logs(&self) -> &[String] {
        match self {
            Self::Exited { logs, .. } | Self::NotReady { logs, .. } => logs,
            Self::Runtime { .. } | Self::AddressTaken { .. } => &[],
        }
    }
}

/// Why a command was not carried to a machine. It did not arrive, and never will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum BusError {
    /// Nobody listens on the machine's subject.
    #[error("machine {machine} does not answer: nobody listens on its subject")]
    NoResponders {
        /// The machine.
        machine: MachineId,
    },
    /// There is no connection to the bus.
    #[error("the bus is away: {detail}")]
    Unavailable {
        /// What was tried.
        detail: String,
    },
}
