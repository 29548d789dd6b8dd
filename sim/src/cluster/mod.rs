//! Whole nodes against the world on one clock: discrete events, ordered by time and then by number.
//!
//! | module | holds |
//! |---|---|
//! | here | the queue, the nodes, their clocks |
//! | `flight` | what becomes of an effect between the node and its part of the world |
//! | `follow` | the store's servers, and the followers that feed the gateways |
//! | `host` | what strikes a whole machine: crash, pause, sleep, reboot |
//! | `state` | everything that the future depends on, for telling two clusters apart |
//! | `words` | what daemons are asked and say, for people |

mod flight;
mod follow;
mod host;
mod state;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use proto_core::Outcome;
use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::coordination::FenceFile;
use proto_core::coordination::command::CommandReply;
use proto_core::daemon::{
    Completion, EffectId, EffectKind, Input, Node, NodeConfig, NodeEvent, OperationHandle,
    RoutesRequest,
};
use proto_core::id::{Epoch, Namespace, OperationId};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::{FollowEvent, Scope, StoreRequest};
use proto_core::time::Time;

pub(crate) use host::ROUND;
pub use host::{BACK, GONE, PAUSE, RESTART_AFTER};
use words::{said, told};

use crate::fate::{Fates, Later};
use crate::invariants::{Invariants, Seen};
use crate::trace::{Kind, Line, Trace};
use crate::world::World;
use crate::world::bus::{Bus, Origin};

/// One machine's daemon.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) node: Option<Node>,
    pub(crate) boot: u32,
    /// The fence file on its disk.
    pub(crate) fence: FenceFile,
    /// The effects that it has heard nothing of yet; of commands for an epoch whose, and which.
    pub(crate) pending: BTreeMap<EffectId, Option<(OperationId, Scope, Epoch)>>,
    timer: Option<Time>,
    /// It stands still until then; nothing reaches it.
    paused_until: Option<Time>,
    held: Vec<Input>,
    /// The whole machine is off.
    pub(crate) off: bool,
    /// How it is slow or failing.
    pub(crate) ails: host::Ails,
}

/// An effect that is on its way to its part of the world.
#[derive(Debug, Clone)]
pub(crate) enum Flight {
    Store { from: usize, request: StoreRequest, operation: Option<OperationId>, undecided: bool },
    Command { from: usize, to: usize, command: Box<proto_core::coordination::Command> },
    Runtime { machine: usize, boot: u32, request: RuntimeRequest, by: Option<(Scope, Epoch)> },
    Routes { machine: usize, request: RoutesRequest, until: Time },
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// What is under way under this number lands.
    Land(u64),
    Answer {
        origin: Origin,
        completion: Completion,
    },
    /// A gateway hears something of this load, if it still listens to that.
    Hear {
        machine: usize,
        load: u32,
        said: Rc<Vec<FollowEvent>>,
    },
    /// A gateway looks whether its follower is still silent, or begins a load.
    Follower {
        machine: usize,
        load: u32,
    },
    /// Those who wait for this gateway are told that it is late.
    RoutesDue {
        machine: usize,
    },
    Servers,
    Timer {
        machine: usize,
        boot: u32,
        at: Time,
    },
    Restart {
        machine: usize,
    },
    Wake {
        machine: usize,
    },
    PowerOn {
        machine: usize,
    },
    /// The operator cancels what can be cancelled.
    Cancel,
    /// Whoever drives the cluster asked for this.
    Driver(u64),
}

#[derive(Debug, Clone)]
struct Scheduled {
    at: Time,
    seq: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// Something on its way.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    /// `None`: it is in the queue.
    pub(crate) lands: Option<Later>,
    pub(crate) flight: Flight,
    pub(crate) origin: Option<Origin>,
}

/// A head names a new commit.
#[derive(Debug, Clone)]
pub struct HeadMoved {
    /// Whose head.
    pub namespace: Namespace,
    /// The number of the commit.
    pub number: u64,
    /// What it was made for.
    pub request: OperationRequest,
}

/// What [`Cluster::step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// An event happened.
    Happened,
    /// What [`Cluster::call`] asked for is due.
    Driver(u64),
    /// Nothing happens until then.
    Nothing,
}

