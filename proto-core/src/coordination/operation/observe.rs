//! Looking before deciding: facts from the store, observations from the machines, then the plan.

use std::collections::BTreeMap;

use super::ask::why_not;
use super::{
    MAX_RACES, OBSERVE_WITHIN, Operation, Reading, State, StoreOutcome, Tag, store_away,
    store_failed,
};
use crate::Outcome;
use crate::api::{ErrorBody, OperationEvent, OperationRequest, OperationResult, Submission};
use crate::coordination::command::{BusError, Command, CommandBody, CommandReply, Uses};
use crate::coordination::participant::places;
use crate::coordination::plan::Plan;
use crate::coordination::record::{OperationRecord, Phase};
use crate::daemon::EffectKind;
use crate::deploy::plan::{Planned, plan, taken_by_others, wanted_images, wanted_ports};
use crate::id::{MachineId, OperationId};
use crate::machine::{Addressing, MachineLifecycle};
use crate::mutant::{self, Mutant};
use crate::runtime::InstanceSpec;
use crate::store::{Entry, Facts, Key, Scope, StoreReply, StoreRequest, Versioned};
use crate::time::{Time, UnixTime};

/// Nothing is decided without the record that every cluster has from its beginning.
fn facts_lost() -> ErrorBody {
    let message = "the store has no record of the cluster: it is only being founded, or the store has lost its facts";
    ErrorBody::new("FACTS_LOST", message).next("ployzctl doctor")
}

impl Operation {
    pub(super) fn begin(&mut self) {
        self.events.push_back(OperationEvent::Observing);
        self.scope = self.request().map(OperationRequest::scope);
        self.look_again();
    }

    /// From the start, with nothing recorded.
    pub(super) fn look_again(&mut self) {
        self.joined = false;
        self.observations.clear();
        self.notes.clear();
        self.plan = None;
        self.record = None;
        self.lease = None;
        match self.scope {
            Some(_) => self.read_facts(Reading::Initial),
            None => self.read(Reading::Find, vec![Key::operations()]),
        }
    }

    pub(super) fn read_facts(&mut self, why: Reading) {
        let Scope::Namespace(namespace) = self.scope();
        let prefixes = Facts::prefixes(namespace);
        self.read(why, prefixes);
    }

    fn read(&mut self, why: Reading, prefixes: Vec<Key>) {
        self.state = State::Reading(why);
        let request = EffectKind::Store(StoreRequest::Read { prefixes });
        self.effects.push_back((Tag::Read, request));
    }

    pub(super) fn read_done(&mut self, now: Time, wall: UnixTime, outcome: StoreOutcome) {
        let State::Reading(why) = self.take_state() else {
            panic!("a read was answered that nobody waits for")
        };
        let facts = match outcome {
            Outcome::Ok(StoreReply::Entries(entries)) => Facts::parse(&entries as &[Entry])
                .map_err(|error| {
                    ErrorBody::new("FACT_UNREADABLE", error.to_string()).next("ployzctl doctor")
                }),
            Outcome::Failed(error) => Err(store_failed(&error)),
            _ => Err(store_away("a read was not answered")),
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => return self.read_failed(now, wall, why, error),
        };
        match why {
            Reading::Find => self.found(facts),
            // Of a store that lost what it had nothing follows: neither that a write never landed nor that nothing is committed.
            _ if facts.cluster.is_none() => self.read_failed(now, wall, why, facts_lost()),
            Reading::Initial => {
                self.facts = facts;
                self.look_for_others(wall);
            }
            Reading::Recheck => self.rechecked(now, wall, facts),
            Reading::Conflict(pending) => self.conflict_read(now, wall, pending, facts),
            Reading::NotLanded(pending) => self.not_landed_read(now, wall, pending, facts),
            Reading::Fate(pending) => self.fate_read(now, wall, pending, facts),
        }
    }

    fn read_failed(&mut self, now: Time, wall: UnixTime, why: Reading, error: ErrorBody) {
        match why {
            Reading::Find | Reading::Initial => self.refuse(error),
            Reading::Recheck if self.unchecked => self.interrupt(error),
            Reading::Recheck => self.never_begun(wall, error),
            // What was lost stays lost until it is known: ask again by a write.
            Reading::Conflict(pending) => self.write_later(now, pending),
            Reading::NotLanded(pending) | Reading::Fate(pending) => {
                self.resolve_later(now, pending)
            }
        }
    }

