//! S12: what is committed fits on its machines: what the instances of all heads reserve there is no more than a machine has.

use std::collections::BTreeMap;

use proto_core::deploy::spec::Reservation;
use proto_core::id::{MachineId, Namespace};
use proto_core::store::Key;
use proto_core::store::facts::{Commit, Head, ServiceRevision};

use super::{Invariant, Seen};
use crate::world::World;
use crate::world::runtime::{CPU_MILLIS, MEMORY_BYTES};

/// CPU in thousandths of a core and bytes of memory, by machine.
type Reserved = BTreeMap<MachineId, (u64, u64)>;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct CommittedFits {
    reserved: BTreeMap<Namespace, Reserved>,
    seen: u64,
}

impl Invariant for CommittedFits {
    fn name(&self) -> &'static str {
        "S12 what is committed fits on its machines"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Stored { writes, .. } = seen else { return Ok(()) };
        for namespace in super::heads_written(writes) {
            let reserved = of_head(world, &namespace);
            let machines: Vec<_> = reserved.keys().cloned().collect();
            self.reserved.insert(namespace.clone(), reserved);
            for machine in machines {
                self.seen += 1;
                let of_all = self.reserved.values().filter_map(|reserved| reserved.get(&machine));
                let (cpu, memory) = of_all.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
                if cpu > CPU_MILLIS.into() || memory > MEMORY_BYTES {
                    return Err(format!(
                        "with the commit of {namespace} {cpu} thousandths of a core and {memory} bytes are reserved on {machine}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the instances of a head reserve, on machines where that is anything.
fn of_head(world: &World, namespace: &Namespace) -> Reserved {
    let mut reserved = Reserved::new();
    let head: Option<Head> = world.kv.get(&Key::head(namespace));
    let head = head.filter(|head| !head.removed);
    let commit = head.and_then(|head| world.kv.get(&Key::commit(namespace, head.commit)));
    for service in commit.into_iter().flat_map(|commit: Commit| commit.services.into_values()) {
        let revision = Key::revision(namespace, &service.revision);
        let revision: Option<ServiceRevision> = world.kv.get(&revision);
        let Some(each) = revision.map(|revision| revision.spec.reservation) else { continue };
        if each == Reservation::default() {
            continue;
        }
        for slot in service.slots.into_values() {
            let (cpu, memory) = reserved.entry(slot.machine).or_default();
            *cpu += u64::from(each.cpu_millis);
            *memory += each.memory_bytes;
        }
    }
    reserved
}
