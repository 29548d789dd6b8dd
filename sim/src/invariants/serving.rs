//! S7: what gateways send requests to serves, at every instant: the old version until the commit and until every gateway has
//! applied it, the new one from the commit on.

use std::collections::BTreeSet;

use proto_core::id::{InstanceName, MachineId, Namespace};
use proto_core::store::Key;
use proto_core::store::facts::{Commit, Head};

use super::{Invariant, Seen};
use crate::world::World;
use crate::world::kv::Kv;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct CommittedServes {
    /// Namespaces that were ever committed, with where their instances shall be.
    heads: Vec<(Namespace, Vec<(MachineId, InstanceName)>)>,
    /// Told once.
    down: BTreeSet<(MachineId, InstanceName)>,
    seen: u64,
}

impl Invariant for CommittedServes {
    fn name(&self) -> &'static str {
        "S7 what is committed serves"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Stored { writes, .. } = seen else { return Ok(()) };
        for namespace in heads_written(writes) {
            if let Some(backends) = of_head(&world.kv, &namespace) {
                self.heads.retain(|(other, _)| *other != namespace);
                self.heads.push((namespace, backends));
            }
        }
        Ok(())
    }

    fn look(&mut self, world: &World) -> Result<(), String> {
        let head = self.heads.iter().flat_map(|(_, backends)| backends);
        let head = head.map(|(machine, instance)| (machine, instance));
        let routed = world.gateways.iter().flat_map(|gateway| gateway.backends());
        for (machine, instance) in head.chain(routed) {
            let at = world.machines.iter().position(|other| other == machine);
            let there = at.and_then(|at| world.runtimes[at].instances().get(instance));
            self.seen += 1;
            let serves = there.is_some_and(|there| there.serves(world.now));
            if !serves && self.down.insert((machine.clone(), instance.clone())) {
                return Err(format!("{instance} on {machine} gets requests and does not serve"));
            }
        }
        Ok(())
    }
}

/// The instances of the head of a namespace as it is in the store now.
fn of_head(kv: &Kv, namespace: &Namespace) -> Option<Vec<(MachineId, InstanceName)>> {
    let head: Head = kv.get(&Key::head(namespace))?;
    let commit: Option<Commit> = kv.get(&Key::commit(namespace, head.commit));
    let services = commit.filter(|_| !head.removed).map(|commit| commit.services);
    let slots = services.into_iter().flatten().flat_map(|(_, service)| service.slots);
    Some(slots.map(|(_, slot)| (slot.machine, slot.instance)).collect())
}

/// The namespaces whose heads a batch writes.
pub(crate) fn heads_written(writes: &[proto_core::store::Write]) -> Vec<Namespace> {
    let namespace = |key: &Key| {
        let middle = key.as_str().strip_prefix("ns.")?.strip_suffix(".head")?;
        Namespace::new(middle).ok()
    };
    writes.iter().filter_map(|write| namespace(&write.key)).collect()
}
