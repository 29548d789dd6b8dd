use serde::{Deserialize, Serialize};

use crate::id::{Epoch, InstanceName, OperationId, StepId};
use crate::store::Scope;

/// What a participant must remember over a restart of its daemon: written and synced before it acts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceFile {
    /// The highest epoch that it has seen of each scope.
    pub floors: Vec<(Scope, Epoch)>,
    /// Commands whose effects may be under way.
    pub journal: Vec<JournalEntry>,
}

/// A command whose effects may be under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// The fenced scope.
    pub scope: Scope,
    /// The command's epoch.
    pub epoch: Epoch,
    /// The operation.
    pub operation: OperationId,
    /// The step.
    pub step: StepId,
    /// The instance that it changes.
    pub instance: InstanceName,
}

impl FenceFile {
    /// The highest epoch seen of a scope.
    #[must_use]
    pub fn floor(&self, scope: &Scope) -> Epoch {
        self.floors.iter().find(|(s, _)| s == scope).map_or(Epoch::default(), |(_, epoch)| *epoch)
    }

    /// Raises the floor of a scope; it never falls. Returns whether it changed.
    pub fn raise(&mut self, scope: &Scope, epoch: Epoch) -> bool {
        match self.floors.iter_mut().find(|(s, _)| s == scope) {
            Some((_, floor)) if *floor >= epoch => false,
            Some((_, floor)) => {
                *floor = epoch;
                true
            }
            None => {
                self.floors.push((scope.clone(), epoch));
                self.floors.sort();
                true
            }
        }
    }
}
