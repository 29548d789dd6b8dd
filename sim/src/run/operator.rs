//! What operators ask of daemons.

use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::OperationRecord;
use proto_core::daemon::OperationHandle;

use crate::choice::Choices;
use crate::cluster::Cluster;

/// What somebody asked a daemon for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) machine: usize,
    boot: u32,
    pub(super) handle: OperationHandle,
}

impl Asked {
    pub(super) fn of(
        cluster: &mut Cluster<'_>,
        machine: usize,
        submission: Submission,
    ) -> Option<Self> {
        let boot = cluster.boot(machine);
        let handle = cluster.submit(machine, submission)?;
        Some(Self { machine, boot, handle })
    }

    /// The daemon that was asked is no more.
    pub(super) fn is_lost(&self, cluster: &Cluster<'_>) -> bool {
        cluster.boot(self.machine) != self.boot
    }

    /// There is an answer, or there will be none.
    pub(super) fn is_over(&self, cluster: &Cluster<'_>) -> bool {
        let answered = cluster.results.contains_key(&self.handle);
        answered || self.is_lost(cluster) || !cluster.is_up(self.machine)
    }
}

/// A second operator, who takes up the same operation on another machine while the first is at it.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    pub(super) machine: usize,
    pub(super) submission: Submission,
    /// After so many effects.
    pub(super) after: u64,
}

impl Rival {
    pub(super) fn drawn(
        cluster: &mut Cluster<'_>,
        choices: &mut Choices,
        record: &OperationRecord,
        machine: usize,
    ) -> Option<Self> {
        if cluster.fates.budget().rivals == 0 {
            return None;
        }
        let label = || "a second operator: none, resumes, aborts".to_owned();
        let operation = record.id.clone();
        let submission = match choices.choose(3, label) {
            0 => return None,
            1 => Submission::Resume { operation },
            _ => Submission::Abort { operation },
        };
        cluster.fates.spend_rival();
        let label = || "how many effects after the first".to_owned();
        let after = [0, 2, 5][choices.choose(3, label)];
        Some(Self { machine, submission, after })
    }
}

/// Whether an answer says how it ended.
pub(super) fn settles(result: &OperationResult) -> bool {
    matches!(
        result,
        OperationResult::Committed { .. }
            | OperationResult::AlreadyDone { .. }
            | OperationResult::Aborted { .. }
    )
}
