//! What a namespace takes on the machines, and what others have taken there already.

use std::collections::{BTreeMap, BTreeSet};

use super::{Planner, Slots};
use crate::coordination::command::MachineObservation;
use crate::deploy::spec::Reservation;
use crate::id::{MachineId, Namespace};
use crate::store::facts::{Allocation, MachineAllocation, VERSION};
use crate::store::{Facts, Key};

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

    /// On the machines on which the namespace sets aside more than it has so far: what all others together may set aside there.
    pub(super) fn left_to_others(
        &self,
        allocation: &Allocation,
    ) -> BTreeMap<MachineId, Reservation> {
        let so_far = self.facts.allocations.get(&self.namespace);
        let grows = allocation.machines.iter().filter(|(machine, more)| {
            let there = so_far.and_then(|there| there.value.machines.get(*machine));
            let (cpu, memory) = there.map_or((0, 0), |t| (t.cpu_millis, t.memory_bytes));
            more.cpu_millis > cpu || more.memory_bytes > memory
        });
        grows
            .filter_map(|(machine, own)| {
                let has = &self.observations.get(machine)?.facts;
                let cpu = u64::from(has.cpu_total_millis).saturating_sub(own.cpu_millis);
                let left = Reservation {
                    cpu_millis: u32::try_from(cpu).expect("less than the total"),
                    memory_bytes: has.memory_total_bytes.saturating_sub(own.memory_bytes),
                };
                Some((machine.clone(), left))
            })
            .collect()
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

/// CPU (thousandths of a core) and memory (bytes) that all other namespaces have set aside on a machine. An operation that is
/// under way counts with what is there or what it will commit, whichever is more.
pub(crate) fn taken_by_others(
    facts: &Facts,
    namespace: &Namespace,
    machine: &MachineId,
) -> (u64, u64) {
    let committed = facts.allocations.iter().map(|(ns, there)| (ns, &there.value));
    let unfinished = facts.operations.values().filter(|op| !op.value.phase.is_final());
    let planned = unfinished.filter_map(|op| op.value.plan.as_ref()).map(|plan| &plan.commit);
    let planned = planned.map(|commit| (&commit.commit.namespace, &commit.allocation));
    let mut taken: BTreeMap<&Namespace, (u64, u64)> = BTreeMap::new();
    for (other, allocation) in committed.chain(planned) {
        if let Some(there) = allocation.machines.get(machine)
            && other != namespace
        {
            let (cpu, memory) = taken.entry(other).or_default();
            *cpu = (*cpu).max(there.cpu_millis);
            *memory = (*memory).max(there.memory_bytes);
        }
    }
    taken.values().fold((0, 0), |(cpu, memory), more| {
        (u64::saturating_add(cpu, more.0), u64::saturating_add(memory, more.1))
    })
}
