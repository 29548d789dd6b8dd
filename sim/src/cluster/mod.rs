//! Whole nodes against the world on one clock: discrete events, ordered by time and then by number.
//!
//! | module | holds |
//! |---|---|
//! | here | the whole, and one event after the other |
//! | `queue` | what is to happen, and what is on its way |
//! | `daemon` | the daemons: what they are asked and told, and what they put out |
//! | `flight` | what becomes of an effect between the node and its part of the world |
//! | `follow` | the store's servers, and the followers that feed the gateways |
//! | `host` | what strikes a whole machine: crash, pause, sleep, reboot |
//! | `state` | everything that the future depends on, for telling two clusters apart |
//! | `words` | what daemons are asked, say and put out, for people |

mod daemon;
mod flight;
mod follow;
mod host;
mod queue;
mod state;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use proto_core::api::{OperationRequest, OperationResult};
use proto_core::daemon::{Input, OperationHandle};
use proto_core::id::{Namespace, OperationId};
use proto_core::runtime::RuntimeRequest;
use proto_core::time::Time;

pub(crate) use daemon::Asked;
use daemon::Machine;
pub(crate) use host::ROUND;
pub use host::{BACK, GONE, PAUSE, RESTART_AFTER};
use queue::{Event, Flight, Scheduled, UnderWay};

use crate::fate::Fates;
use crate::invariants::Invariants;
use crate::trace::{Kind, Line, Trace};
use crate::world::World;
use crate::world::bus::{Bus, Origin};
use crate::world::feed::Feed;

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
    /// Faults of a machine's parts that came to matter, by class and machine, for whoever takes them away.
    pub hits: Vec<(&'static str, usize)>,
    /// How many crashes and pauses there were.
    pub crashes: u32,
    /// Where something was asked for last, until its result is told: its operator may cancel.
    cancellable: Option<(usize, OperationHandle)>,
    /// What second operators have asked for since.
    pub(crate) rivals: Vec<Asked>,
    /// A daemon started, or one that stood still goes on, since somebody last asked.
    pub(crate) began_anew: bool,
    pub(crate) machines: Vec<Machine>,
    pub(crate) bus: Bus,
    pub(crate) under_way: BTreeMap<u64, UnderWay>,
    /// What loads read.
    feed: Feed,
    waiting_for_routes: Vec<follow::WaitsForRoutes>,
    servers_wake: Option<Time>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    handles: u64,
}

impl<'a> Cluster<'a> {
    /// Starts a daemon on every machine of the world.
    pub fn new(world: World, fates: Fates<'a>, invariants: Invariants) -> Self {
        let machines = world.machines.iter().map(|_| Machine::default());
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
            hits: Vec::new(),
            crashes: 0,
            cancellable: None,
            rivals: Vec::new(),
            began_anew: false,
            bus: Bus::default(),
            under_way: BTreeMap::new(),
            feed: Feed::default(),
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

    /// Whether a choice may come with the next event: it lets something land or not, or reaches a daemon, which puts out effects, while
    /// something may still go wrong.
    pub(crate) fn next_may_choose(&self) -> bool {
        let Some(Reverse(next)) = self.heap.peek() else { return false };
        if let Event::Land(number) = &next.event {
            return self.under_way.get(number).is_some_and(|there| match &there.flight {
                Flight::Runtime { request: RuntimeRequest::Settle { .. }, .. } => true,
                Flight::Command { .. } => self.fates.are_open(),
                _ => false,
            });
        }
        self.fates.are_open() && self.reaches_a_daemon(&next.event)
    }

    fn reaches_a_daemon(&self, next: &Event) -> bool {
        match next {
            Event::Answer { origin, .. } => self.awaits(origin),
            Event::Timer { machine, boot, at } => {
                let there = &self.machines[*machine];
                there.boot == *boot && there.timer == Some(*at)
            }
            Event::Land(_)
            | Event::Hear { .. }
            | Event::Follower { .. }
            | Event::RoutesDue { .. }
            | Event::Servers => false,
            Event::Restart { .. }
            | Event::Wake { .. }
            | Event::PowerOn { .. }
            | Event::Cancel
            | Event::Rival(_)
            | Event::Driver(_) => true,
        }
    }

    /// Whether the daemon that issued this effect still waits for its answer.
    fn awaits(&self, origin: &Origin) -> bool {
        let machine = &self.machines[origin.machine];
        machine.boot == origin.boot && machine.pending.contains_key(&origin.effect)
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
                if self.awaits(&origin) {
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
            Event::Rival(rival) => self.join(rival),
            Event::Driver(_) => unreachable!("the step hands it out"),
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
