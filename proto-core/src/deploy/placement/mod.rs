//! Which machine takes which instance: a pure function from specs, machines and where the instances are now.
//!
//! The order of the rules, the earlier wins:
//!
//! 1. An instance stays where it is as long as its machine is allowed and has room: nothing moves that need not.
//! 2. A machine is allowed if it is active, its region takes placements, every constraint holds, no instance on it
//!    holds a machine port that this one needs, nor one of another service of the namespace that goes only after the commit,
//!    and it has an address for what is made anew.
//! 3. Machines in `compute` regions go before those in `home_data` regions (services with volumes will prefer the other).
//! 4. The value of the service's `spread` attribute with the fewest instances of the service.
//! 5. The machine with the fewest instances of the service, then of all services of all namespaces, then the lowest id.
//!
//! Services that need most memory (then CPU) choose first, and `global` ones before all others, as they have no choice.
//! The search is greedy: it never breaks a rule, and may refuse a request so tight that only moving others would fit it.
//!
//! Cost: a scan of the allowed machines per *new* instance, on plain numbers. That is 2,000 × 200 steps for the largest
//! commit that the store takes, so an ordered index of machines, whose keys would change with every choice, is not worth it.

mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use refusal::{Exclusion, Refusal};

use super::spec::{Constraint, Replicas, ServiceSpec, Topology};
use crate::id::{MachineId, ServiceName};
use crate::machine::{Addressing, MachineLifecycle, MachineRecord};
use crate::mutant::{self, Mutant};
use crate::runtime::{Network, Workload};

/// What the operator wants a region for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RegionRole {
    /// Takes new instances, stateless ones first.
    #[default]
    Compute,
    /// Takes new instances, stateful ones first.
    HomeData,
    /// Takes no new ones.
    Draining,
    /// Takes no new ones and is left out of probes.
    Disabled,
}

/// A machine that could take instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What operators said of it.
    pub record: MachineRecord,
    /// The role of its region.
    pub region_role: RegionRole,
    /// Thousandths of a core that the services of this request may reserve there: its total less what all *other*
    /// namespaces reserve, and no less than this one has there.
    pub cpu_millis: u32,
    /// Bytes of memory, in the same sense.
    pub memory_bytes: u64,
    /// Ports of the machine that others than this namespace have.
    pub ports_taken: BTreeSet<u16>,
    /// Ports of the machine that instances of this namespace have now, and will have until the commit: only the service that is named stops them
    /// before its new instances start.
    pub ports_held: BTreeMap<u16, Option<ServiceName>>,
    /// How many addresses new instances may have there; where instances share the machine's own, how many ports.
    pub addresses_free: u32,
    /// How many instances of other namespaces there are.
    pub instances_of_others: u32,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Every service of the namespace.
    pub services: &'a BTreeMap<ServiceName, ServiceSpec>,
    /// The machines, in any order, each once.
    pub candidates: &'a [Candidate],
    /// Where instances are now, by service and slot. Slots and services that are not wanted any more may be in it.
    pub current: &'a BTreeMap<ServiceName, BTreeMap<u32, MachineId>>,
    /// Those of `current` that are made anew, by service and slot: the new one has an address of its own before the old one
    /// gives up the one that it has.
    pub renewed: &'a BTreeMap<ServiceName, BTreeSet<u32>>,
    /// Whether instances that are on draining machines (or in draining regions) now may stay there.
    pub keep_on_draining: bool,
}

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Assignment {
    /// The machine of each slot. A counted service has the slots `0..replicas`; a global one keeps the slots that it has and
    /// gives a machine that is new to it the lowest free one.
    pub slots: BTreeMap<ServiceName, BTreeMap<u32, MachineId>>,
    /// Services of which new instances went to a region that is not the first choice, as no other had room.
    pub fallbacks: BTreeSet<ServiceName>,
}

