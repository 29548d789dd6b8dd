//! What becomes of effects between the node and the world.

use std::time::Duration;

use proto_core::Outcome;
use proto_core::coordination::command::{BusError, CommandBody};
use proto_core::daemon::{Completion, Effect, EffectKind, Input, RoutesRequest};
use proto_core::id::{Epoch, OperationId};
use proto_core::mutant::{self, Mutant};
use proto_core::runtime::{RuntimeError, RuntimeRequest};
use proto_core::store::{Scope, StoreError, StoreReply, StoreRequest};

use super::Cluster;
use super::queue::{Event, Flight, UnderWay};
use super::words::{short, short_flight};
use crate::fate::{Fate, Later, Place};
use crate::invariants::Seen;
use crate::trace::{Kind, Line};
use crate::world::bus::{Open, Origin, place};
use crate::world::runtime::takes;
use crate::world::servers::Answer;

/// What happens on the machine itself takes so long.
pub(super) const HOP: Duration = Duration::from_millis(1);
/// Until the requests to an old backend are done.
pub(super) const DRAINED: Duration = Duration::from_millis(20);

/// What a command may be refused for: a newer epoch than this one, of this operation in this scope.
fn fenced_by(effect: &EffectKind) -> Option<(OperationId, Scope, Epoch)> {
    let EffectKind::Send { command, .. } = effect else { return None };
    match &command.body {
        CommandBody::Barrier { scope, epoch } | CommandBody::Perform { scope, epoch, .. } => {
            Some((command.operation.clone(), scope.clone(), *epoch))
        }
        CommandBody::Observe { .. } => None,
    }
}

