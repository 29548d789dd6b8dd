use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::coordination::command::MachineObservation;
use crate::coordination::plan::Action;
use crate::id::MachineId;
use crate::machine::{Addressing, MachineRecord};
use crate::store::Facts;

/// The addresses that are in use: seen on a machine, in the head, or drawn by an unfinished operation.
///
/// Two operations that plan at the same time may draw the same one; the participant lets only the first have it.
#[derive(Default)]
pub(super) struct Addresses {
    used: BTreeMap<MachineId, BTreeSet<(IpAddr, u16)>>,
}

impl Addresses {
    pub(super) fn new(
        facts: &Facts,
        observations: &BTreeMap<MachineId, MachineObservation>,
    ) -> Self {
        let mut this = Self::default();
        for (machine, seen) in observations {
            for instance in &seen.instances {
                this.take(machine, instance.spec.address, &instance.spec.ports);
            }
        }
        let committed = facts.head_commit().into_iter().flat_map(|head| head.services.values());
        for instance in committed.flat_map(|service| service.slots.values()) {
            this.take(&instance.machine, instance.address, &instance.ports);
        }
        let plans = facts.operations.values().filter_map(|op| op.value.plan.as_ref());
        for step in plans.flat_map(|plan| &plan.steps) {
            if let Action::Ensure { spec } = &step.action {
                this.take(&step.machine, spec.address, &spec.ports);
            }
        }
        this
    }

    fn take(&mut self, machine: &MachineId, address: IpAddr, ports: &BTreeMap<String, u16>) {
        let used = self.used.entry(machine.clone()).or_default();
        used.insert((address, 0));
        used.extend(ports.values().map(|port| (address, *port)));
    }

    /// The address of a new instance, and what its port names stand for there. `None`: all are in use.
    pub(super) fn draw(
        &mut self,
        machine: &MachineRecord,
        host_network: bool,
        ports: &BTreeMap<String, u16>,
    ) -> Option<(IpAddr, BTreeMap<String, u16>)> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let used = self.used.entry(machine.id.clone()).or_default();
        let (address, ports) = match machine.addressing {
            Addressing::Subnet(_) if host_network => (loopback, ports.clone()),
            Addressing::Subnet(subnet) => {
                let [a, b, c, _] = subnet.octets();
                let address = (2..=254)
                    .map(|d| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
                    .find(|address| !used.contains(&(*address, 0)))?;
                (address, ports.clone())
            }
            Addressing::Loopback { first, last } => {
                let mut free = (first..=last).filter(|port| !used.contains(&(loopback, *port)));
                let drawn: Option<BTreeMap<_, _>> =
                    ports.keys().map(|name| Some((name.clone(), free.next()?))).collect();
                (loopback, drawn?)
            }
        };
        self.take(&machine.id, address, &ports);
        Some((address, ports))
    }
}
