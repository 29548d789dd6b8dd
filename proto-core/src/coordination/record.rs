//! `op.<id>`: what an operation is about to do, written before it does anything.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::api::ErrorBody;
use crate::api::OperationRequest;
use crate::digest::Digest;
use crate::id::{Epoch, MachineId, OperationId};
use crate::store::Scope;
use crate::time::UnixTime;

/// The record of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Shape version.
    pub v: u32,
    /// The operation.
    pub id: OperationId,
    /// What it changes.
    pub scope: Scope,
    /// For listings: `deploy`, `scale web=3`, ….
    pub summary: String,
    /// The digest of the request: the same request again adopts the operation while it is unfinished.
    pub request_digest: Digest,
    /// What was asked for. Left out once it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<OperationRequest>,
    /// What it does. Left out once it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// How far it is.
    pub phase: Phase,
    /// 1, and one more for each time that it was begun anew after an abort.
    pub attempt: u32,
    /// The epoch of whoever runs it; `None` in the write that takes the lease: then it is the revision of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The machine whose daemon runs it.
    pub coordinator: MachineId,
    /// Tells this write from every other: how a lost acknowledgement is recognised.
    pub nonce: String,
    /// When it was first recorded, by the coordinator's clock.
    pub started: UnixTime,
    /// When this was written.
    pub updated: UnixTime,
    /// Why it aborted, or what cleanup is still to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// What was worth saying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is kept of the plan once it is committed and everything done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

/// What an operation came to that committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The number of its commit.
    pub commit: u64,
    /// Its steps for people, `m1: start web-0-…`: those before the commit, then those after it.
    pub steps: Vec<String>,
}

impl Done {
    /// What is left of this plan when all of it is done.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let steps = plan.steps.iter().chain(&plan.cleanup);
        let steps = steps.map(|step| format!("{}: {}", step.machine, step.action)).collect();
        Self { commit: plan.commit.commit.number, steps }
    }
}

/// How far an operation is. It never goes backwards within an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Recorded; its steps may be under way.
    Executing,
    /// It will not commit; what it did is being undone.
    Aborting,
    /// Nothing of it is left. Final.
    Aborted,
    /// Committed; what it replaced is still to be removed.
    CleanupPending,
    /// Committed, and everything done. Final.
    Committed,
}

impl Phase {
    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Aborted | Self::Committed)
    }

    /// As it is written in JSON and shown to people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executing => "executing",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
            Self::CleanupPending => "cleanup_pending",
            Self::Committed => "committed",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
