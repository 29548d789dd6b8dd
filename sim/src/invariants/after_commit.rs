//! S5: an operation that has committed is never aborted, also if the store brings back its record from before the commit. One that was
//! aborted may commit when its record came back: it is open again.

use std::collections::BTreeSet;

use proto_core::coordination::Phase;
use proto_core::id::OperationId;

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

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        if let Seen::CameBack { entry } = seen
            && let Some(record) = super::record(entry)
        {
            self.aborted.remove(&(record.id, record.attempt));
        }
        if let Seen::Forgotten { operation } = seen {
            self.aborted.retain(|(id, _)| id != *operation);
        }
        let Seen::Stored { records, .. } = seen else { return Ok(()) };
        for record in *records {
            self.seen += 1;
            let attempt = (record.id.clone(), record.attempt);
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
