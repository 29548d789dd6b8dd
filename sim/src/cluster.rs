//! Whole nodes against the world on one clock: discrete events, ordered by time and then by number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use proto_core::Outcome;
use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::FenceFile;
use proto_core::daemon::{
    Completion, EffectId, Input, Node, NodeConfig, OperationHandle, RoutesRequest,
};
use proto_core::id::{Epoch, OperationId};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::{Scope, StoreRequest};
use proto_core::time::Time;

use crate::choice::Choices;
use crate::fate::{Budget, Later};
use crate::invariants::{Invariants, Seen};
use crate::world::World;
use crate::world::bus::{Bus, Origin};
use crate::world::routes::Change;

/// How long after a crash a daemon is started again.
pub const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long a daemon that stands still does so: longer than a lease.
pub const PAUSE: Duration = Duration::from_secs(45);
/// As many events as a run may have: beyond it something goes round in circles.
const MAX_EVENTS: u64 = 60_000;

/// One machine's daemon.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) node: Option<Node>,
    pub(crate) boot: u32,
    /// The fence file on its disk.
    pub(crate) fence: FenceFile,
    pub(crate) pending: BTreeSet<EffectId>,
    timer: Option<Time>,
    paused_until: Option<Time>,
    held: Vec<Input>,
}

/// An effect that is on its way to its part of the world.
#[derive(Debug, Clone)]
pub(crate) enum Flight {
    Store { request: StoreRequest, operation: Option<OperationId>, undecided: bool },
    Command { to: usize, command: Box<proto_core::coordination::Command> },
    Runtime { machine: usize, request: RuntimeRequest, by: Option<(Scope, Epoch)> },
    Routes { machine: usize, request: RoutesRequest, until: Time },
}

#[derive(Debug)]
pub(crate) enum Event {
    Reach { flight: Flight, origin: Option<Origin> },
    Answer { origin: Origin, completion: Completion },
    Gateway { machine: usize, change: Change },
    Timer { machine: usize, boot: u32, at: Time },
    Restart { machine: usize },
    Wake { machine: usize },
}

#[derive(Debug)]
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

/// An effect that lands later.
#[derive(Debug)]
pub(crate) struct Straggler {
    pub(crate) lands: Later,
    pub(crate) flight: Flight,
}

/// Whole nodes and the world.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// Everything that is no node.
    pub world: World,
    /// What is checked.
    pub invariants: Invariants,
    /// How much may still go wrong.
    pub budget: Budget,
    /// How many effects were issued.
    pub effects: u64,
    /// What the audiences were told at last.
    pub results: BTreeMap<OperationHandle, OperationResult>,
    /// Lines about what happens, if somebody reads them.
    pub trace: Option<Vec<String>>,
    /// How many crashes and pauses there were.
    pub crashes: u32,
    pub(crate) choices: &'a mut Choices,
    pub(crate) machines: Vec<Machine>,
    pub(crate) bus: Bus,
    pub(crate) stragglers: Vec<Straggler>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    handles: u64,
    events: u64,
}

impl<'a> Cluster<'a> {
    /// Starts a daemon on every machine of the world.
    pub fn new(world: World, choices: &'a mut Choices, invariants: Invariants) -> Self {
        let fence = FenceFile::default;
        let machines = world.machines.iter().map(|_| Machine {
            node: None,
            boot: 0,
            fence: fence(),
            pending: BTreeSet::new(),
            timer: None,
            paused_until: None,
            held: Vec::new(),
        });
        let mut this = Self {
            machines: machines.collect(),
            world,
            invariants,
            budget: Budget::none(),
            effects: 0,
            results: BTreeMap::new(),
            trace: None,
            crashes: 0,
            choices,
            bus: Bus::default(),
            stragglers: Vec::new(),
            heap: BinaryHeap::new(),
            seq: 0,
            handles: 0,
            events: 0,
        };
        for machine in 0..this.machines.len() {
            this.start(machine);
        }
        this
    }

    /// Asks the daemon of a machine for something; `None` if it does not run or stands still.
    pub fn submit(&mut self, machine: usize, submission: Submission) -> Option<OperationHandle> {
        self.handles += 1;
        let handle = OperationHandle(self.handles);
        if let Submission::Apply { request } = &submission {
            let digest = request.digest();
            self.invariants.see(&Seen::Asked { digest }, &self.world);
        }
        if self.machines[machine].node.is_none() || self.machines[machine].paused_until.is_some() {
            return None;
        }
        self.trace(|| format!("machine {machine} is asked for {}", said(&submission)));
        self.input(machine, Input::Submit { handle, submission });
        Some(handle)
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

    /// Runs until `until` says so or this much time has passed; whether it said so.
    pub fn run(&mut self, within: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.world.now + within;
        loop {
            if until(self) {
                return true;
            }
            if self.events > MAX_EVENTS {
                let now = self.world.now;
                let what = format!("{} events", self.events);
                self.invariants.violate("L7 effects are bounded", what, now);
                return false;
            }
            let due = self.heap.peek().is_some_and(|Reverse(next)| next.at <= end);
            let Some(Reverse(next)) = (if due { self.heap.pop() } else { None }) else {
                self.world.now = end;
                self.world.kv.expire(end);
                return until(self);
            };
            self.events += 1;
            self.world.now = self.world.now.max(next.at);
            self.happen(next.event);
            self.invariants.look(&self.world);
        }
    }

    /// Lands everything that was to land at rest.
    pub fn land_the_rest(&mut self) -> usize {
        let rest = std::mem::take(&mut self.stragglers);
        let count = rest.len();
        for straggler in rest {
            self.trace(|| format!("lands at rest: {:?}", straggler.flight));
            self.schedule(Duration::ZERO, Event::Reach { flight: straggler.flight, origin: None });
        }
        count
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.seq += 1;
        let at = self.world.now + after;
        self.heap.push(Reverse(Scheduled { at, seq: self.seq, event }));
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        let now = self.world.now.as_nanos() / 1_000_000;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6}.{:03} {}", now / 1000, now % 1000, line()));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Reach { flight, origin } => self.reach(flight, origin),
            Event::Answer { origin, completion } => {
                let machine = &mut self.machines[origin.machine];
                if machine.boot == origin.boot && machine.pending.remove(&origin.effect) {
                    self.input(origin.machine, Input::Done { id: origin.effect, completion });
                }
            }
            Event::Gateway { machine, change } => self.world.gateways[machine].apply(change),
            Event::Timer { machine, boot, at } => {
                let there = &mut self.machines[machine];
                if there.boot == boot && there.timer == Some(at) {
                    there.timer = None;
                    self.input(machine, Input::Timeout);
                }
            }
            Event::Restart { machine } => {
                if self.machines[machine].node.is_none() {
                    self.start(machine);
                }
            }
            Event::Wake { machine } => self.wake(machine),
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
        self.trace(|| format!("machine {machine} starts its daemon"));
        self.drain(machine);
    }

