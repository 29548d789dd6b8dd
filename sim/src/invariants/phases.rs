//! S6: phases never go backwards; the epochs under which operations hold the lease of their scope, and floors of machines, never fall. A
//! record that is written without the lease, to find out what became of a batch, says only how it was.

use std::collections::BTreeMap;

use proto_core::coordination::{OperationRecord, Phase};
use proto_core::id::{Epoch, OperationId};
use proto_core::store::facts::{Cluster, Lease};
use proto_core::store::{Key, Scope};
use serde::Deserialize as _;

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct OnlyForward {
    records: BTreeMap<OperationId, (u32, Phase)>,
    epochs: BTreeMap<Key, Epoch>,
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

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        match seen {
            Seen::Stored { writes, records, .. } => {
                for record in *records {
                    self.record(record)?;
                }
                for write in writes.iter().filter(|write| write.key.is_under(&Key::leases())) {
                    let lease: Lease = Lease::deserialize(&write.value)
                        .map_err(|error| format!("{}: {error}", write.key))?;
                    let of = records.iter().find(|record| record.id == lease.operation);
                    let epoch = match (lease.epoch, of) {
                        (Some(epoch), _) => epoch,
                        (None, Some(record)) => {
                            record.epoch.unwrap_or_else(|| taken_now(world, &write.key))
                        }
                        // Of a batch that was torn before the record nobody can tell.
                        (None, None) => continue,
                    };
                    self.holds(&write.key, &lease.operation, epoch)?;
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
                        return Err(format!(
                            "{}: floor {floor} fell to {epoch}",
                            machine_name(*machine)
                        ));
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
        Ok(())
    }

    /// An operation writes the lease, under this epoch.
    fn holds(&mut self, lease: &Key, operation: &OperationId, epoch: Epoch) -> Result<(), String> {
        let highest = self.epochs.entry(lease.clone()).or_default();
        if epoch < *highest {
            return Err(format!("{operation}: epoch {epoch} after {highest}"));
        }
        *highest = epoch;
        Ok(())
    }
}

/// The epoch of who takes the lease with this write: its revision.
fn taken_now(world: &World, lease: &Key) -> Epoch {
    let cluster: Option<Cluster> = world.kv.get(&Key::cluster());
    let incarnation = cluster.map_or(0, |cluster| cluster.incarnation);
    Epoch { incarnation, revision: world.kv.revision(lease).0 }
}