    /// The operation to be resumed or aborted, by its id.
    fn found(&mut self, facts: Facts) {
        let id = self.id().expect("resume and abort name an operation").clone();
        match facts.operations.get(&id) {
            None => {
                let message = format!("there is no operation {id}");
                self.refuse(ErrorBody::new("NO_SUCH_OPERATION", message).next("ployzctl op ls"));
            }
            Some(record) => {
                self.scope = Some(record.value.scope.clone());
                self.read_facts(Reading::Initial);
            }
        }
    }

    /// Somebody else may be at work on the scope, or may have left work behind.
    fn look_for_others(&mut self, wall: UnixTime) {
        match &self.submission {
            Submission::Resume { operation } | Submission::Abort { operation } => {
                let id = operation.clone();
                self.take_up(&id, wall);
            }
            Submission::Preview { .. } => self.observe(wall),
            Submission::Apply { request } | Submission::ApplyPrepared { request, .. } => {
                let digest = request.digest();
                // One's own before any other that is in the way.
                let left = self.facts.unfinished(self.scope());
                let left = left.min_by_key(|other| other.value.request_digest != digest);
                match left.filter(|_| !mutant::on(Mutant::UnfinishedIgnored)) {
                    None => match self.held() {
                        Some(error) => self.refuse(error),
                        None => self.observe(wall),
                    },
                    Some(other) if other.value.request_digest == digest => {
                        let id = other.value.id.clone();
                        self.take_up(&id, wall);
                    }
                    Some(other) => {
                        let error = self.held().unwrap_or_else(|| unfinished(&other.value));
                        self.refuse(error);
                    }
                }
            }
        }
    }

    /// Who holds the lease of the scope, as an error; `None` if it may be taken.
    ///
    /// A lease of this machine for an operation that does not run here is left over from a daemon that died.
    fn held(&self) -> Option<ErrorBody> {
        let lease = self.facts.held_lease()?;
        if lease.holder == self.me && !self.running_here.contains(&lease.operation) {
            return None;
        }
        let doing = self.facts.operations.get(&lease.operation);
        let doing = doing.map_or("an operation", |op| op.value.summary.as_str());
        let message = format!(
            "{} is held by operation {} ({doing}) on machine {} since {}",
            self.scope(),
            lease.operation,
            lease.holder,
            lease.since
        );
        let next = format!("ployzctl op show {}", lease.operation);
        Some(ErrorBody::new("LEASE_HELD", message).next(next))
    }

    /// Adopts an unfinished operation, if nobody runs it.
    fn take_up(&mut self, id: &OperationId, wall: UnixTime) {
        if let Some(error) = self.held() {
            return self.refuse(error);
        }
        let found = self.facts.operations.get(id).cloned();
        let Some(found) = found else {
            let message = format!("there is no operation {id}");
            return self
                .refuse(ErrorBody::new("NO_SUCH_OPERATION", message).next("ployzctl op ls"));
        };
        let aborting = matches!(self.submission, Submission::Abort { .. });
        let finished = |word: &str| {
            let message = format!("operation {id} is {word} already");
            ErrorBody::new("OPERATION_FINISHED", message).next(format!("ployzctl op show {id}"))
        };
        match found.value.phase {
            Phase::Committed if !aborting => {
                // Its own, which need not be the head any more; the record of an older version does not say it.
                let own = found.value.done.as_ref().map(|done| done.commit);
                let commit = own.unwrap_or_else(|| self.facts.head_number());
                self.end(OperationResult::AlreadyDone { commit });
            }
            phase if phase.is_final() => self.refuse(finished(phase.as_str())),
            Phase::CleanupPending if aborting && !mutant::on(Mutant::AbortsTheCommitted) => {
                let message = format!("operation {id} has committed; it can only go forward");
                let next = format!("ployzctl op resume {id}");
                self.refuse(ErrorBody::new("ALREADY_COMMITTED", message).next(next));
            }
            _ => match found.value.plan.clone() {
                None => {
                    let message = format!("operation {id} is unfinished and has no plan");
                    let error = ErrorBody::new("FACT_UNREADABLE", message);
                    self.refuse(error.next(format!("ployzctl op show {id}")));
                }
                Some(plan) => {
                    let other = (plan.operation != *id || plan.scope != found.value.scope)
                        .then(|| "it is of another operation".to_owned());
                    if let Some(flaw) = other.or_else(|| plan.flaw()) {
                        let message = format!("the plan of operation {id} cannot be run: {flaw}");
                        let error = ErrorBody::new("FACT_UNREADABLE", message);
                        return self.refuse(error.next(format!("ployzctl op show {id}")));
                    }
                    self.plan = Some(plan);
                    self.take_adopted(found, wall);
                }
            },
        }
    }

