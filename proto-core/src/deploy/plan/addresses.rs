use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use crate::coordination::command::{MachineObservation, Uses};
use crate::coordination::plan::Action;
use crate::id::MachineId;
use crate::machine::{Addressing, MachineRecord};
use crate::mutant::{self, Mutant};
use crate::store::Facts;

/// The addresses that a new instance cannot have, and those that it had better not have.
///
/// In use is what was seen on a machine (instances, and on loopback whatever else listens there), what a head of any namespace holds,
/// and what an unfinished operation drew. Left a moment
/// ago is what the commit before held: a gateway that is behind, or a resolver that remembers an answer, would send requests
/// meant for the old instance to the new one. Such an address is drawn only if there is no other.
///
/// Two operations that plan at the same time may draw the same one: whoever is recorded second draws anew, and the participant lets only the
/// first that asks have it.
#[derive(Default)]
pub(super) struct Addresses {
    used: BTreeMap<MachineId, Endpoints>,
    left: BTreeMap<MachineId, Endpoints>,
    /// When addresses of each machine were used: one that was given up rests until all others have been.
    uses: BTreeMap<MachineId, Uses>,
    /// What was drawn last.
    drawn: BTreeMap<MachineId, u16>,
}

/// What may be the last byte of an instance's address in its machine's subnet: .1 is the machine's own.
const PLACES: RangeInclusive<u16> = 2..=254;

fn at(subnet: Ipv4Addr, place: u16) -> IpAddr {
    let [a, b, c, _] = subnet.octets();
    IpAddr::V4(Ipv4Addr::new(a, b, c, u8::try_from(place).expect("254 at most")))
}

/// Where instances listen that share the machine's own network.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Addresses with port 0, and addresses with each of their ports.
type Endpoints = BTreeSet<(IpAddr, u16)>;

fn take(
    endpoints: &mut BTreeMap<MachineId, Endpoints>,
    machine: &MachineId,
    address: IpAddr,
    ports: impl IntoIterator<Item = u16>,
) {
    let endpoints = endpoints.entry(machine.clone()).or_default();
    endpoints.insert((address, 0));
    endpoints.extend(ports.into_iter().map(|port| (address, port)));
}

impl Addresses {
    pub(super) fn new(
        facts: &Facts,
        observations: &BTreeMap<MachineId, MachineObservation>,
    ) -> Self {
        let mut this = Self::default();
        for (machine, seen) in observations {
            if !mutant::on(Mutant::AddressesUsedAgain) {
                this.uses.insert(machine.clone(), seen.uses.clone());
            }
            for instance in &seen.instances {
                let ports = instance.spec.ports.values().copied();
                take(&mut this.used, machine, instance.spec.address, ports);
            }
            let listening = seen.facts.ports_listening.iter().copied();
            take(&mut this.used, machine, LOOPBACK, listening);
        }
        let committed = facts.head_commit().into_iter().flat_map(|head| head.services.values());
        for instance in committed.flat_map(|service| service.slots.values()) {
            let ports = instance.ports.values().copied();
            take(&mut this.used, &instance.machine, instance.address, ports);
        }
        for (machine, there) in facts.allocations.values().flat_map(|a| &a.value.machines) {
            for (address, ports) in &there.addresses {
                take(&mut this.used, machine, *address, ports.iter().copied());
            }
            let before = there.addresses_before.iter();
            let before = before.filter(|_| !mutant::on(Mutant::AddressesUsedAgain));
            for (address, ports) in before {
                take(&mut this.left, machine, *address, ports.iter().copied());
            }
        }
        let plans = facts.operations.values().filter_map(|op| op.value.plan.as_ref());
        for step in plans.flat_map(|plan| &plan.steps) {
            if let Action::Ensure { spec } = &step.action {
                take(&mut this.used, &step.machine, spec.address, spec.ports.values().copied());
            }
        }
        this
    }

