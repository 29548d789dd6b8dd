//! What is said over the daemon's API: requests, results, errors, exit codes.
//!
//! JSON over HTTP on the unix socket. Operations are streamed: one [`OperationEvent`] a line, the last one being
//! [`OperationEvent::Finished`].

pub mod prepared;
pub mod requests;
pub mod views;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coordination::plan::Plan;
use crate::coordination::record::Phase;
use crate::deploy::spec::{Manifest, ServiceSpec};
use crate::digest::Digest;
use crate::id::{MachineId, Namespace, OperationId, ServiceName, StepId};
use crate::store::{Revision, Scope};

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum OperationRequest {
    /// The namespace shall be what the manifest says.
    Deploy {
        /// What it shall be.
        manifest: Manifest,
    },
    /// One service shall be like this; the others stay.
    DeployService {
        /// The namespace.
        namespace: Namespace,
        /// The service.
        service: ServiceName,
        /// What it shall be.
        spec: Box<ServiceSpec>,
    },
    /// These services shall have so many replicas.
    Scale {
        /// The namespace.
        namespace: Namespace,
        /// Absolute numbers.
        replicas: BTreeMap<ServiceName, u32>,
    },
    /// Every instance of the service shall be a new one. A stopped service starts.
    Restart {
        /// The namespace.
        namespace: Namespace,
        /// The service.
        service: ServiceName,
    },
    /// The service shall have no instances until it is deployed, scaled or restarted.
    Stop {
        /// The namespace.
        namespace: Namespace,
        /// The service.
        service: ServiceName,
    },
    /// The services shall be as they were in an earlier commit.
    Rollback {
        /// The namespace.
        namespace: Namespace,
        /// The commit; `None`: the one before the head.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// The namespace shall not exist.
    RemoveNamespace {
        /// The namespace.
        namespace: Namespace,
    },
}

impl OperationRequest {
    /// What it changes.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Namespace(self.namespace().clone())
    }

    /// The namespace that it changes.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::Deploy { manifest } => &manifest.namespace,
            Self::DeployService { namespace, .. }
            | Self::Scale { namespace, .. }
            | Self::Restart { namespace, .. }
            | Self::Stop { namespace, .. }
            | Self::Rollback { namespace, .. }
            | Self::RemoveNamespace { namespace } => namespace,
        }
    }

    /// The digest by which the same request is recognised.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }

    /// A few words for listings.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Deploy { manifest } => format!("deploy {}", manifest.namespace),
            Self::DeployService { namespace, service, .. } => {
                format!("deploy {namespace}/{service}")
            }
            Self::Scale { namespace, replicas } => {
                let parts: Vec<_> =
                    replicas.iter().map(|(name, n)| format!("{namespace}/{name}={n}")).collect();
                format!("scale {}", parts.join(" "))
            }
            Self::Restart { namespace, service } => format!("restart {namespace}/{service}"),
            Self::Stop { namespace, service } => format!("stop {namespace}/{service}"),
            Self::Rollback { namespace, to: Some(to) } => format!("rollback {namespace} to {to}"),
            Self::Rollback { namespace, to: None } => format!("rollback {namespace}"),
            Self::RemoveNamespace { namespace } => format!("namespace rm {namespace}"),
        }
    }
}

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Submission {
    /// Plan it and run the plan.
    Apply {
        /// What is asked for.
        request: OperationRequest,
    },
    /// Plan it and show the plan. Changes nothing.
    Preview {
        /// What is asked for.
        request: OperationRequest,
    },
    /// Run this plan, or refuse, naming what moved since it was made.
    ApplyPrepared {
        /// What was asked for.
        request: OperationRequest,
        /// The plan that preview showed.
        plan: Box<Plan>,
    },
    /// Go on with an unfinished operation.
    Resume {
        /// Which.
        operation: OperationId,
    },
    /// Undo an unfinished operation that has not committed.
    Abort {
        /// Which.
        operation: OperationId,
    },
}

impl Submission {
    /// A few words for listings; `None` if it changes nothing.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        match self {
            Self::Apply { request } | Self::ApplyPrepared { request, .. } => {
                Some(request.summary())
            }
            Self::Preview { .. } => None,
            Self::Resume { operation } => Some(format!("op resume {operation}")),
            Self::Abort { operation } => Some(format!("op abort {operation}")),
        }
    }

    /// The exit code of the command that asked for this when it ends so: who asked for an abort, and for nothing else, got it, or did not
    /// where it has committed.
    #[must_use]
    pub fn exit_code(&self, result: &OperationResult) -> u8 {
        match (self, result) {
            (Self::Abort { .. }, OperationResult::Aborted { .. }) => 0,
            (
                Self::Abort { .. },
                OperationResult::Committed { .. } | OperationResult::AlreadyDone { .. },
            ) => 3,
            _ => result.exit_code(),
        }
    }

    /// What went wrong for whoever asked for this, if something did.
    #[must_use]
    pub fn error<'a>(&self, result: &'a OperationResult) -> Option<&'a ErrorBody> {
        if self.wanted(result) { None } else { result.error() }
    }

    fn wanted(&self, result: &OperationResult) -> bool {
        matches!((self, result), (Self::Abort { .. }, OperationResult::Aborted { .. }))
    }
}