    /// Asks every machine that takes part how it is.
    fn observe(&mut self, wall: UnixTime) {
        let machines: Vec<_> = self
            .facts
            .machines
            .values()
            .filter(|machine| machine.lifecycle != MachineLifecycle::Removed)
            .map(|machine| machine.id.clone())
            .collect();
        let request = self.request().expect("only requests are planned");
        let (images, ports) =
            (wanted_images(request, &self.facts), wanted_ports(request, &self.facts));
        // Nothing is recorded yet, so the operation has no id; the digest of the request stands for it.
        let operation = OperationId::from_digest(&request.digest());
        for machine in &machines {
            let body = CommandBody::Observe {
                namespace: None,
                images: images.clone(),
                ports: ports.clone(),
            };
            let command = Command {
                v: 1,
                operation: operation.clone(),
                attempt: 0,
                deadline: OBSERVE_WITHIN,
                body,
            };
            let effect = EffectKind::Send { to: machine.clone(), command: Box::new(command) };
            self.effects.push_back((Tag::Observe(machine.clone()), effect));
        }
        self.state = State::Observing { waiting: machines.into_iter().collect() };
        self.observed_all(wall);
    }

    pub(super) fn observe_done(
        &mut self,
        _now: Time,
        wall: UnixTime,
        machine: MachineId,
        outcome: Outcome<CommandReply, BusError>,
    ) {
        let State::Observing { waiting } = &mut self.state else { return };
        waiting.remove(&machine);
        if let Outcome::Ok(CommandReply::Observed(seen)) = outcome {
            self.observations.insert(machine, seen);
        } else {
            let in_time = || format!("machine {machine} did not answer in time");
            self.notes.push(why_not(&outcome).unwrap_or_else(in_time));
        }
        self.observed_all(wall);
    }

    fn observed_all(&mut self, wall: UnixTime) {
        let State::Observing { waiting } = &self.state else { return };
        if waiting.is_empty() {
            self.make_plan(wall);
        }
    }

    fn make_plan(&mut self, wall: UnixTime) {
        let request = self.request().expect("only requests are planned").clone();
        let silent = std::mem::take(&mut self.notes);
        let planned = plan(&request, &self.facts, &self.observations, &silent);
        let plan = match planned {
            Planned::Refused(error) => return self.refuse(error),
            Planned::AlreadyDone { commit } => {
                return self.answer(OperationResult::AlreadyDone { commit });
            }
            Planned::Plan(plan) => plan,
        };
        let plan = match &self.submission {
            Submission::ApplyPrepared { plan: prepared, .. } => {
                if let Some(flaw) = prepared.flaw() {
                    let error =
                        ErrorBody::new("PLAN_INVALID", format!("no planner made it: {flaw}"));
                    return self.refuse(error.next("ployzctl deploy prepare"));
                }
                let moved = prepared.baseline.drift(&plan.baseline);
                let other = (prepared.operation != plan.operation)
                    .then(|| "the plan is of another request".to_owned());
                let used = || {
                    let now = self.observations.iter();
                    let now = now.map(|(machine, seen)| (machine.clone(), seen.uses.clone()));
                    self.used_address(prepared, &now.collect())
                };
                if let Some(moved) = moved.or(other).or_else(used) {
                    let error =
                        ErrorBody::new("PLAN_DRIFTED", moved).next("ployzctl deploy prepare");
                    return self.refuse(error);
                }
                (**prepared).clone()
            }
            _ => *plan,
        };
        let digest = plan.digest();
        if matches!(self.submission, Submission::Preview { .. }) {
            let plan = Box::new(plan);
            return self.end(OperationResult::Previewed { plan, digest });
        }
        let event = OperationEvent::Planned { plan: Box::new(plan.clone()), digest };
        self.events.push_back(event);
        for text in &plan.notes {
            self.note(text.clone());
        }
        self.plan = Some(plan.clone());
        self.take_new(&request, plan, wall);
    }

