//! What a namespace takes on the machines, and what others have taken there already.

use std::collections::{BTreeMap, BTreeSet};

use super::{Planner, Slots};
use crate::coordination::command::MachineObservation;
use crate::id::{MachineId, Namespace};
use crate::store::Key;
use crate::store::facts::{Allocation, MachineAllocation, VERSION};

impl Planner<'_> {
    /// What the namespace takes once these slots are committed.
    pub(super) fn allocation(&self, slots: &Slots) -> Allocation {
        let mut machines: BTreeMap<MachineId, MachineAllocation> = BTreeMap::new();
        for (service, target) in &self.target.services {
            let reserved = target.spec.reservation;
            for instance in slots.services.get(service).into_iter().flat_map(BTreeMap::values) {
                let machine = machines.entry(instance.machine.clone()).or_default();
                machine.cpu_millis += u64::from(reserved.cpu_millis);
                machine.memory_bytes = machine.memory_bytes.saturating_add(reserved.memory_bytes);
                machine
                    .addresses
                    .entry(instance.address)
                    .or_default()
                    .extend(instance.ports.values());
            }
        }
        for placed in &slots.old {
            let instance = &placed.instance;
            let machine = machines.entry(instance.machine.clone()).or_default();
            let before = machine.addresses_before.entry(instance.address).or_default();
            before.extend(instance.ports.values());
        }
        Allocation { v: VERSION, machines }
    }

    /// CPU (thousandths of a core) and memory (bytes) that all other namespaces have set aside on a machine. An operation that is
    /// under way counts with what is there or what it will commit, whichever is more.
    pub(super) fn taken_by_others(&self, machine: &MachineId) -> (u64, u64) {
        let committed = self.facts.allocations.iter().map(|(ns, there)| (ns, &there.value));
        let unfinished = self.facts.operations.values().filter(|op| !op.value.phase.is_final());
        let planned = unfinished.filter_map(|op| op.value.plan.as_ref()).map(|plan| &plan.commit);
        let planned = planned.map(|commit| (&commit.commit.namespace, &commit.allocation));
        let mut taken: BTreeMap<&Namespace, (u64, u64)> = BTreeMap::new();
        for (namespace, allocation) in committed.chain(planned) {
            if let Some(there) = allocation.machines.get(machine)
                && *namespace != self.namespace
            {
                let (cpu, memory) = taken.entry(namespace).or_default();
                *cpu = (*cpu).max(there.cpu_millis);
                *memory = (*memory).max(there.memory_bytes);
            }
        }
        taken.values().fold((0, 0), |(cpu, memory), more| {
            (u64::saturating_add(cpu, more.0), u64::saturating_add(memory, more.1))
        })
    }

    /// The ports of a machine that other namespaces have claimed, or that somebody listens on whom no namespace knows.
    pub(super) fn ports_of_others(
        &self,
        machine: &MachineId,
        seen: &MachineObservation,
    ) -> BTreeSet<u16> {
        let own = |port: u16| {
            let claim = self.facts.claims.get(&Key::port(machine, port));
            claim.is_some_and(|c| c.value.namespace == self.namespace && !c.value.released)
        };
        let claimed = self.facts.claims.iter().filter(|(_, claim)| !claim.value.released);
        let claimed = claimed.filter_map(|(key, _)| {
            let mut tokens = key.as_str().split('.');
            let here = tokens.next() == Some("port") && tokens.next() == Some(machine.as_str());
            if here { tokens.next()?.parse().ok() } else { None }
        });
        let taken = seen.facts.ports_taken.iter().copied();
        claimed.chain(taken).filter(|port| !own(*port)).collect()
    }
}
