//! S9: success is reported only if it is committed; that something was undone only if it was.
//!
//! An operation that was undone may be asked for once more under the same name, and a daemon that stood still tells of the first
//! time only then: so what counts is that its record said so once.

use std::collections::BTreeSet;

use proto_core::api::OperationResult;
use proto_core::coordination::{OperationRecord, Phase};
use proto_core::id::OperationId;
use proto_core::store::facts::{Commit, Head};
use proto_core::store::{Key, Scope};

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct SuccessIsCommitted {
    /// Those whose record said that they were undone.
    aborted: BTreeSet<OperationId>,
    seen: u64,
}

impl Invariant for SuccessIsCommitted {
    fn name(&self) -> &'static str {
        "S9 success is reported only if committed"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        if let Seen::Stored { records, .. } = seen {
            let aborted = records.iter().filter(|record| record.phase == Phase::Aborted);
            self.aborted.extend(aborted.map(|record| record.id.clone()));
        }
        let Seen::Told { event, .. } = seen else { return Ok(()) };
        match event.result() {
            Some(
                OperationResult::Committed { operation, commit, .. }
                | OperationResult::CleanupPending { operation, commit, .. },
            ) => {
                self.seen += 1;
                let by = committed_by(world, operation, *commit);
                if by.as_ref() != Some(operation) {
                    return Err(format!("{operation} said commit {commit}, which is by {by:?}"));
                }
            }
            Some(OperationResult::Aborted { operation, .. }) => {
                self.seen += 1;
                if !self.aborted.contains(operation) {
                    return Err(format!("{operation} said that it aborted, and never did"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn committed_by(world: &World, operation: &OperationId, number: u64) -> Option<OperationId> {
    let record: OperationRecord = world.kv.get(&Key::operation(operation))?;
    let Scope::Namespace(namespace) = &record.scope;
    let commit: Commit = world.kv.get(&Key::commit(namespace, number))?;
    let head: Head = world.kv.get(&Key::head(namespace))?;
    (head.commit >= number).then_some(commit.operation)
}
