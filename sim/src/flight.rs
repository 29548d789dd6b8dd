//! What becomes of effects between the node and the world.

use std::time::Duration;

use proto_core::Outcome;
use proto_core::coordination::command::{BusError, CommandBody};
use proto_core::daemon::{Completion, Effect, EffectKind, Input, RoutesRequest};
use proto_core::runtime::{RuntimeError, RuntimeRequest};
use proto_core::store::{StoreError, StoreReply, StoreRequest};

use crate::cluster::{Cluster, Event, Flight, Straggler, unknown};
use crate::fate::{Fate, Later};
use crate::invariants::Seen;
use crate::world::bus::{Open, Origin, place};
use crate::world::routes::Change;

const HOP: Duration = Duration::from_millis(1);
/// Until a gateway has applied what the store has taken.
const FOLLOW: Duration = Duration::from_millis(5);
/// Until the requests to an old backend are done.
const DRAINED: Duration = Duration::from_millis(20);

impl Cluster<'_> {
    /// A node puts out an effect: what becomes of it?
    pub(crate) fn issue(&mut self, machine: usize, effect: Effect) {
        self.effects += 1;
        self.land_due();
        self.invariants.see(&Seen::Issued { machine, effect: &effect }, &self.world);
        let me = self.world.machines[machine].clone();
        let own = matches!(&effect.kind, EffectKind::Send { to, .. } if *to == me);
        let fates = self.budget.fates(&effect.kind, own, self.machines.len() == 1);
        let fate = if fates.len() == 1 {
            Fate::Normal
        } else {
            let label = || short(&effect.kind);
            fates[self.choices.seldom(fates.len(), 60, label)]
        };
        let number = self.effects;
        self.trace(|| format!("#{number} machine {machine} {} {fate:?}", short(&effect.kind)));
        self.budget.spend(fate);
        let origin = Origin { machine, boot: self.machines[machine].boot, effect: effect.id };
        if !matches!(effect.kind, EffectKind::Reply { .. }) {
            self.machines[machine].pending.insert(effect.id);
        }
        match fate {
            Fate::Normal => self.carry_out(machine, effect, Some(origin)),
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
                self.pause(machine);
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

    /// The effect on its way, and how long it takes to get there.
    fn set_out(&mut self, machine: usize, effect: Effect) -> Option<(Duration, Flight)> {
        match effect.kind {
            EffectKind::Store(request) => {
                let operation = effect.operation;
                Some((HOP, Flight::Store { request, operation, undecided: false }))
            }
            EffectKind::Send { to, command } => {
                let to = place(&self.world.machines, &to)?;
                Some((HOP, Flight::Command { to, command }))
            }
            EffectKind::Runtime(request) => {
                let by = request.mutates().and_then(|instance| {
                    let open = self.bus.at(machine).filter_map(|open| match &open.command.body {
                        CommandBody::Perform { scope, epoch, action, .. }
                            if effect.operation.as_ref() == Some(&open.command.operation)
                                && action.changes() == Some(instance) =>
                        {
                            Some((scope.clone(), *epoch))
                        }
                        _ => None,
                    });
                    open.max()
                });
                Some((takes(&request), Flight::Runtime { machine, request, by }))
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
        let lands = match lands {
            Later::Effects(n) => Later::Effects(self.effects + n),
            Later::AtRest => Later::AtRest,
        };
        self.stragglers.push(Straggler { lands, flight });
    }

    fn land_due(&mut self) {
        let effects = self.effects;
        let due =
            |straggler: &Straggler| matches!(straggler.lands, Later::Effects(n) if n <= effects);
        while let Some(at) = self.stragglers.iter().position(due) {
            let straggler = self.stragglers.remove(at);
            self.trace(|| format!("lands late: {}", short_flight(&straggler.flight)));
            let event = Event::Reach { flight: straggler.flight, origin: None };
            self.schedule(Duration::ZERO, event);
        }
    }

    fn carry_out(&mut self, machine: usize, effect: Effect, origin: Option<Origin>) {
        match effect.kind {
            EffectKind::Persist(file) => {
                self.machines[machine].fence = file;
                let file = &self.machines[machine].fence;
                self.invariants.see(&Seen::Persisted { machine, file }, &self.world);
                self.answer(origin, HOP, Completion::Persist(Ok(())));
            }
            EffectKind::Reply { token, reply } => {
                let seen = Seen::Replied { machine, token, reply: &reply };
                self.invariants.see(&seen, &self.world);
                let open = self.bus.answer(token);
                if origin.is_some()
                    && let Some(open) = open
                {
                    self.answer(open.origin, HOP, Completion::Send(Outcome::Ok(*reply)));
                }
            }
            _ => {
                if let Some((after, flight)) = self.set_out(machine, effect) {
                    self.schedule(after, Event::Reach { flight, origin });
                }
            }
        }
    }

    /// An effect reaches its part of the world.
    pub(crate) fn reach(&mut self, flight: Flight, origin: Option<Origin>) {
        match flight {
            Flight::Store { request, operation, undecided } => {
                if undecided && let StoreRequest::Commit { writes } = &request {
                    self.world.kv.release(writes);
                }
                let result = self.world.kv.apply(self.world.now, &request);
                if let (StoreRequest::Commit { writes }, Ok(StoreReply::Committed(_))) =
                    (&request, &result)
                {
                    let seen = Seen::Stored { writes, operation: operation.as_ref() };
                    self.invariants.see(&seen, &self.world);
                    self.publish(writes);
                }
                let outcome = result.map_or_else(Outcome::Failed, Outcome::Ok);
                self.answer(origin, HOP, Completion::Store(outcome));
            }
            Flight::Command { to, command } => self.deliver(to, command, origin),
            Flight::Runtime { machine, request, by } => {
                if let RuntimeRequest::Settle { instance } = &request {
                    self.settle(machine, &instance.clone());
                }
                let (now, wall) = (self.world.now, self.world.wall());
                let result = self.world.runtimes[machine].apply(now, wall, &request);
                if request.mutates().is_some() && result.is_ok() {
                    let seen = Seen::Landed { machine, request: &request, by: by.as_ref() };
                    self.invariants.see(&seen, &self.world);
                }
                let outcome = result.map_or_else(Outcome::Failed, Outcome::Ok);
                self.answer(origin, HOP, Completion::Runtime(outcome));
            }
            Flight::Routes { machine, request, until } => {
                self.routes(machine, request, until, origin)
            }
        }
    }

    /// Gateways hear of every head that moved.
    fn publish(&mut self, writes: &[proto_core::store::Write]) {
        for namespace in crate::invariants::heads_written(writes) {
            let Some(change) = Change::of_head(&self.world.kv, &namespace) else { continue };
            for machine in 0..self.machines.len() {
                let change = change.clone();
                self.schedule(FOLLOW, Event::Gateway { machine, change });
            }
        }
    }

    fn deliver(
        &mut self,
        to: usize,
        command: Box<proto_core::coordination::Command>,
        origin: Option<Origin>,
    ) {
        if self.machines[to].node.is_none() {
            if origin.is_none() {
                // It was delayed on the way; it comes once somebody listens.
                let event = Event::Reach { flight: Flight::Command { to, command }, origin };
                return self.schedule(Duration::from_millis(300), event);
            }
            let machine = self.world.machines[to].clone();
            let error = BusError::NoResponders { machine };
            return self.answer(origin, HOP, Completion::Send(Outcome::Failed(error)));
        }
        let open = Open { origin, at: to, boot: self.machines[to].boot, command: *command.clone() };
        let deadline = command.deadline.duration();
        let token = self.bus.deliver(open);
        let seen = Seen::Delivered { machine: to, token, command: &command };
        self.invariants.see(&seen, &self.world);
        // If there is no answer by then, nobody knows.
        self.answer(origin, deadline, Completion::Send(Outcome::Unknown));
        self.input(to, Input::Command { token, command });
    }

    /// What an earlier daemon issued on this instance lands now, or never will.
    fn settle(&mut self, machine: usize, settled: &proto_core::id::InstanceName) {
        let on = |straggler: &Straggler| match &straggler.flight {
            Flight::Runtime { machine: at, request, .. } => {
                *at == machine && request.mutates() == Some(settled)
            }
            _ => false,
        };
        while let Some(at) = self.stragglers.iter().position(on) {
            let straggler = self.stragglers.remove(at);
            let label = || format!("settling {settled}: it lands, or never will");
            if self.choices.choose(2, label) == 0 {
                self.trace(|| format!("settled: {}", short_flight(&straggler.flight)));
                self.reach(straggler.flight, None);
            }
        }
    }

    fn routes(
        &mut self,
        machine: usize,
        request: RoutesRequest,
        until: proto_core::time::Time,
        origin: Option<Origin>,
    ) {
        match &request {
            RoutesRequest::Applied { at_least, .. } => {
                if self.world.gateways[machine].applied >= *at_least {
                    self.answer(origin, HOP, Completion::Routes(Ok(None)));
                } else if self.world.now >= until {
                    let late = "the gateway is behind".to_owned();
                    self.answer(origin, HOP, Completion::Routes(Ok(Some(late))));
                } else {
                    let flight = Flight::Routes { machine, request, until };
                    self.schedule(FOLLOW, Event::Reach { flight, origin });
                }
            }
            RoutesRequest::Drained { within, .. } => {
                let after = DRAINED.min(within.duration());
                self.answer(origin, after, Completion::Routes(Ok(None)));
            }
        }
    }
}

fn takes(request: &RuntimeRequest) -> Duration {
    Duration::from_millis(match request {
        RuntimeRequest::Create { .. } => 300,
        RuntimeRequest::Start { .. } => 200,
        RuntimeRequest::Stop { .. } => 100,
        RuntimeRequest::Remove { .. } => 50,
        _ => 2,
    })
}

fn short_flight(flight: &Flight) -> String {
    match flight {
        Flight::Store { request, .. } => short(&EffectKind::Store(request.clone())),
        Flight::Command { command, .. } => format!("command {}", short_command(&command.body)),
        Flight::Runtime { request, .. } => short(&EffectKind::Runtime(request.clone())),
        Flight::Routes { request, .. } => format!("{request:?}"),
    }
}

/// An effect in a few words.
pub(crate) fn short(effect: &EffectKind) -> String {
    match effect {
        EffectKind::Store(StoreRequest::Read { prefixes }) => {
            format!("reads {} prefixes", prefixes.len())
        }
        EffectKind::Store(StoreRequest::Commit { writes }) => {
            let keys: Vec<_> = writes
                .iter()
                .map(|write| {
                    let phase = write.value.get("phase").and_then(|phase| phase.as_str());
                    phase.map_or_else(|| write.key.to_string(), |p| format!("{}={p}", write.key))
                })
                .collect();
            format!("writes {}", keys.join(" "))
        }
        EffectKind::Send { to, command } => format!("sends {to} {}", short_command(&command.body)),
        EffectKind::Runtime(RuntimeRequest::Create { spec }) => format!("creates {}", spec.name),
        EffectKind::Runtime(RuntimeRequest::List { .. }) => "lists".to_owned(),
        EffectKind::Runtime(RuntimeRequest::Facts { .. }) => "asks for facts".to_owned(),
        EffectKind::Runtime(RuntimeRequest::Probe { instance, .. }) => format!("probes {instance}"),
        EffectKind::Runtime(request) => format!("{request:?}"),
        EffectKind::Persist(file) => {
            let floors: Vec<_> = file.floors.iter().map(|(_, epoch)| epoch.to_string()).collect();
            let journal: Vec<_> = file.journal.iter().map(|entry| entry.step.to_string()).collect();
            format!("persists floors {} journal {}", floors.join(" "), journal.join(" "))
        }
        EffectKind::Routes(request) => format!("{request:?}"),
        EffectKind::Reply { reply, .. } => format!("replies {reply:?}").chars().take(120).collect(),
    }
}

fn short_command(body: &CommandBody) -> String {
    match body {
        CommandBody::Observe { .. } => "observe".to_owned(),
        CommandBody::Barrier { epoch, .. } => format!("barrier {epoch}"),
        CommandBody::Perform { epoch, step, action, .. } => format!("{step} at {epoch}: {action}"),
    }
}