/// Progress of an operation, for a person or agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OperationEvent {
    /// It looks at the facts and asks the machines.
    Observing,
    /// The plan is made.
    Planned {
        /// What will be done.
        plan: Box<Plan>,
        /// Its digest.
        digest: Digest,
    },
    /// It holds the lease and is recorded; from here on it survives.
    Recorded {
        /// Which operation.
        operation: OperationId,
        /// It goes on where an earlier run stopped.
        adopted: bool,
    },
    /// A step of it changed.
    Step {
        /// The step.
        step: StepId,
        /// Where.
        machine: MachineId,
        /// What it does, for people.
        action: String,
        /// How it stands.
        status: StepStatus,
    },
    /// It moved to this phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// Something worth saying.
    Note {
        /// What.
        text: String,
    },
    /// It ended. The last event.
    Finished {
        /// How.
        result: OperationResult,
    },
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum StepStatus {
    /// Sent to its machine.
    Started,
    /// It is so.
    Done,
    /// The answer was lost; the machine is asked again.
    Retrying,
    /// It cannot be done.
    Failed {
        /// Why.
        error: ErrorBody,
    },
}

/// How an operation ended. Each has its own exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum OperationResult {
    /// Exit 0: the plan, as asked for by preview.
    Previewed {
        /// What would be done.
        plan: Box<Plan>,
        /// Its digest.
        digest: Digest,
    },
    /// Exit 0: everything was as asked for already; nothing was changed.
    AlreadyDone {
        /// The head commit.
        commit: u64,
    },
    /// Exit 0.
    Committed {
        /// The operation.
        operation: OperationId,
        /// The new head.
        commit: u64,
        /// What was worth saying.
        notes: Vec<String>,
    },
    /// Exit 3 (8 for a held lease, 9 for a drifted plan): nothing was changed.
    Refused {
        /// Why.
        error: ErrorBody,
    },
    /// Exit 4, or 0 if this is what was asked for: everything was undone.
    Aborted {
        /// The operation.
        operation: OperationId,
        /// Why.
        error: ErrorBody,
    },
    /// Exit 5: it stands still and can be resumed or aborted.
    Interrupted {
        /// The operation.
        operation: OperationId,
        /// Why.
        error: ErrorBody,
    },
    /// Exit 6: the store did not say what became of a write.
    Unknown {
        /// The operation.
        operation: OperationId,
        /// What is known, and how to find out.
        error: ErrorBody,
    },
    /// Exit 7: committed; something that it replaced could not be removed yet.
    CleanupPending {
        /// The operation.
        operation: OperationId,
        /// The new head.
        commit: u64,
        /// What is left.
        error: ErrorBody,
    },
}

impl OperationResult {
    /// The exit code of the command that asked for the operation; [`Submission::exit_code`] knows what was asked for.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Previewed { .. } | Self::AlreadyDone { .. } | Self::Committed { .. } => 0,
            Self::Refused { error } => error.exit_code(),
            Self::Aborted { .. } => 4,
            Self::Interrupted { .. } => 5,
            Self::Unknown { .. } => 6,
            Self::CleanupPending { .. } => 7,
        }
    }

    /// What went wrong, if something did.
    #[must_use]
    pub fn error(&self) -> Option<&ErrorBody> {
        match self {
            Self::Previewed { .. } | Self::AlreadyDone { .. } | Self::Committed { .. } => None,
            Self::Refused { error }
            | Self::Aborted { error, .. }
            | Self::Interrupted { error, .. }
            | Self::Unknown { error, .. }
            | Self::CleanupPending { error, .. } => Some(error),
        }
    }
}

impl std::fmt::Display for OperationResult {
    /// In a line, without plan, notes and error.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Previewed { .. } => f.write_str("planned: nothing was changed"),
            Self::AlreadyDone { commit } => {
                write!(f, "nothing to do: commit {commit} is what was asked for")
            }
            Self::Committed { operation, commit, .. } => {
                write!(f, "committed {commit} by operation {operation}")
            }
            Self::Refused { .. } => f.write_str("refused: nothing was changed"),
            Self::Aborted { operation, .. } => {
                write!(f, "aborted operation {operation}: everything was undone")
            }
            Self::Interrupted { operation, .. } => {
                write!(f, "interrupted operation {operation}: it can be resumed or aborted")
            }
            Self::Unknown { operation, .. } => {
                write!(f, "outcome of operation {operation} unknown")
            }
            Self::CleanupPending { operation, commit, .. } => {
                write!(f, "committed {commit} by operation {operation}; cleanup is pending")
            }
        }
    }
}

/// An error as it is shown and sent: a stable code, what is known, and what to type next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// Stable, in capitals: `LEASE_HELD`.
    pub code: String,
    /// What is known and what is not, a sentence or more.
    pub message: String,
    /// The next command to type, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The last log lines of an instance that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

impl ErrorBody {
    /// An error with no next command.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next: None, logs: Vec::new() }
    }

    /// Adds the next command to type.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// Adds the next command to type, if none is named yet.
    #[must_use]
    pub fn or_next(mut self, command: impl Into<String>) -> Self {
        self.next.get_or_insert_with(|| command.into());
        self
    }

    /// The exit code of a refusal with this code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.code.as_str() {
            "LEASE_HELD" => 8,
            "PLAN_DRIFTED" => 9,
            _ => 3,
        }
    }
}

/// A row of `op ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// The record without request and plan.
    #[serde(flatten)]
    pub record: crate::coordination::OperationRecord,
    /// Where it is stored.
    pub revision: Revision,
    /// It runs now in the daemon that answers.
    pub running_here: bool,
}
