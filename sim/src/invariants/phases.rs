//! S6: phases never go backwards; epochs of records and floors of machines never fall.

use std::collections::BTreeMap;

use proto_core::coordination::{OperationRecord, Phase};
use proto_core::id::{Epoch, OperationId};
use proto_core::store::Scope;

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct OnlyForward {
    records: BTreeMap<OperationId, (u32, Phase)>,
    epochs: BTreeMap<Scope, Epoch>,
    floors: BTreeMap<(usize, Scope), Epoch>,
    seen: u64,
}

impl Invariant for OnlyForward {
    fn name(&self) -> &'static str {
        "S6 phases never go backwards, epochs never fall"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        match seen {
            Seen::Stored { records, .. } => {
                for record in *records {
                    self.record(record)?;
                }
            }
            Seen::Forgotten { operation } => {
                self.records.remove(*operation);
            }
            Seen::CameBack { entry } => {
                if let Some(record) = super::record(entry) {
                    self.records.insert(record.id, (record.attempt, record.phase));
                }
            }
            Seen::Persisted { machine, file } => {
                for (scope, epoch) in &file.floors {
                    let floor = self.floors.entry((*machine, scope.clone())).or_default();
                    if epoch < floor {
                        return Err(format!("machine {machine}: floor {floor} fell to {epoch}"));
                    }
                    *floor = *epoch;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl OnlyForward {
    fn record(&mut self, record: &OperationRecord) -> Result<(), String> {
        let now = (record.attempt, record.phase);
        if let Some(before) = self.records.insert(record.id.clone(), now) {
            self.seen += 1;
            if now < before {
                return Err(format!(
                    "{}: {} of attempt {} after {} of attempt {}",
                    record.id, now.1, now.0, before.1, before.0
                ));
            }
        }
        if let Some(epoch) = record.epoch {
            let highest = self.epochs.entry(record.scope.clone()).or_default();
            if epoch < *highest {
                return Err(format!("{}: epoch {epoch} after {highest}", record.id));
            }
            *highest = epoch;
        }
        Ok(())
    }
}