/// Whole nodes and the world.
#[derive(Debug, Clone)]
pub struct Cluster<'a> {
    /// Everything that is no node.
    pub world: World,
    /// What is checked.
    pub invariants: Invariants,
    /// Decides what becomes of effects.
    pub fates: Fates<'a>,
    /// How many effects were issued.
    pub effects: u64,
    /// How many events happened.
    pub events: u64,
    /// What the audiences were told at last.
    pub results: BTreeMap<OperationHandle, OperationResult>,
    /// Results in the order in which they came, for whoever takes them away.
    pub told: Vec<OperationHandle>,
    /// Every commit that a head came to name, in their order.
    pub heads_moved: Vec<HeadMoved>,
    /// What happened.
    pub trace: Trace,
    /// How many crashes and pauses there were.
    pub crashes: u32,
    /// Where something was asked for last, until its result is told: its operator may cancel.
    cancellable: Option<(usize, OperationHandle)>,
    /// A daemon started, or one that stood still goes on, since somebody last asked.
    pub(crate) began_anew: bool,
    pub(crate) machines: Vec<Machine>,
    pub(crate) bus: Bus,
    pub(crate) under_way: BTreeMap<u64, UnderWay>,
    waiting_for_routes: Vec<follow::WaitsForRoutes>,
    servers_wake: Option<Time>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    handles: u64,
}

impl<'a> Cluster<'a> {
    /// Starts a daemon on every machine of the world.
    pub fn new(world: World, fates: Fates<'a>, invariants: Invariants) -> Self {
        let machines = world.machines.iter().map(|_| Machine {
            node: None,
            boot: 0,
            fence: FenceFile::default(),
            pending: BTreeMap::new(),
            timer: None,
            paused_until: None,
            held: Vec::new(),
            off: false,
            ails: host::Ails::default(),
        });
        let mut this = Self {
            machines: machines.collect(),
            world,
            invariants,
            fates,
            effects: 0,
            events: 0,
            results: BTreeMap::new(),
            told: Vec::new(),
            heads_moved: Vec::new(),
            trace: Trace::new(false),
            crashes: 0,
            cancellable: None,
            began_anew: false,
            bus: Bus::default(),
            under_way: BTreeMap::new(),
            waiting_for_routes: Vec::new(),
            servers_wake: None,
            heap: BinaryHeap::new(),
            seq: 0,
            handles: 0,
        };
        for machine in 0..this.machines.len() {
            this.load_gateway(machine);
            this.start(machine);
        }
        this
    }

    /// Asks the daemon of a machine for something; `None` if it does not run or stands still.
    pub fn submit(&mut self, machine: usize, submission: Submission) -> Option<OperationHandle> {
        self.handles += 1;
        let handle = OperationHandle(self.handles);
        if let Submission::Apply { request } | Submission::ApplyPrepared { request, .. } =
            &submission
        {
            let digest = request.digest();
            self.invariants.see(&Seen::Asked { digest }, &self.world);
        }
        if !self.is_up(machine) {
            return None;
        }
        let operation = match &submission {
            Submission::Resume { operation } | Submission::Abort { operation } => Some(operation),
            _ => None,
        };
        self.note(Some(machine), Kind::Asked, operation.cloned().as_ref(), || said(&submission));
        self.trace.asked(self.world.now, machine, handle, || said(&submission));
        self.cancellable = Some((machine, handle));
        self.input(machine, Input::Submit { handle, submission });
        Some(handle)
    }

    /// The audience of an operation asks it to stop.
    pub fn cancel(&mut self, machine: usize, handle: OperationHandle) {
        self.note(Some(machine), Kind::Asked, None, || "to cancel".to_owned());
        self.input(machine, Input::Cancel { handle });
    }

    /// Which run of the machine's daemon it is.
    #[must_use]
    pub fn boot(&self, machine: usize) -> u32 {
        self.machines[machine].boot
    }

    /// Whether the machine's daemon runs and does not stand still.
    #[must_use]
    pub fn is_up(&self, machine: usize) -> bool {
        let machine = &self.machines[machine];
        machine.node.is_some() && machine.paused_until.is_none()
    }

    /// How many operations run in the machine's daemon.
    #[must_use]
    pub fn running(&self, machine: usize) -> usize {
        self.machines[machine].node.as_ref().map_or(0, |node| node.running().count())
    }

    /// One event, if there is one by `end`.
    pub fn step(&mut self, end: Time) -> Stepped {
        let due = self.heap.peek().is_some_and(|Reverse(next)| next.at <= end);
        let Some(Reverse(next)) = (if due { self.heap.pop() } else { None }) else {
            self.world.now = self.world.now.max(end);
            self.world.kv.expire(end);
            return Stepped::Nothing;
        };
        self.events += 1;
        self.world.now = self.world.now.max(next.at);
        self.trace.mix(self.world.now.as_nanos());
        if let Event::Driver(what) = next.event {
            return Stepped::Driver(what);
        }
        self.happen(next.event);
        self.invariants.look(&self.world);
        Stepped::Happened
    }

    /// Has [`Cluster::step`] say so when this time has passed.
    pub fn call(&mut self, after: Duration, what: u64) {
        self.schedule(after, Event::Driver(what));
    }