    fn take_new(&mut self, request: &crate::api::OperationRequest, plan: Plan, wall: UnixTime) {
        let before = self.facts.operations.get(&plan.operation);
        let attempt = before.map_or(0, |old| old.value.attempt).saturating_add(1);
        let revision = before.map_or_else(Default::default, |old| old.revision);
        let record = OperationRecord {
            v: crate::store::facts::VERSION,
            id: plan.operation.clone(),
            scope: plan.scope.clone(),
            summary: plan.commit.commit.summary.clone(),
            request_digest: request.digest(),
            request: Some(request.clone()),
            plan: Some(plan),
            phase: Phase::Executing,
            attempt,
            epoch: None,
            coordinator: self.me.clone(),
            nonce: String::new(),
            started: wall,
            updated: wall,
            error: None,
            notes: Vec::new(),
            done: None,
        };
        self.take(Versioned { revision, value: record }, false, wall);
    }

    fn take_adopted(&mut self, found: Versioned<OperationRecord>, wall: UnixTime) {
        let mut record = found.value;
        record.coordinator = self.me.clone();
        record.epoch = None;
        // It came back from an abort that was not its end: its commit followed, and that is never undone.
        if record.phase == Phase::Aborting && self.has_committed(&record) {
            record.phase = Phase::CleanupPending;
            record.error = None;
        }
        self.take(Versioned { revision: found.revision, value: record }, true, wall);
    }

    /// The take lost a race: look again from the start.
    pub(super) fn lost_race(&mut self) {
        self.races += 1;
        if self.races > MAX_RACES {
            let message = format!("others keep changing {} at the same time", self.scope());
            return self.refuse(ErrorBody::new("CONTENDED", message).next("ployzctl lock ls"));
        }
        self.look_again();
    }

    /// What another namespace came first to is left to it, and the record of that try is over: look again from the start.
    pub(super) fn plan_again(&mut self) {
        let text =
            "another namespace was at work at the same time and came first; this is planned anew"
                .to_owned();
        self.events.push_back(OperationEvent::Note { text });
        self.lost_race();
    }

    /// The lease is held and no earlier command can land: is the plan's baseline still the head?
    fn rechecked(&mut self, now: Time, wall: UnixTime, facts: Facts) {
        self.facts = facts;
        let adopted = std::mem::take(&mut self.unchecked);
        if self.has_landed() {
            return self.landed(wall, 0);
        }
        let ends = self.cancelled || matches!(self.submission, Submission::Abort { .. });
        // The lease that the other one took since may have run out unseen, while this machine slept. Of what is adopted the record may have
        // landed late, beside another one's steps: which of the two that is nothing tells, so whichever is resumed first gives way.
        let beside = if adopted && ends { None } else { self.beside_another() };
        match beside.filter(|_| !mutant::on(Mutant::UnfinishedIgnored)) {
            Some(error) if adopted && !mutant::on(Mutant::GivesWayAsItIs) => {
                return self.abort(now, wall, error);
            }
            Some(error) => return self.never_begun(wall, error),
            None => {}
        }
        let spoiled = || {
            let used = self.used_address(self.recorded_plan(), &self.used_by_others);
            used.map(|used| ErrorBody::new("ADDRESS_TAKEN", used)).or_else(|| self.taken_address())
        };
        if !ends && let Some(error) = spoiled() {
            self.again = self.may_plan_again();
            let prepared = matches!(self.submission, Submission::ApplyPrepared { .. });
            let error = if prepared { error.next("ployzctl deploy prepare") } else { error };
            if adopted {
                // Steps may have been taken.
                return self.abort(now, wall, error);
            }
            return self.never_begun(wall, error);
        }
        let planned = self.recorded_plan().baseline.head;
        let head = self.facts.head_number();
        if let Some(error) = self.taken_claim().or_else(|| self.taken_capacity()) {
            self.abort(now, wall, error);
        } else if head == planned || mutant::on(Mutant::HeadNotRechecked) {
            self.run_forward(now, wall);
        } else {
            let message = format!("the head moved from commit {planned} to commit {head}");
            self.abort(now, wall, ErrorBody::new("PLAN_DRIFTED", message));
        }
    }

    /// Ends it before its first step. Nothing is undone, so no machine acts under an epoch above that of an operation which it may not know.
    fn never_begun(&mut self, wall: UnixTime, error: ErrorBody) {
        let record = self.record.as_mut().expect("it was recorded behind the barrier");
        record.value.error.get_or_insert(error);
        self.finish(Phase::Aborted, wall);
    }

    /// Whether a plan of its own is followed, and can be made anew.
    fn may_plan_again(&self) -> bool {
        let plans = matches!(self.submission, Submission::Apply { .. });
        plans && !self.cancelled && self.races < MAX_RACES
    }