impl Cluster<'_> {
    /// A node puts out an effect: what becomes of it?
    pub(crate) fn issue(&mut self, machine: usize, effect: Effect) {
        self.effects += 1;
        self.land_due();
        self.invariants.see(&Seen::Issued { machine, effect: &effect }, &self.world);
        let me = &self.world.machines[machine];
        let own = matches!(&effect.kind, EffectKind::Send { to, .. } if to == me);
        let alone = self.machines.len() == 1;
        let asked = self.cancellable.is_some_and(|(asked, _)| asked == machine);
        let contested = self.fates.may_be_contested() && self.contest().is_some();
        let at = Place { own, alone, asked, contested };
        let fate = self.fates.of(machine, &effect.kind, at, || short(&effect.kind));
        let number = self.effects;
        self.trace.mix(effect.id.0);
        let peer = match &effect.kind {
            EffectKind::Send { to, .. } => place(&self.world.machines, to),
            _ => None,
        };
        let operation = effect.operation.as_ref();
        self.note_between(Some(machine), peer, Kind::Effect, operation, || {
            format!("#{number} {}", short(&effect.kind))
        });
        if fate != Fate::Normal {
            self.trace.remark(|| Line {
                at: self.world.now.as_nanos() / 1000,
                node: Some(machine),
                peer: None,
                arrives: None,
                kind: Kind::Fault,
                operation: operation.cloned(),
                text: format!("#{number} {} is STRUCK: {fate:?}", short(&effect.kind)),
            });
        }
        let origin = Origin { machine, boot: self.machines[machine].boot, effect: effect.id };
        if !matches!(effect.kind, EffectKind::Reply { .. }) {
            self.machines[machine].pending.insert(effect.id, fenced_by(&effect.kind));
        }
        match fate {
            Fate::Normal => self.carry_out(machine, effect, Some(origin)),
            Fate::Cancel => {
                self.schedule(Duration::ZERO, Event::Cancel);
                self.carry_out(machine, effect, Some(origin));
            }
            Fate::Rival(rival) => {
                self.schedule(Duration::ZERO, Event::Rival(rival));
                self.carry_out(machine, effect, Some(origin));
            }
            Fate::CrashBefore => self.crash(machine),
            Fate::CrashAfter => {
                self.carry_out(machine, effect, Some(origin));
                self.crash(machine);
            }
            Fate::CrashLate(later) => {
                self.set_out_late(machine, effect, later, false);
                self.crash(machine);
            }
            Fate::Pause => {
                self.carry_out(machine, effect, Some(origin));
                self.pause(machine, self.to_round(super::PAUSE));
            }
            Fate::LostAnswer => {
                if let Some(completion) = unknown(&effect.kind) {
                    self.silence(Some(origin), completion);
                }
                self.carry_out(machine, effect, None);
            }
            Fate::LostRequest => {
                if let Some(completion) = unknown(&effect.kind) {
                    self.silence(Some(origin), completion);
                }
            }
            Fate::Late(later) | Fate::Undecided(later) => {
                if let Some(completion) = unknown(&effect.kind) {
                    self.silence(Some(origin), completion);
                }
                let undecided = matches!(fate, Fate::Undecided(_));
                self.set_out_late(machine, effect, later, undecided);
            }
            Fate::Twice(later) => {
                self.set_out_late(machine, effect.clone(), later, false);
                self.carry_out(machine, effect, Some(origin));
            }
            Fate::Fails => self.fail(origin, &effect),
        }
    }

    fn fail(&mut self, origin: Origin, effect: &Effect) {
        let detail = "the model says no".to_owned();
        let completion = match &effect.kind {
            EffectKind::Store(_) => {
                Completion::Store(Outcome::Failed(StoreError::Unavailable(detail)))
            }
            EffectKind::Send { to, .. } => {
                let machine = to.clone();
                Completion::Send(Outcome::Failed(BusError::NoResponders { machine }))
            }
            EffectKind::Runtime(_) => {
                Completion::Runtime(Outcome::Failed(RuntimeError::Other { detail }))
            }
            EffectKind::Persist(_) => Completion::Persist(Err(detail)),
            EffectKind::Routes(_) => Completion::Routes(Err(detail)),
            EffectKind::Reply { .. } => return,
        };
        self.answer(Some(origin), HOP, completion);
    }

    /// The effect on its way, and how long it takes where nothing goes wrong. `None` for what needs no way.
    fn set_out(&self, machine: usize, effect: Effect) -> Option<(Duration, Flight)> {
        match effect.kind {
            EffectKind::Store(request) => {
                let operation = effect.operation;
                Some((HOP, Flight::Store { from: machine, request, operation, undecided: false }))
            }
            EffectKind::Send { to, command } => {
                let to = place(&self.world.machines, &to)?;
                Some((HOP, Flight::Command { from: machine, to, command }))
            }
            EffectKind::Runtime(request) => {
                let by = request.mutates().and_then(|instance| {
                    let commands = self.bus.changing(machine, instance);
                    let own = commands.filter(|(of, _)| Some(*of) == effect.operation.as_ref());
                    own.map(|(_, by)| by).max()
                });
                let slower = self.machines[machine].ails.slow.max(1);
                let boot = self.machines[machine].boot;
                Some((takes(&request) * slower, Flight::Runtime { machine, boot, request, by }))
            }
            EffectKind::Routes(request) => {
                let (RoutesRequest::Applied { within, .. } | RoutesRequest::Drained { within, .. }) =
                    &request;
                let until = self.world.now + within.duration();
                Some((HOP, Flight::Routes { machine, request, until }))
            }
            EffectKind::Persist(_) | EffectKind::Reply { .. } => None,
        }
    }

    fn set_out_late(&mut self, machine: usize, effect: Effect, lands: Later, undecided: bool) {
        let Some((_, mut flight)) = self.set_out(machine, effect) else { return };
        if undecided
            && let Flight::Store { request: StoreRequest::Commit { writes }, undecided, .. } =
                &mut flight
        {
            self.world.kv.hold(writes);
            *undecided = true;
        }
        self.set_under_way_until(flight, lands);
    }

    fn land_due(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let effects = self.effects;
        let due = |there: &UnderWay| matches!(there.lands, Some(Later::Effects(n)) if n <= effects);
        while let Some(number) =
            self.under_way.iter().find(|(_, there)| due(there)).map(|(number, _)| *number)
        {
            let Some(there) = self.under_way.remove(&number) else { break };
            self.note(None, Kind::Message, None, || {
                format!("lands late: {}", short_flight(&there.flight))
            });
            self.set_under_way(there.flight, None, Duration::ZERO);
        }
    }

    fn carry_out(&mut self, machine: usize, effect: Effect, origin: Option<Origin>) {
        match effect.kind {
            EffectKind::Persist(_) if self.machines[machine].ails.disk_full => {
                self.hits.push(("disk_full", machine));
                let full = Err("no space left on device".to_owned());
                self.answer(origin, HOP, Completion::Persist(full));
            }
            EffectKind::Persist(file) => {
                self.invariants.see(&Seen::Persisted { machine, file: &file }, &self.world);
                if !mutant::on(Mutant::FenceFileLost) {
                    self.world.fences[machine] = file;
                }
                self.answer(origin, HOP, Completion::Persist(Ok(())));
            }
            EffectKind::Reply { token, reply } => {
                let seen = Seen::Replied { machine, token, reply: &reply };
                self.invariants.see(&seen, &self.world);
                let open = self.bus.answer(token);
                if origin.is_some()
                    && let Some(open) = open
                {
                    let completion = Completion::Send(Outcome::Ok(*reply));
                    self.answer_over(machine, open.origin, completion);
                }
            }
            _ => {
                if let Some((after, flight)) = self.set_out(machine, effect) {
                    if self.machines[machine].ails.slow > 1
                        && matches!(flight, Flight::Runtime { .. })
                    {
                        self.hits.push(("slow_runtime", machine));
                    }
                    self.send_off(flight, origin, after);
                }
            }
        }
    }

    /// What goes over a link may be lost there, or come twice.
    fn send_off(&mut self, flight: Flight, origin: Option<Origin>, after: Duration) {
        match flight {
            Flight::Command { from, to, ref command } => {
                // If there is no answer by then, nobody knows.
                let deadline = command.deadline.duration();
                self.answer(origin, deadline, Completion::Send(Outcome::Unknown));
                let arrivals = self.world.network.carry(from, to);
                self.trace.sent(Some(to), arrivals.first());
                if let Some(second) = arrivals.second() {
                    self.set_under_way(flight.clone(), None, second);
                }
                if let Some(after) = arrivals.first() {
                    self.set_under_way(flight, origin, after);
                }
            }
            Flight::Store { from, .. } => {
                let Some(at) = self.world.servers.answers(&self.world.network, from) else {
                    let error = StoreError::Unavailable("no responders".to_owned());
                    return self.answer(origin, HOP, Completion::Store(Outcome::Failed(error)));
                };
                let arrives = self.world.network.carry(from, at).first();
                self.trace.sent(None, arrives);
                match arrives {
                    Some(after) => self.set_under_way(flight, origin, after),
                    None => self.silence(origin, Completion::Store(Outcome::Unknown)),
                }
            }
            Flight::Runtime { .. } | Flight::Routes { .. } => {
                self.set_under_way(flight, origin, after);
            }
        }
    }

    /// An effect reaches its part of the world.
    pub(super) fn reach(&mut self, flight: Flight, origin: Option<Origin>) {
        match flight {
            Flight::Store { from, request, operation, undecided } => {
                if undecided && let StoreRequest::Commit { writes } = &request {
                    self.world.kv.release(writes);
                }
                self.ask_store(from, request, operation.as_ref(), origin);
            }
            Flight::Command { from, to, command } => self.deliver(from, to, command, origin),
            Flight::Runtime { machine, request, by, .. } => {
                self.ask_runtime(machine, &request, by.as_ref(), origin);
            }
            Flight::Routes { machine, request, until } => {
                self.routes(machine, request, until, origin);
            }
        }
    }

    fn ask_store(
        &mut self,
        from: usize,
        request: StoreRequest,
        operation: Option<&proto_core::id::OperationId>,
        origin: Option<Origin>,
    ) {
        let world = &mut self.world;
        let Some(at) = world.servers.answers(&world.network, from) else {
            let error = StoreError::Unavailable("no responders".to_owned());
            return self.answer(origin, HOP, Completion::Store(Outcome::Failed(error)));
        };
        if matches!(request, StoreRequest::Read { .. }) && world.servers.is_deposed(at) {
            let asked = &mut self.machines[from].asked;
            asked.values_mut().for_each(|asking| asking.head = None);
        }
        let answer = world.servers.apply(&mut world.kv, world.now, at, &request);
        let result = match answer {
            Answer::Reply(result) => result,
            Answer::Silence => {
                return self.silence(origin, Completion::Store(Outcome::Unknown));
            }
            Answer::Torn { part, kills } => {
                self.note(None, Kind::Fault, None, || "a batch is TORN".to_owned());
                self.hits.push(("torn_batch", at));
                let last = self.world.kv.last();
                self.stored(&part, last, operation);
                self.silence(origin, Completion::Store(Outcome::Unknown));
                if kills {
                    self.crash(from);
                }
                return self.depose();
            }
        };
        if let (StoreRequest::Commit { writes }, Ok(StoreReply::Committed(last))) =
            (&request, &result)
        {
            self.note_between(None, Some(from), Kind::Stored, operation, || {
                format!("takes {}", short(&EffectKind::Store(request.clone())))
            });
            self.stored(writes, *last, operation);
        }
        let outcome = result.map_or_else(Outcome::Failed, Outcome::Ok);
        self.answer_over(at, origin, Completion::Store(outcome));
    }

    fn ask_runtime(
        &mut self,
        machine: usize,
        request: &RuntimeRequest,
        by: Option<&(proto_core::store::Scope, proto_core::id::Epoch)>,
        origin: Option<Origin>,
    ) {
        let changes = request.mutates().is_some();
        let settles = matches!(request, RuntimeRequest::Settle { .. });
        if (changes || settles) && self.machines[machine].ails.failing {
            self.hits.push(("failing_runtime", machine));
            let error = RuntimeError::Other { detail: "the model says no".to_owned() };
            return self.answer(origin, HOP, Completion::Runtime(Outcome::Failed(error)));
        }
        if let RuntimeRequest::Settle { instance } = request
            && !mutant::on(Mutant::SettlesTooSoon)
        {
            self.settle(machine, &instance.clone());
        }
        let (now, wall) = (self.world.now, self.world.wall(machine));
        let result = self.world.runtimes[machine].apply(now, wall, request);
        if changes && result.is_ok() {
            self.note(Some(machine), Kind::Changed, None, || {
                format!("done: {}", short(&EffectKind::Runtime(request.clone())))
            });
            let seen = Seen::Landed { machine, request, by };
            self.invariants.see(&seen, &self.world);
        }
        let outcome = result.map_or_else(Outcome::Failed, Outcome::Ok);
        self.answer(origin, HOP, Completion::Runtime(outcome));
    }

    fn deliver(
        &mut self,
        from: usize,
        to: usize,
        command: Box<proto_core::coordination::Command>,
        origin: Option<Origin>,
    ) {
        if self.machines[to].node.is_none() {
            if origin.is_none() {
                // It was delayed on the way; it comes once somebody listens.
                let flight = Flight::Command { from, to, command };
                return self.set_under_way(flight, None, Duration::from_millis(300));
            }
            let machine = self.world.machines[to].clone();
            let error = BusError::NoResponders { machine };
            return self.answer_over(to, origin, Completion::Send(Outcome::Failed(error)));
        }
        let open = Open { origin, at: to, boot: self.machines[to].boot, command: *command.clone() };
        let token = self.bus.deliver(open);
        let seen = Seen::Delivered { machine: to, token, command: &command };
        self.invariants.see(&seen, &self.world);
        self.input(to, Input::Command { token, command });
    }

    /// What an earlier daemon issued on this instance lands now, or never will.
    fn settle(&mut self, machine: usize, settled: &proto_core::id::InstanceName) {
        let now = self.machines[machine].boot;
        let on = |there: &UnderWay| match &there.flight {
            Flight::Runtime { machine: at, request, boot, .. } => {
                let earlier = there.lands.is_some() || there.origin.is_none() || *boot < now;
                *at == machine && earlier && request.mutates() == Some(settled)
            }
            _ => false,
        };
        while let Some(number) =
            self.under_way.iter().find(|(_, there)| on(there)).map(|(number, _)| *number)
        {
            let Some(there) = self.under_way.remove(&number) else { break };
            let label = || format!("settling {settled}: it lands, or never will");
            if self.fates.either(2, label) == 0 {
                self.note(Some(machine), Kind::Message, None, || {
                    format!("settled: {}", short_flight(&there.flight))
                });
                self.reach(there.flight, None);
            }
        }
    }
}

/// The completion that says that nobody knows.
fn unknown(effect: &EffectKind) -> Option<Completion> {
    match effect {
        EffectKind::Store(_) => Some(Completion::Store(Outcome::Unknown)),
        EffectKind::Send { .. } => Some(Completion::Send(Outcome::Unknown)),
        EffectKind::Runtime(_) => Some(Completion::Runtime(Outcome::Unknown)),
        EffectKind::Persist(_) | EffectKind::Routes(_) | EffectKind::Reply { .. } => None,
    }
}
