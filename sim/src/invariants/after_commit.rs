//! S5: an operation that has committed is never aborted, also if the store brings back its record from before the commit. One that was
//! aborted may commit when its record came back: it is open again.

use std::collections::BTreeSet;

use proto_core::coordination::{OperationRecord, Phase};
use proto_core::id::OperationId;
use proto_core::store::Key;
use proto_core::store::facts::Commit;

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct NoAbortAfterCommit {
    committed: BTreeSet<(OperationId, u32)>,
    aborted: BTreeSet<(OperationId, u32)>,
    seen: u64,
}

impl Invariant for NoAbortAfterCommit {
    fn name(&self) -> &'static str {
        "S5 no abort after the commit"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        if let Seen::CameBack { entry } = seen
            && let Some(record) = super::record(entry)
        {
            let try_of = (record.id.clone(), record.attempt);
            self.aborted.remove(&try_of);
            // Once the record has ended, tries are counted from 1 again: what committed may have been another one.
            if !is_committed(&record, world) {
                self.committed.remove(&try_of);
            }
        }
        if let Seen::Forgotten { operation } = seen {
            self.aborted.retain(|(id, _)| id != *operation);
        }
        let Seen::Stored { records, .. } = seen else { return Ok(()) };
        for record in *records {
            let attempt = (record.id.clone(), record.attempt);
            let over = self.committed.contains(&attempt) || self.aborted.contains(&attempt);
            self.seen += u64::from(over);
            match record.phase {
                Phase::Executing => {}
                Phase::CleanupPending | Phase::Committed => {
                    if self.aborted.contains(&attempt) {
                        return Err(format!("{} commits after it aborted", record.id));
                    }
                    self.committed.insert(attempt);
                }
                Phase::Aborting | Phase::Aborted => {
                    if self.committed.contains(&attempt) {
                        return Err(format!(
                            "{} is {} after it committed",
                            record.id, record.phase
                        ));
                    }
                    if record.phase == Phase::Aborted {
                        self.aborted.insert(attempt);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether what this record planned is what was committed under its number.
fn is_committed(record: &OperationRecord, world: &World) -> bool {
    let Some(plan) = &record.plan else { return true };
    let planned = &plan.commit.commit;
    let there: Option<Commit> = world.kv.get(&Key::commit(&planned.namespace, planned.number));
    there.is_some_and(|there| {
        there.operation == planned.operation && there.services == planned.services
    })
}