    /// The daemon of a machine dies: what it has issued is on its way, what it knew is gone.
    pub(crate) fn crash(&mut self, machine: usize) {
        self.crashes += 1;
        self.trace(|| format!("machine {machine} CRASHES"));
        let there = &mut self.machines[machine];
        there.node = None;
        there.boot += 1;
        there.pending.clear();
        there.timer = None;
        there.paused_until = None;
        there.held.clear();
        self.bus.forget(machine);
        self.schedule(RESTART_AFTER, Event::Restart { machine });
    }

    /// The daemon of a machine stands still for a while.
    pub(crate) fn pause(&mut self, machine: usize) {
        self.crashes += 1;
        self.trace(|| format!("machine {machine} STANDS STILL"));
        self.machines[machine].paused_until = Some(self.world.now + PAUSE);
        self.schedule(PAUSE, Event::Wake { machine });
    }

    fn wake(&mut self, machine: usize) {
        if self.machines[machine].paused_until.take().is_none() {
            return;
        }
        self.trace(|| format!("machine {machine} goes on"));
        // Everything that came meanwhile is there at once, in the order in which it came.
        for input in std::mem::take(&mut self.machines[machine].held) {
            self.input(machine, input);
        }
        self.input(machine, Input::Timeout);
    }

    pub(crate) fn input(&mut self, machine: usize, input: Input) {
        let there = &mut self.machines[machine];
        if there.paused_until.is_some() {
            return there.held.push(input);
        }
        let Some(node) = &mut there.node else { return };
        node.handle_input(self.world.now, self.world.wall(), input);
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
                self.invariants.see(&Seen::Told { event: &event }, &self.world);
                self.trace(|| format!("machine {machine} says {}", told(&event)));
                if let Some(result) = event.result() {
                    self.results.insert(event.handle, result.clone());
                }
            } else if let Some(effect) = node.poll_effect() {
                self.issue(machine, effect);
            } else {
                break;
            }
        }
        let there = &mut self.machines[machine];
        let next = there.node.as_ref().and_then(Node::poll_timeout);
        if let Some((at, _)) = next {
            let at = at.max(self.world.now);
            if there.timer.is_none_or(|timer| at < timer) {
                there.timer = Some(at);
                let (boot, after) = (there.boot, at.since(self.world.now));
                self.schedule(after, Event::Timer { machine, boot, at });
            }
        }
    }

    /// An answer on its way back.
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

    /// An answer that never comes: the adapter's own deadline ends it.
    pub(crate) fn silence(&mut self, origin: Option<Origin>, completion: Completion) {
        self.answer(origin, Duration::from_secs(5), completion);
    }
}

/// The completion that says that nobody knows.
pub(crate) fn unknown(effect: &proto_core::daemon::EffectKind) -> Option<Completion> {
    use proto_core::daemon::EffectKind as Kind;
    match effect {
        Kind::Store(_) => Some(Completion::Store(Outcome::Unknown)),
        Kind::Send { .. } => Some(Completion::Send(Outcome::Unknown)),
        Kind::Runtime(_) => Some(Completion::Runtime(Outcome::Unknown)),
        Kind::Persist(_) | Kind::Routes(_) | Kind::Reply { .. } => None,
    }
}

fn said(submission: &Submission) -> String {
    match submission {
        Submission::Apply { request } => request.summary(),
        Submission::Preview { request } => format!("a preview of {}", request.summary()),
        Submission::ApplyPrepared { request, .. } => format!("prepared {}", request.summary()),
        Submission::Resume { operation } => format!("op resume {operation}"),
        Submission::Abort { operation } => format!("op abort {operation}"),
    }
}

fn told(event: &proto_core::daemon::NodeEvent) -> String {
    let text = serde_json::to_value(&event.event).map(|mut value| {
        // The plan is long and says little here.
        if let Some(object) = value.as_object_mut() {
            object.remove("plan");
        }
        value.to_string()
    });
    text.unwrap_or_else(|error| error.to_string())
}