/// Chooses a machine for every slot. The answer does not depend on the order of the candidates.
///
/// # Errors
///
/// If an instance finds no machine: a refusal for each such service, by name.
pub fn place(request: Request<'_>) -> Result<Assignment, Vec<Refusal>> {
    let mut world = World::new(request);
    let mut jobs: Vec<Job<'_>> = Vec::with_capacity(request.services.len());
    for (name, spec) in request.services {
        // Hundreds of services have few different constraints between them.
        let wanted = (&spec.placement.constraints, &spec.placement.spread);
        let alike = |job: &&Job<'_>| {
            (&job.spec.placement.constraints, &job.spec.placement.spread) == wanted
        };
        let allowed = jobs.iter().find(alike).map(|job| job.allowed.clone());
        jobs.push(Job {
            name,
            spec,
            current: request.current.get(name),
            renewed: request.renewed.get(name),
            allowed: allowed.unwrap_or_else(|| world.allowed(spec)),
            slots: BTreeMap::new(),
            missing: Vec::new(),
            fell_back: false,
        });
    }
    jobs.sort_by_key(|job| {
        let wanted = job.spec.reservation;
        let global = job.spec.placement.replicas == Replicas::Global;
        (!global, std::cmp::Reverse((wanted.memory_bytes, wanted.cpu_millis)), job.name)
    });

    for job in &mut jobs {
        world.keep(job);
    }
    for job in &mut jobs {
        match job.spec.placement.replicas {
            Replicas::Global => world.fill_global(job),
            Replicas::Count(count) => world.fill_count(job, count),
        }
    }

    let mut refusals: Vec<Refusal> =
        jobs.iter().filter(|job| job.refused()).map(|job| world.refusal(job)).collect();
    refusals.sort_by(|a, b| a.service.cmp(&b.service));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut assignment = Assignment::default();
    for job in jobs {
        if job.fell_back {
            assignment.fallbacks.insert(job.name.clone());
        }
        let slots =
            job.slots.iter().map(|(slot, at)| (*slot, world.hosts[*at].id().clone())).collect();
        assignment.slots.insert(job.name.clone(), slots);
    }
    Ok(assignment)
}

/// One service while it is placed. Machines are indices into [`World::hosts`].
struct Job<'a> {
    name: &'a ServiceName,
    spec: &'a ServiceSpec,
    current: Option<&'a BTreeMap<u32, MachineId>>,
    renewed: Option<&'a BTreeSet<u32>>,
    /// Machines on which the constraints hold and that are not out altogether; capacity and ports are not looked at.
    allowed: Vec<Allowed>,
    slots: BTreeMap<u32, usize>,
    /// Slots that found no machine; for a global service, one for each machine that had no room.
    missing: Vec<u32>,
    fell_back: bool,
}

impl Job<'_> {
    /// A global service that fits nowhere at all is a mistake in its constraints, not a service of zero instances.
    fn refused(&self) -> bool {
        let nowhere = self.spec.placement.replicas == Replicas::Global && self.slots.is_empty();
        !self.missing.is_empty() || nowhere
    }
}

#[derive(Debug, Clone, Copy)]
struct Allowed {
    host: usize,
    /// Whether it takes instances that are not there yet.
    takes_new: bool,
    /// Index of its value of the spread attribute.
    domain: usize,
}

/// A machine while services are placed.
struct Host<'a> {
    candidate: &'a Candidate,
    cpu_left: u32,
    memory_left: u64,
    ports: BTreeSet<u16>,
    addresses_left: u32,
    instances: u32,
}

