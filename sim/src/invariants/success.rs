//! S9: success is reported only if it is committed; that something was undone only if it is not.

use proto_core::api::OperationResult;
use proto_core::coordination::OperationRecord;
use proto_core::id::OperationId;
use proto_core::store::facts::{Commit, Head};
use proto_core::store::{Key, Scope};

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Default)]
pub(super) struct SuccessIsCommitted {
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
        let Seen::Told { event } = seen else { return Ok(()) };
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
                let record: Option<OperationRecord> = world.kv.get(&Key::operation(operation));
                let Some(record) = record else {
                    return Err(format!("{operation} aborted and has no record"));
                };
                let Scope::Namespace(namespace) = &record.scope;
                let head: Option<Head> = world.kv.get(&Key::head(namespace));
                let head = head.map_or(0, |head| head.commit);
                if committed_by(world, operation, head).as_ref() == Some(operation) {
                    return Err(format!(
                        "{operation} said that it aborted, and commit {head} is its"
                    ));
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