    /// Runs until `until` says so or this much time has passed; whether it said so. Gives up after so many events in the whole
    /// life of the cluster, which is a violation of L7.
    pub fn run(
        &mut self,
        within: Duration,
        most_events: u64,
        until: impl Fn(&Self) -> bool,
    ) -> bool {
        let end = self.world.now + within;
        loop {
            if let Some(said) = self.run_one(end, most_events, &until) {
                return said;
            }
        }
    }

    /// One event of [`Cluster::run`]; `None` if that goes on.
    pub(crate) fn run_one(
        &mut self,
        end: Time,
        most_events: u64,
        until: impl Fn(&Self) -> bool,
    ) -> Option<bool> {
        if until(self) {
            return Some(true);
        }
        if self.events > most_events {
            let now = self.world.now;
            let what = format!("{} events", self.events);
            self.invariants.violate("L7 effects are bounded", what, now);
            return Some(false);
        }
        (self.step(end) == Stepped::Nothing).then(|| until(self))
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.seq += 1;
        let at = self.world.now + after;
        self.heap.push(Reverse(Scheduled { at, seq: self.seq, event }));
    }

    /// Something that is worth a line.
    pub fn note(
        &mut self,
        node: Option<usize>,
        kind: Kind,
        operation: Option<&OperationId>,
        text: impl FnOnce() -> String,
    ) {
        self.note_between(node, None, kind, operation, text);
    }

