//! The deploy planner: from a request, the facts and what the machines say, to a [`Plan`] or a refusal.
//!
//! Every change of a namespace is planned here (deploy, scale, restart, stop, rollback, removal): they differ only in what the
//! services shall be (`target`); what must be done to get there is one question (`steps`).

mod addresses;
mod allocation;
mod limits;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod shared_tests;
mod steps;
mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use addresses::Addresses;
pub(crate) use allocation::taken_by_others;
pub use target::no_namespace;
use target::{Target, target};

use super::placement::{self, Candidate, RegionRole};
use super::spec::ServiceSpec;
use crate::api::{ErrorBody, OperationRequest};
use crate::coordination::command::MachineObservation;
use crate::coordination::plan::{Baseline, Plan, PlannedCommit};
use crate::digest::Digest;
use crate::id::{InstanceName, MachineId, Namespace, OperationId, ServiceName};
use crate::mutant::{self, Mutant};
use crate::runtime::{
    InstanceSpec, InstanceState, Network, ObservedInstance, RestartPolicy, Workload, process,
};
use crate::store::facts::{Claim, Commit, CommittedInstance, CommittedService, VERSION};
use crate::store::{Facts, Key};
use crate::time::UnixTime;

/// A machine with less room on its disk gets no new instance: it needs some for the instance, its logs, and what the store writes.
pub const MIN_DISK_FREE: u64 = 32 << 20;

/// What the planner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// This is to be done.
    Plan(Box<Plan>),
    /// Everything is as asked for.
    AlreadyDone {
        /// The head commit.
        commit: u64,
    },
    /// A precondition is missing. Nothing was changed.
    Refused(ErrorBody),
}

/// The images that machines are asked for before the plan is made.
#[must_use]
pub fn wanted_images(request: &OperationRequest, facts: &Facts) -> Vec<String> {
    let Ok(target) = target(request, facts) else { return Vec::new() };
    let images: BTreeSet<_> =
        target.services.values().map(|t| t.spec.workload.image.clone()).collect();
    images.into_iter().filter(|image| !image.is_empty()).collect()
}

/// The machine ports that machines are asked for before the plan is made.
#[must_use]
pub fn wanted_ports(request: &OperationRequest, facts: &Facts) -> Vec<u16> {
    let Ok(target) = target(request, facts) else { return Vec::new() };
    let ports: BTreeSet<_> =
        target.services.values().flat_map(|t| placement::machine_ports(&t.spec)).collect();
    ports.into_iter().collect()
}

/// Makes the plan. `silent` says of each machine that did not answer why.
#[must_use]
pub fn plan(
    request: &OperationRequest,
    facts: &Facts,
    observations: &BTreeMap<MachineId, MachineObservation>,
    silent: &[String],
) -> Planned {
    match Planner::new(request, facts, observations, silent).and_then(Planner::plan) {
        Ok(planned) => planned,
        Err(error) => Planned::Refused(error),
    }
}

/// An instance that the namespace has now and will not keep, or one that it will have.
#[derive(Debug, Clone)]
struct Placed {
    service: ServiceName,
    instance: CommittedInstance,
}

struct Planner<'a> {
    namespace: Namespace,
    request: &'a OperationRequest,
    /// That of the request.
    digest: Digest,
    facts: &'a Facts,
    observations: &'a BTreeMap<MachineId, MachineObservation>,
    target: Target,
    operation: OperationId,
    notes: Vec<String>,
}

/// What the slots of the target come to.
#[derive(Default)]
struct Slots {
    /// All slots of the new commit.
    services: BTreeMap<ServiceName, BTreeMap<u32, CommittedInstance>>,
    /// Those that are new.
    new: Vec<(Placed, InstanceSpec)>,
    /// Those that the head has and the new commit has not.
    old: Vec<Placed>,
    /// What runs under the namespace's name and is in neither.
    strays: Vec<(MachineId, ObservedInstance)>,
}