    /// Says which address of a new instance has been used by others since this was planned, if any. Whoever
    /// had it may have given it up again, and a gateway that has not heard of that for a while would send their requests here.
    fn used_address(&self, plan: &Plan, now: &BTreeMap<MachineId, Uses>) -> Option<String> {
        let mut drawn = plan.made().filter(|(machine, spec)| {
            let there = self.facts.machines.get(*machine).map(|there| &there.addressing);
            // Ports of the host's own network are not drawn.
            !(spec.address.is_loopback() && matches!(there, Some(Addressing::Subnet(_))))
        });
        let (machine, spec) = drawn.find(|(machine, spec)| {
            let (then, now) = (plan.uses.get(*machine), now.get(*machine));
            let uses = then.zip(now);
            uses.is_some_and(|(then, now)| places(spec).iter().any(|at| now.since(*then, *at)))
        })?;
        let address = spec.address;
        Some(format!(
            "the address {address} on machine {machine} has been used since this was planned"
        ))
    }

    /// An address of a new instance that another namespace has committed, or recorded before this operation was, as an error. Both drew it
    /// while neither saw the other. Whoever was recorded second draws anew, or ends; if neither does, the machine gives it to the first who asks.
    fn taken_address(&self) -> Option<ErrorBody> {
        let Scope::Namespace(namespace) = self.scope();
        let own = self.record.as_ref().expect("it was recorded behind the barrier").revision;
        let before = self.facts.operations.values().filter(|other| {
            other.revision < own
                && other.value.scope != *self.scope()
                && !other.value.phase.is_final()
        });
        let recorded: Vec<_> =
            before.filter_map(|other| other.value.plan.as_ref()).flat_map(Plan::made).collect();
        let committed: Vec<_> = self
            .facts
            .allocations
            .iter()
            .filter(|(other, _)| *other != namespace)
            .flat_map(|(_, there)| &there.value.machines)
            .collect();
        let taken = |machine: &MachineId, spec: &InstanceSpec| {
            let there = recorded.iter().filter(|(at, _)| *at == machine);
            let mut drawn = there.map(|(_, other)| (other.address, other.ports.values()));
            let there = committed.iter().filter(|(at, _)| *at == machine);
            let mut held = there.flat_map(|(_, there)| &there.addresses);
            drawn.any(|(address, ports)| spec.clashes(address, ports))
                || held.any(|(address, ports)| spec.clashes(*address, ports))
        };
        let mut made = self.recorded_plan().made();
        let (machine, spec) = made.find(|(machine, spec)| taken(machine, spec))?;
        let message = format!(
            "the address {} on machine {machine} was drawn by another namespace too",
            spec.address
        );
        Some(ErrorBody::new("ADDRESS_TAKEN", message))
    }

    /// A machine on which another namespace set something aside while this was planned, so that not both have room, as an error. Whoever
    /// is recorded second sees the first; of two that see each other neither goes on.
    fn taken_capacity(&self) -> Option<ErrorBody> {
        let Scope::Namespace(namespace) = self.scope();
        let plan = self.recorded_plan();
        plan.left_to_others.iter().find_map(|(machine, left)| {
            let (cpu, memory) = taken_by_others(&self.facts, namespace, machine);
            let what = if mutant::on(Mutant::CapacityNotRechecked) {
                return None;
            } else if memory > left.memory_bytes {
                "memory"
            } else if cpu > u64::from(left.cpu_millis) {
                "CPU"
            } else {
                return None;
            };
            let message = format!(
                "another namespace has reserved {what} on machine {machine} since this was planned: not both fit"
            );
            Some(ErrorBody::new("CAPACITY_TAKEN", message).next("ployzctl op ls"))
        })
    }

    /// Another operation that is recorded in the scope and not over, as an error.
    fn beside_another(&self) -> Option<ErrorBody> {
        let own = &self.record().id;
        let mut others = self.facts.unfinished(self.scope()).map(|other| &other.value);
        others.find(|other| other.id != *own).map(unfinished)
    }
}

fn unfinished(other: &OperationRecord) -> ErrorBody {
    let message = format!(
        "operation {} ({}) on {} is unfinished: {}",
        other.id, other.summary, other.scope, other.phase
    );
    let next = match other.phase {
        Phase::CleanupPending => format!("ployzctl op resume {}", other.id),
        _ => format!("ployzctl op resume {0}, or ployzctl op abort {0}", other.id),
    };
    ErrorBody::new("OPERATION_UNFINISHED", message).next(next)
}