    /// The same, of a message between two machines.
    pub fn note_between(
        &mut self,
        node: Option<usize>,
        peer: Option<usize>,
        kind: Kind,
        operation: Option<&OperationId>,
        text: impl FnOnce() -> String,
    ) {
        let now = self.world.now;
        self.trace.add(now, node, kind, || Line {
            at: now.as_nanos() / 1000,
            node,
            peer,
            arrives: None,
            kind,
            operation: operation.cloned(),
            text: text(),
        });
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Land(number) => {
                if let Some(there) = self.under_way.remove(&number) {
                    self.reach(there.flight, there.origin);
                }
            }
            Event::Answer { origin, completion } => {
                let machine = &self.machines[origin.machine];
                if machine.boot == origin.boot && machine.pending.contains_key(&origin.effect) {
                    self.input(origin.machine, Input::Done { id: origin.effect, completion });
                }
            }
            Event::Hear { machine, load, said } => self.hear(machine, load, &said),
            Event::Follower { machine, load } => self.follower(machine, load),
            Event::RoutesDue { machine } => self.tell_routes(machine),
            Event::Servers => self.look_at_servers(),
            Event::Timer { machine, boot, at } => {
                let there = &mut self.machines[machine];
                if there.boot == boot && there.timer == Some(at) {
                    there.timer = None;
                    self.input(machine, Input::Timeout);
                }
            }
            Event::Restart { machine } => {
                let there = &self.machines[machine];
                if there.node.is_none() && !there.off {
                    self.start(machine);
                }
            }
            Event::Wake { machine } => self.wake(machine),
            Event::PowerOn { machine } => self.power_on(machine),
            Event::Cancel => {
                if let Some((machine, handle)) = self.cancellable {
                    self.cancel(machine, handle);
                }
            }
            Event::Driver(_) => unreachable!("the step hands it out"),
        }
    }

    fn start(&mut self, machine: usize) {
        let there = &mut self.machines[machine];
        let seed = (machine as u64 + 1) * 1_000_003 + u64::from(there.boot);
        let config = NodeConfig {
            machine: self.world.machines[machine].clone(),
            runtime: "model".to_owned(),
            seed,
            fence: there.fence.clone(),
        };
        there.node = Some(Node::new(config));
        self.began_anew = true;
        self.note(Some(machine), Kind::Mended, None, || host::STARTS.to_owned());
        self.drain(machine);
    }

    pub(crate) fn input(&mut self, machine: usize, input: Input) {
        let there = &mut self.machines[machine];
        if there.paused_until.is_some() {
            return there.held.push(input);
        }
        if let Input::Done { id, completion } = &input {
            // An adapter tells once how it went.
            let Some(sent) = there.pending.remove(id) else { return };
            if let Completion::Send(Outcome::Ok(CommandReply::Stale { .. })) = completion
                && let Some((operation, scope, epoch)) = &sent
            {
                let seen = Seen::Fenced { machine, operation, scope, epoch: *epoch };
                self.invariants.see(&seen, &self.world);
            }
        }
        let Some(node) = &mut self.machines[machine].node else { return };
        let now = self.world.clocks[machine].monotonic(self.world.now);
        node.handle_input(now, self.world.wall(machine), input);
        self.drain(machine);
    }

    fn drain(&mut self, machine: usize) {
        loop {
            let there = &mut self.machines[machine];
            let Some(node) = &mut there.node else { return };
            // One that stands still keeps what it has not put out yet.
            if there.paused_until.is_some() {
                return;
            }
            if let Some(event) = node.poll_event() {
                self.hear_event(machine, &event);
            } else if let Some(effect) = node.poll_effect() {
                self.issue(machine, effect);
            } else {
                break;
            }
        }
        let there = &mut self.machines[machine];
        let next = there.node.as_ref().and_then(Node::poll_timeout);
        if let Some((at, _)) = next {
            let at = self.world.clocks[machine].when(at).max(self.world.now);
            if there.timer.is_none_or(|timer| at < timer) {
                there.timer = Some(at);
                let (boot, after) = (there.boot, at.since(self.world.now));
                self.schedule(after, Event::Timer { machine, boot, at });
            }
        }
    }

    fn hear_event(&mut self, machine: usize, event: &NodeEvent) {
        self.invariants.see(&Seen::Told { event }, &self.world);
        self.trace.mix(event.handle.0);
        let operation = self.trace.says(self.world.now, event);
        self.note(Some(machine), Kind::Says, operation.as_ref(), || told(event));
        if let Some(result) = event.result() {
            if self.cancellable == Some((machine, event.handle)) {
                self.cancellable = None;
            }
            self.results.insert(event.handle, result.clone());
            self.told.push(event.handle);
        }
    }

    /// An answer on its way back, that arrives.
    pub(crate) fn answer(
        &mut self,
        origin: Option<Origin>,
        after: Duration,
        completion: Completion,
    ) {
        if let Some(origin) = origin {
            self.schedule(after, Event::Answer { origin, completion });
        }
    }

    /// An answer on its way back over a link, where it may be lost.
    pub(crate) fn answer_over(
        &mut self,
        from: usize,
        origin: Option<Origin>,
        completion: Completion,
    ) {
        let Some(origin) = origin else { return };
        let arrives = self.world.network.carry(from, origin.machine).first();
        if let Completion::Send(Outcome::Ok(_)) = completion {
            self.trace.sent(Some(origin.machine), arrives);
        }
        if let Some(after) = arrives {
            self.schedule(after, Event::Answer { origin, completion });
        } else if let Completion::Store(_) = completion {
            // Nobody else ends the waiting for the store; that for a command has its deadline already.
            self.silence(Some(origin), Completion::Store(Outcome::Unknown));
        }
    }

    /// An answer that never comes: the adapter's own deadline ends it.
    pub(crate) fn silence(&mut self, origin: Option<Origin>, completion: Completion) {
        self.answer(origin, Duration::from_secs(5), completion);
    }

    /// Puts something on its way, that lands after this time.
    pub(crate) fn set_under_way(
        &mut self,
        flight: Flight,
        origin: Option<Origin>,
        after: Duration,
    ) {
        self.seq += 1;
        let number = self.seq;
        self.under_way.insert(number, UnderWay { lands: None, flight, origin });
        self.schedule(after, Event::Land(number));
    }

    /// Puts something on its way that lands when other things have happened.
    pub(crate) fn set_under_way_until(&mut self, flight: Flight, lands: Later) {
        let lands = match lands {
            Later::Effects(n) => Later::Effects(self.effects + n),
            Later::After(after) => return self.set_under_way(flight, None, after),
            Later::AtRest => Later::AtRest,
        };
        self.seq += 1;
        let there = UnderWay { lands: Some(lands), flight, origin: None };
        self.under_way.insert(self.seq, there);
    }

    /// Whether something is under way that lands when other things have happened.
    pub fn has_stragglers(&self) -> bool {
        self.under_way.values().any(|there| there.lands.is_some())
    }

    /// Lands all of that.
    pub fn land_the_rest(&mut self) {
        let stragglers = self.under_way.iter().filter(|(_, there)| there.lands.is_some());
        for number in stragglers.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.schedule(Duration::ZERO, Event::Land(number));
        }
    }
}

/// The operation that a result names.
#[must_use]
pub fn operation_of(result: &OperationResult) -> Option<&OperationId> {
    match result {
        OperationResult::Committed { operation, .. }
        | OperationResult::Aborted { operation, .. }
        | OperationResult::Interrupted { operation, .. }
        | OperationResult::Unknown { operation, .. }
        | OperationResult::CleanupPending { operation, .. } => Some(operation),
        OperationResult::Previewed { .. }
        | OperationResult::AlreadyDone { .. }
        | OperationResult::Refused { .. } => None,
    }
}

/// The completion that says that nobody knows.
pub(crate) fn unknown(effect: &EffectKind) -> Option<Completion> {
    match effect {
        EffectKind::Store(_) => Some(Completion::Store(Outcome::Unknown)),
        EffectKind::Send { .. } => Some(Completion::Send(Outcome::Unknown)),
        EffectKind::Runtime(_) => Some(Completion::Runtime(Outcome::Unknown)),
        EffectKind::Persist(_) | EffectKind::Routes(_) | EffectKind::Reply { .. } => None,
    }
}