impl Host<'_> {
    fn id(&self) -> &MachineId {
        &self.candidate.record.id
    }

    fn has_room(&self, spec: &ServiceSpec) -> bool {
        self.cpu_left >= spec.reservation.cpu_millis
            && self.memory_left >= spec.reservation.memory_bytes
    }

    /// How many addresses a new instance takes of those that are left; where instances share the machine's own, how many ports.
    fn addresses_for(&self, spec: &ServiceSpec) -> u32 {
        match self.candidate.record.addressing {
            Addressing::Subnet(_) => u32::from(spec.workload.network != Network::Host),
            Addressing::Loopback { .. } => u32::try_from(spec.ports.len()).unwrap_or(u32::MAX),
        }
    }

    fn has_address(&self, spec: &ServiceSpec) -> bool {
        self.addresses_left >= self.addresses_for(spec)
    }

    fn has_ports(&self, job: &Job<'_>) -> bool {
        machine_ports(job.spec)
            .all(|port| !self.ports.contains(&port) && self.held_by_another(port, job).is_none())
    }

    /// Who holds this port until the commit, if that is another service (`Some(None)`: what belongs to none).
    fn held_by_another(&self, port: u16, job: &Job<'_>) -> Option<Option<&ServiceName>> {
        let holder = self.candidate.ports_held.get(&port)?.as_ref();
        (holder != Some(job.name)).then_some(holder)
    }

    fn takes_new(&self) -> bool {
        self.candidate.record.lifecycle == MachineLifecycle::Active
            && matches!(self.candidate.region_role, RegionRole::Compute | RegionRole::HomeData)
    }

    /// Whether what is there now may stay, if the request says so.
    fn drains(&self) -> bool {
        match self.candidate.record.lifecycle {
            MachineLifecycle::Active => self.candidate.region_role == RegionRole::Draining,
            MachineLifecycle::Draining => true,
            MachineLifecycle::Standby | MachineLifecycle::Removed => false,
        }
    }
}

/// The ports of the machine itself that an instance of a service takes.
pub fn machine_ports(spec: &ServiceSpec) -> impl Iterator<Item = u16> {
    ports_of(&spec.workload, &spec.ports)
}

/// The ports of the machine itself that this workload takes with these ports of its own.
pub(super) fn ports_of<'a, Name>(
    workload: &'a Workload,
    ports: &'a BTreeMap<Name, u16>,
) -> impl Iterator<Item = u16> {
    let host_ports = (workload.network == Network::Host).then(|| ports.values().copied());
    workload.publish.keys().copied().chain(host_ports.into_iter().flatten())
}

/// Whether a constraint holds on a machine. A machine without the attribute differs from every value.
#[must_use]
pub fn holds(constraint: &Constraint, machine: &MachineRecord) -> bool {
    (attribute(&constraint.attribute, machine) == Some(&constraint.value)) == constraint.equal
}

fn attribute<'a>(topology: &Topology, machine: &'a MachineRecord) -> Option<&'a str> {
    match topology {
        Topology::Machine => Some(machine.id.as_str()),
        Topology::Region => Some(&machine.region),
        Topology::Az => machine.az.as_deref(),
        Topology::Label(name) => machine.labels.get(name).map(String::as_str),
    }
}

struct World<'a> {
    /// By machine id.
    hosts: Vec<Host<'a>>,
    index: BTreeMap<&'a MachineId, usize>,
    keep_on_draining: bool,
}

impl<'a> World<'a> {
    fn new(request: Request<'a>) -> Self {
        let mut hosts: Vec<Host<'a>> = request
            .candidates
            .iter()
            .map(|candidate| Host {
                candidate,
                cpu_left: candidate.cpu_millis,
                memory_left: candidate.memory_bytes,
                ports: candidate.ports_taken.clone(),
                addresses_left: candidate.addresses_free,
                instances: candidate.instances_of_others,
            })
            .collect();
        if mutant::on(Mutant::NoRoomCheck) {
            hosts
                .iter_mut()
                .for_each(|host| (host.cpu_left, host.memory_left) = (u32::MAX, u64::MAX));
        }
        hosts.sort_by(|a, b| a.id().cmp(b.id()));
        let index =
            hosts.iter().enumerate().map(|(at, host)| (&host.candidate.record.id, at)).collect();
        Self { hosts, index, keep_on_draining: request.keep_on_draining }
    }