    /// How many addresses can be drawn for new instances of a machine; where they share the machine's own, how many ports.
    pub(super) fn free(&self, machine: &MachineRecord) -> u32 {
        let none = Endpoints::new();
        let used = self.used.get(&machine.id).unwrap_or(&none);
        let free = match machine.addressing {
            Addressing::Subnet(subnet) => {
                PLACES.filter(|place| !used.contains(&(at(subnet, *place), 0))).count()
            }
            Addressing::Loopback { first, last } => {
                (first..=last).filter(|port| !used.contains(&(LOOPBACK, *port))).count()
            }
        };
        u32::try_from(free).expect("as many as there are ports at most")
    }

    /// The address of a new instance, and what its port names stand for there. `None`: all are in use.
    pub(super) fn draw(
        &mut self,
        machine: &MachineRecord,
        host_network: bool,
        ports: &BTreeMap<String, u16>,
    ) -> Option<(IpAddr, BTreeMap<String, u16>)> {
        let none = Endpoints::new();
        let used = self.used.get(&machine.id).unwrap_or(&none);
        let left = self.left.get(&machine.id).unwrap_or(&none);
        let no_uses = Uses::default();
        let uses = self.uses.get(&machine.id).unwrap_or(&no_uses);
        let drawn_last = self.drawn.get(&machine.id).copied();
        let (address, ports) = match machine.addressing {
            Addressing::Subnet(_) if host_network => (LOOPBACK, ports.clone()),
            Addressing::Subnet(subnet) => {
                let all = longest_unused(PLACES, uses, drawn_last);
                let all = all.map(|place| (at(subnet, place), 0));
                let (address, _) = free(all, used, left).next()?;
                if let IpAddr::V4(address) = address {
                    self.drawn.insert(machine.id.clone(), address.octets()[3].into());
                }
                (address, ports.clone())
            }
            Addressing::Loopback { first, last } => {
                let all = longest_unused(first..=last, uses, drawn_last);
                let all = all.map(|port| (LOOPBACK, port));
                let mut free = free(all, used, left);
                let drawn: Option<BTreeMap<_, _>> =
                    ports.keys().map(|name| Some((name.clone(), free.next()?.1))).collect();
                let drawn = drawn?;
                if let Some(port) = drawn.values().next_back() {
                    self.drawn.insert(machine.id.clone(), *port);
                }
                (LOOPBACK, drawn)
            }
        };
        take(&mut self.used, &machine.id, address, ports.values().copied());
        Some((address, ports))
    }
}

/// Those that are not in use, the ones that nobody left a moment ago first.
fn free<'a>(
    all: impl Iterator<Item = (IpAddr, u16)> + Clone + 'a,
    used: &'a Endpoints,
    left: &'a Endpoints,
) -> impl Iterator<Item = (IpAddr, u16)> + 'a {
    let unused = all.filter(|endpoint| !used.contains(endpoint));
    let fresh = unused.clone().filter(|endpoint| !left.contains(endpoint));
    fresh.chain(unused.filter(|endpoint| left.contains(endpoint)))
}

/// The places of a range: first those of which no use is remembered, in turn, beginning after what was drawn or used last; then the others,
/// what was used longest ago first.
fn longest_unused(
    range: RangeInclusive<u16>,
    uses: &Uses,
    drawn_last: Option<u16>,
) -> impl Iterator<Item = u16> + Clone + '_ {
    let mut again: Vec<_> =
        uses.places.range(range.clone()).map(|(place, at)| (*at, *place)).collect();
    again.sort_unstable();
    let used_last = again.last().map(|(_, place)| *place);
    let after = drawn_last.or(used_last).unwrap_or(0);
    let later = range.clone().filter(move |place| *place > after);
    let in_turn = later.chain(range.filter(move |place| *place <= after));
    let fresh = in_turn.filter(|place| !uses.places.contains_key(place));
    fresh.chain(again.into_iter().map(|(_, place)| place))
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