impl<'a> Planner<'a> {
    fn new(
        request: &'a OperationRequest,
        facts: &'a Facts,
        observations: &'a BTreeMap<MachineId, MachineObservation>,
        silent: &[String],
    ) -> Result<Self, ErrorBody> {
        let target = target(request, facts)?;
        let digest = request.digest();
        let this = Self {
            namespace: request.namespace().clone(),
            operation: OperationId::from_digest(&Digest::of(&(digest, facts.head_number()))),
            request,
            digest,
            facts,
            observations,
            target,
            notes: Vec::new(),
        };
        this.check_silent(silent)?;
        Ok(this)
    }

    /// A machine that does not answer blocks the plan if it has instances of the namespace, or if none is left.
    fn check_silent(&self, silent: &[String]) -> Result<(), ErrorBody> {
        let needed = |machine: &MachineId| {
            let head = self.facts.head_commit();
            head.is_some_and(|c| {
                c.services.values().flat_map(|s| s.slots.values()).any(|i| i.machine == *machine)
            })
        };
        let missing: Vec<_> =
            self.facts.machines.keys().filter(|m| !self.observations.contains_key(*m)).collect();
        if self.observations.is_empty() || missing.iter().any(|machine| needed(machine)) {
            let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
            let message = format!(
                "these machines are needed and do not answer: {} ({})",
                names.join(", "),
                silent.join("; ")
            );
            return Err(ErrorBody::new("MACHINE_SILENT", message).next("ployzctl doctor"));
        }
        Ok(())
    }

    /// The commit that two planted bugs take for an answer: there was one for the same request.
    fn planted_done(&self) -> Option<u64> {
        let is_head = mutant::on(Mutant::SaysDoneTooSoon);
        if !is_head && !mutant::on(Mutant::DoneByAnEarlier) {
            return None;
        }
        let head = self.facts.head_number();
        let mut others = self.facts.commits.values().filter(|old| is_head || old.number < head);
        let earlier = others.find(|old| old.request == self.digest)?;
        Some(if is_head { head } else { earlier.number })
    }