    fn allowed(&self, spec: &ServiceSpec) -> Vec<Allowed> {
        let mut domains = BTreeMap::new();
        let mut allowed = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let takes_new = host.takes_new();
            let stays = self.keep_on_draining && host.drains();
            let machine = &host.candidate.record;
            if (takes_new || stays) && spec.placement.constraints.iter().all(|c| holds(c, machine))
            {
                let fresh = domains.len();
                let value = attribute(&spec.placement.spread, machine);
                let domain = *domains.entry(value).or_insert(fresh);
                allowed.push(Allowed { host: at, takes_new, domain });
            }
        }
        allowed
    }

    /// Leaves the instances of a service where they are, as far as that is allowed.
    fn keep(&mut self, job: &mut Job<'_>) {
        for (slot, machine) in job.current.into_iter().flatten() {
            let wanted = match job.spec.placement.replicas {
                Replicas::Count(count) => *slot < count,
                Replicas::Global => true,
            };
            let Some(&at) = self.index.get(machine) else { continue };
            let allowed = job.allowed.binary_search_by_key(&at, |a| a.host).is_ok();
            let twice = job.spec.placement.replicas == Replicas::Global
                && job.slots.values().any(|taken| *taken == at);
            let renewed = job.renewed.is_some_and(|slots| slots.contains(slot));
            let has_address = !renewed || self.hosts[at].has_address(job.spec);
            if wanted && allowed && !twice && has_address && self.fits(at, job) {
                self.put(job, *slot, at, renewed);
            }
        }
    }

    fn fill_global(&mut self, job: &mut Job<'_>) {
        let has: BTreeSet<usize> = job.slots.values().copied().collect();
        let mut next = 0;
        let missed = usize::from(mutant::on(Mutant::GlobalMissesOne) && job.allowed.len() > 1);
        for allowed in job.allowed.clone().into_iter().skip(missed) {
            if has.contains(&allowed.host) {
                continue;
            }
            while job.slots.contains_key(&next) || job.missing.contains(&next) {
                next += 1;
            }
            // A draining machine whose instance did not fit any more is no machine that lacks one.
            if allowed.takes_new && self.fits_anew(allowed.host, job) {
                self.put(job, next, allowed.host, true);
            } else if allowed.takes_new {
                job.missing.push(next);
            }
        }
    }

    fn fill_count(&mut self, job: &mut Job<'_>, count: u32) {
        let mut per_host = vec![0_u32; self.hosts.len()];
        let mut per_domain = vec![0_u32; job.allowed.len()];
        for allowed in &job.allowed {
            let there = job.slots.values().filter(|at| **at == allowed.host).count();
            // A service has at most 1000 slots.
            per_host[allowed.host] = there as u32;
            per_domain[allowed.domain] += there as u32;
        }
        for slot in 0..count {
            if job.slots.contains_key(&slot) {
                continue;
            }
            let best = job
                .allowed
                .iter()
                .filter(|a| a.takes_new && self.fits_anew(a.host, job))
                .min_by_key(|a| {
                    let host = &self.hosts[a.host];
                    let second_choice = host.candidate.region_role != RegionRole::Compute;
                    let here = per_host[a.host];
                    if mutant::on(Mutant::NoSpread) {
                        return (false, 0, 0, 0, a.host);
                    }
                    (second_choice, per_domain[a.domain], here, host.instances, a.host)
                })
                .copied();
            let Some(best) = best else {
                job.missing.extend((slot..count).filter(|slot| !job.slots.contains_key(slot)));
                return;
            };
            job.fell_back |= self.falls_back(job, best);
            per_host[best.host] += 1;
            per_domain[best.domain] += 1;
            self.put(job, slot, best.host, true);
        }
    }

    /// Whether a choice is a second choice although there are machines of the first.
    fn falls_back(&self, job: &Job<'_>, choice: Allowed) -> bool {
        let first = |at: usize| self.hosts[at].candidate.region_role == RegionRole::Compute;
        !first(choice.host) && job.allowed.iter().any(|a| a.takes_new && first(a.host))
    }

    fn fits(&self, at: usize, job: &Job<'_>) -> bool {
        self.hosts[at].has_room(job.spec) && self.hosts[at].has_ports(job)
    }

    fn fits_anew(&self, at: usize, job: &Job<'_>) -> bool {
        self.fits(at, job) && self.hosts[at].has_address(job.spec)
    }

    /// An instance that is made anew takes an address.
    fn put(&mut self, job: &mut Job<'_>, slot: u32, at: usize, anew: bool) {
        let host = &mut self.hosts[at];
        if anew {
            host.addresses_left -= host.addresses_for(job.spec);
        }
        host.cpu_left -= job.spec.reservation.cpu_millis;
        host.memory_left -= job.spec.reservation.memory_bytes;
        host.ports.extend(machine_ports(job.spec));
        host.instances += 1;
        job.slots.insert(slot, at);
    }
}