    fn plan(mut self) -> Result<Planned, ErrorBody> {
        self.check_target()?;
        let slots = self.slots()?;
        self.check_machines(&slots)?;
        let commit = self.commit(&slots)?;
        let head = self.facts.head_commit();
        let same = head.is_some_and(|head| head.services == commit.services);
        let gone = self.target.removes_namespace && head.is_none();
        let unchanged = slots.new.is_empty() && slots.old.is_empty() && slots.strays.is_empty();
        let done = ((same || gone) && unchanged).then(|| self.facts.head_number());
        if let Some(commit) = done.or_else(|| self.planted_done()) {
            return Ok(Planned::AlreadyDone { commit });
        }
        let allocation = self.allocation(&slots);
        let left_to_others = self.left_to_others(&allocation);
        let claims = self.claims(&slots)?;
        let had = |key: &&Key| {
            let there = self.facts.claims.get(*key);
            there.is_some_and(|there| {
                there.value.namespace == self.namespace && !there.value.released
            })
        };
        let gains = claims.keys().filter(|key| !had(key)).cloned().collect();
        let releases = self
            .facts
            .claims
            .iter()
            .filter(|(key, claim)| {
                claim.value.namespace == self.namespace
                    && !claim.value.released
                    && !claims.contains_key(*key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let revisions = self
            .target
            .services
            .values()
            .map(|t| (t.spec.revision(), t.spec.clone()))
            .filter(|(digest, _)| !self.facts.revisions.contains_key(digest))
            .collect();
        let (steps, cleanup) = self.steps(&slots);
        let makes = steps.iter().filter(|step| step.action.makes().is_some());
        let uses = makes
            .filter_map(|step| Some((step.machine.clone(), self.observations.get(&step.machine)?)))
            .map(|(machine, seen)| (machine, seen.uses.count))
            .collect();
        let plan = Plan {
            operation: self.operation.clone(),
            scope: self.request.scope(),
            baseline: baseline(self.facts, self.observations, &self.namespace),
            notes: std::mem::take(&mut self.notes),
            steps,
            commit: PlannedCommit {
                commit,
                removes_namespace: self.target.removes_namespace,
                revisions,
                allocation,
                claims,
                gains,
                releases,
            },
            cleanup,
            left_to_others,
            uses,
        };
        debug_assert_eq!(plan.flaw(), None);
        self.check_plan(&plan, &slots)?;
        Ok(Planned::Plan(Box::new(plan)))
    }

    fn observed(&self, machine: &MachineId, name: &InstanceName) -> Option<&ObservedInstance> {
        let seen = self.observations.get(machine)?;
        seen.instances.iter().find(|i| i.spec.name == *name && i.spec.namespace == self.namespace)
    }

    /// Whether an instance of the head can stay: made from the same, and doing what it should.
    fn keeps(&self, now: &CommittedInstance, spec: &ServiceSpec, workload: Digest) -> bool {
        let Some(seen) = self.observed(&now.machine, &now.instance) else { return false };
        let lives = match seen.state {
            InstanceState::Running | InstanceState::Restarting => true,
            InstanceState::Exited { code } => match spec.workload.restart {
                RestartPolicy::No => true,
                RestartPolicy::OnFailure => code == 0,
                RestartPolicy::Always => false,
            },
            InstanceState::Created => false,
        };
        if seen.restarts > 0 && mutant::on(Mutant::KeepsWhatWasRestarted) {
            return true;
        }
        lives && now.workload == workload && seen.spec.config_hash() == now.config_hash
    }

    fn slots(&mut self) -> Result<Slots, ErrorBody> {
        let empty = BTreeMap::new();
        let head = self.facts.head_commit();
        let now: BTreeMap<&ServiceName, &BTreeMap<u32, CommittedInstance>> =
            head.iter().flat_map(|c| &c.services).map(|(name, s)| (name, &s.slots)).collect();
        let renewed = self.renewed(&now);
        let mut addresses = Addresses::new(self.facts, self.observations);
        let placed = self.place(&now, &renewed, &addresses)?;
        let mut slots = Slots::default();
        for (service, target) in &self.target.services {
            let now = now.get(service).copied().unwrap_or(&empty);
            let wanted = placed.get(service).cloned().unwrap_or_default();
            let mut made = BTreeMap::new();
            let workload = workload_digest(&target.spec);
            for (slot, machine) in wanted {
                let anew = renewed.get(service).is_some_and(|slots| slots.contains(&slot));
                let kept = now.get(&slot).filter(|i| i.machine == machine && !anew);
                if let Some(instance) = kept {
                    made.insert(slot, instance.clone());
                    continue;
                }
                let spec = self.instance(service, slot, &target.spec, &machine, &mut addresses);
                let instance = CommittedInstance {
                    machine,
                    instance: spec.name.clone(),
                    operation: self.operation.clone(),
                    config_hash: spec.config_hash(),
                    workload,
                    address: spec.address,
                    ports: spec.ports.clone(),
                };
                made.insert(slot, instance.clone());
                slots.new.push((Placed { service: service.clone(), instance }, spec));
            }
            slots.services.insert(service.clone(), made);
        }
        for (service, old) in now {
            for (slot, instance) in old {
                let stays = slots.services.get(service).and_then(|s| s.get(slot));
                if stays.is_none_or(|stays| stays.instance != instance.instance) {
                    let service = service.clone();
                    slots.old.push(Placed { service, instance: instance.clone() });
                }
            }
        }
        slots.strays = self.strays(&slots);
        Ok(slots)
    }

    /// The slots of the head that are made anew, wherever that is.
    fn renewed(
        &self,
        now: &BTreeMap<&ServiceName, &BTreeMap<u32, CommittedInstance>>,
    ) -> BTreeMap<ServiceName, BTreeSet<u32>> {
        let mut renewed = BTreeMap::new();
        for (service, target) in &self.target.services {
            let workload = workload_digest(&target.spec);
            let slots = now.get(service).into_iter().flat_map(|slots| slots.iter());
            let anew = slots.filter(|(slot, instance)| {
                let renew = target.renew && (**slot == 0 || !mutant::on(Mutant::RestartsOne));
                renew || !self.keeps(instance, &target.spec, workload)
            });
            renewed.insert(service.clone(), anew.map(|(slot, _)| *slot).collect());
        }
        renewed
    }

    fn strays(&self, slots: &Slots) -> Vec<(MachineId, ObservedInstance)> {
        let committed = slots.services.values().flat_map(BTreeMap::values);
        let old = slots.old.iter().map(|placed| &placed.instance);
        let known: BTreeSet<_> = committed.chain(old).map(|i| (&i.machine, &i.instance)).collect();
        self.observations
            .iter()
            .flat_map(|(machine, seen)| seen.instances.iter().map(move |i| (machine, i)))
            .filter(|(machine, i)| {
                i.spec.namespace == self.namespace && !known.contains(&(machine, &i.spec.name))
            })
            .map(|(machine, i)| (machine.clone(), i.clone()))
            .collect()
    }

    /// The ports that what runs for this namespace on a machine has until the commit. An instance of the head can be stopped first, by its own
    /// service; a stray goes with the others.
    fn ports_held(
        &self,
        seen: &MachineObservation,
        now: &BTreeMap<&ServiceName, &BTreeMap<u32, CommittedInstance>>,
    ) -> BTreeMap<u16, Option<ServiceName>> {
        let mut held = BTreeMap::new();
        for there in seen.instances.iter().filter(|i| i.spec.namespace == self.namespace) {
            if !there.state.runs() {
                continue;
            }
            let slots = now.get(&there.spec.service).into_iter().flat_map(|slots| slots.values());
            let of_head = slots
                .into_iter()
                .any(|i| i.machine == seen.machine && i.instance == there.spec.name);
            let holder = of_head.then(|| there.spec.service.clone());
            let ports = placement::ports_of(&there.spec.workload, &there.spec.ports);
            held.extend(ports.map(|port| (port, holder.clone())));
        }
        held
    }

    fn place(
        &mut self,
        now: &BTreeMap<&ServiceName, &BTreeMap<u32, CommittedInstance>>,
        renewed: &BTreeMap<ServiceName, BTreeSet<u32>>,
        addresses: &Addresses,
    ) -> Result<BTreeMap<ServiceName, BTreeMap<u32, MachineId>>, ErrorBody> {
        let services: BTreeMap<_, _> = self
            .target
            .services
            .iter()
            .filter(|(_, target)| !target.stopped)
            .map(|(name, target)| (name.clone(), target.spec.clone()))
            .collect();
        let mut candidates: Vec<_> = self
            .facts
            .machines
            .values()
            .filter_map(|record| {
                let seen = self.observations.get(&record.id)?;
                let (cpu, memory) = taken_by_others(self.facts, &self.namespace, &record.id);
                let cpu = u32::try_from(cpu).unwrap_or(u32::MAX);
                // What it has there already is its own, whatever others are planning.
                let own = self.facts.allocations.get(&self.namespace);
                let own = own.and_then(|own| own.value.machines.get(&record.id));
                let (own_cpu, own_memory) =
                    own.map_or((0, 0), |own| (own.cpu_millis, own.memory_bytes));
                let own_cpu = u32::try_from(own_cpu).unwrap_or(u32::MAX);
                let others = seen.instances.iter().filter(|i| i.spec.namespace != self.namespace);
                Some(Candidate {
                    record: record.clone(),
                    region_role: RegionRole::default(),
                    cpu_millis: seen.facts.cpu_total_millis.saturating_sub(cpu).max(own_cpu),
                    memory_bytes: seen
                        .facts
                        .memory_total_bytes
                        .saturating_sub(memory)
                        .max(own_memory),
                    ports_taken: self.ports_of_others(&record.id, seen),
                    ports_held: self.ports_held(seen, now),
                    addresses_free: addresses.free(record),
                    instances_of_others: u32::try_from(others.count()).unwrap_or(u32::MAX),
                })
            })
            .collect();
        let current = now
            .iter()
            .map(|(name, slots)| {
                let slots = slots.iter().map(|(slot, i)| (*slot, i.machine.clone())).collect();
                ((*name).clone(), slots)
            })
            .collect();
        let place = |candidates: &[Candidate]| {
            placement::place(placement::Request {
                services: &services,
                candidates,
                current: &current,
                renewed,
                keep_on_draining: false,
            })
        };
        match place(&candidates) {
            Ok(assignment) => Ok(assignment.slots),
            Err(refusals) => {
                // If it is for the ports of others alone, the checks that follow say whose they are.
                candidates.iter_mut().for_each(|candidate| candidate.ports_taken.clear());
                if let Ok(assignment) = place(&candidates) {
                    return Ok(assignment.slots);
                }
                let all: Vec<_> = refusals.iter().map(ToString::to_string).collect();
                // The sentence says which key keeps which machine out; what takes the room is in `ps`.
                let next =
                    "ployzctl ps, and after a change of the manifest ployzctl deploy preview";
                Err(ErrorBody::new("NO_PLACE", all.join("; ")).next(next))
            }
        }
    }

    fn instance(
        &self,
        service: &ServiceName,
        slot: u32,
        spec: &ServiceSpec,
        machine: &MachineId,
        addresses: &mut Addresses,
    ) -> InstanceSpec {
        let record = &self.facts.machines[machine];
        let host = spec.workload.network == Network::Host;
        let (address, ports) = addresses
            .draw(record, host, &spec.ports)
            .expect("placement counted those that are free");
        let name = format!("{service}-{slot}-{}", self.operation.short());
        InstanceSpec {
            name: InstanceName::new(name)
                .expect("a service name leaves room for slot and operation"),
            namespace: self.namespace.clone(),
            service: service.clone(),
            slot,
            operation: self.operation.clone(),
            workload: spec.workload.clone(),
            address,
            ports,
        }
    }

    /// What only the machines know: images, ports, space, what their runtime can do.
    fn check_machines(&self, slots: &Slots) -> Result<(), ErrorBody> {
        for (placed, spec) in &slots.new {
            let machine = &placed.instance.machine;
            let seen = &self.observations[machine];
            let free = seen.facts.disk_free_bytes;
            if free < MIN_DISK_FREE {
                let message = format!(
                    "machine {machine}, where service {} gets an instance, has {} KiB left on its disk; {} are wanted",
                    placed.service,
                    free >> 10,
                    super::units::memory(MIN_DISK_FREE)
                );
                let next = format!("df -h, on machine {machine}");
                return Err(ErrorBody::new("DISK_FULL", message).next(next));
            }
            check_workload(&placed.service, &spec.workload, machine, seen)?;
            for port in placement::machine_ports(&self.target.services[&placed.service].spec) {
                // A port that a namespace has claimed is in use by it: this one keeps it, of another one the claims say whose it is.
                let claim = self.facts.claims.get(&Key::port(machine, port));
                let claimed = claim.is_some_and(|claim| !claim.value.released);
                if seen.facts.ports_taken.contains(&port) && !claimed {
                    let message = format!(
                        "port {port} of machine {machine}, which service {} wants, is in use",
                        placed.service
                    );
                    let next = format!("ss -ltnp 'sport = :{port}', on machine {machine}");
                    return Err(ErrorBody::new("PORT_IN_USE", message).next(next));
                }
            }
        }
        Ok(())
    }

    fn commit(&self, slots: &Slots) -> Result<Commit, ErrorBody> {
        let head = self.facts.head_number();
        let number = head.checked_add(1).ok_or_else(|| {
            let message = format!("the head says that it is commit {head}: none can follow");
            ErrorBody::new("FACT_UNREADABLE", message).next("ployzctl doctor")
        })?;
        let services = self.target.services.iter().map(|(name, target)| {
            let committed = CommittedService {
                revision: target.spec.revision(),
                stopped: target.stopped,
                slots: slots.services.get(name).cloned().unwrap_or_default(),
                routes: target.spec.routes.clone(),
            };
            (name.clone(), committed)
        });
        Ok(Commit {
            v: VERSION,
            namespace: self.namespace.clone(),
            number,
            operation: self.operation.clone(),
            request: self.digest,
            summary: self.target.summary(self.request),
            at: UnixTime::default(),
            services: services.collect(),
        })
    }

    /// What the namespace owns after the commit; refused if somebody else owns it.
    fn claims(&self, slots: &Slots) -> Result<BTreeMap<Key, Claim>, ErrorBody> {
        let mut claims = BTreeMap::new();
        let mut add = |key: Key, what: String, service: &ServiceName| {
            if let Some(there) = self.facts.claims.get(&key)
                && there.value.namespace != self.namespace
                && !there.value.released
            {
                let owner = format!("{}/{}", there.value.namespace, there.value.service);
                let message = format!("{what}, which service {service} wants, belongs to {owner}");
                let next = format!("ployzctl namespace inspect {}", there.value.namespace);
                let code =
                    if what.starts_with("port") { "PORT_CONFLICT" } else { "ROUTE_CONFLICT" };
                return Err(ErrorBody::new(code, message).next(next));
            }
            claims.entry(key).or_insert_with(|| Claim {
                v: VERSION,
                namespace: self.namespace.clone(),
                service: service.clone(),
                released: false,
            });
            Ok(())
        };
        for (service, target) in &self.target.services {
            for host in target.spec.routes.iter().flat_map(|route| &route.hostnames) {
                add(Key::host(host), format!("host name {host}"), service)?;
            }
            for instance in slots.services.get(service).into_iter().flat_map(BTreeMap::values) {
                for port in placement::machine_ports(&target.spec) {
                    let machine = &instance.machine;
                    add(
                        Key::port(machine, port),
                        format!("port {port} of machine {machine}"),
                        service,
                    )?;
                }
            }
        }
        Ok(claims)
    }
}

/// Whether the machine's runtime can make it, and has its image.
fn check_workload(
    service: &ServiceName,
    workload: &Workload,
    machine: &MachineId,
    seen: &MachineObservation,
) -> Result<(), ErrorBody> {
    // The manifest is to be changed, and the keys are named.
    let unsupported = |message: String| {
        Err(ErrorBody::new("UNSUPPORTED", message).next("ployzctl deploy preview"))
    };
    let image = &workload.image;
    if seen.runtime == "process" {
        let asked: Vec<_> =
            process::unsupported(workload).iter().map(ToString::to_string).collect();
        if !asked.is_empty() {
            return unsupported(format!(
                "service {service} wants what machine {machine}, which runs plain processes, cannot give: {}",
                asked.join("; ")
            ));
        }
    } else if image.is_empty() {
        return unsupported(format!(
            "service {service} has no `image`; machine {machine} runs containers, which are made from one"
        ));
    } else if !seen.facts.images_present.contains(image) {
        let message = format!("image {image} of service {service} is not on machine {machine}");
        let next = format!("docker pull {image}, or docker load, on machine {machine}");
        return Err(ErrorBody::new("IMAGE_MISSING", message).next(next));
    }
    Ok(())
}

/// The facts that a plan is made against.
fn baseline(
    facts: &Facts,
    observations: &BTreeMap<MachineId, MachineObservation>,
    namespace: &Namespace,
) -> Baseline {
    let instances = observations
        .iter()
        .map(|(machine, seen)| {
            let own = seen.instances.iter().filter(|i| i.spec.namespace == *namespace);
            let own = own.map(|i| (i.spec.name.clone(), i.spec.config_hash())).collect();
            (machine.clone(), own)
        })
        .collect();
    Baseline { head: facts.head_number(), instances }
}

/// Two specs with equal digests are served by the same instances.
fn workload_digest(spec: &ServiceSpec) -> Digest {
    Digest::of(&(&spec.workload, &spec.ports))
}
