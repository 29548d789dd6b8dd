//! Plays a story: operators, clients and faults at work on a cluster of whole nodes (safety), then everything is mended and must
//! come to rest (liveness).
//!
//! | module | holds |
//! |---|---|
//! | here | the agenda: what happens when |
//! | [`habits`] | what operators do about answers |
//! | `operators` | who asks for operations, waits, retries, resumes, aborts, goes home |
//! | `clients` | who sends requests through the gateways |
//! | `faults` | how each fault begins and ends |
//! | `crash_free` | the same commits once more, without faults |
//! | `away` | a machine that is not mended with the others |
//! | `rest` | the mending, the rest, and the questions then |
//! | `placed` | something new at the end |
//! | `idle` | hours in which nobody asks for anything |
//! | `report` | what a run came to |

mod away;
mod clients;
mod crash_free;
mod faults;
pub mod habits;
mod idle;
mod operators;
mod placed;
mod report;
mod rest;

use std::collections::BTreeMap;
use std::time::Duration;

use proto_core::api::Submission;
use proto_core::daemon::OperationHandle;
use proto_core::mutant::{self, Mutant};
use proto_core::random::Random;
use proto_core::time::Time;

pub use idle::{Quiet, idle};
pub use report::{Outcomes, Report, outcome};

use crate::cluster::{Cluster, Stepped};
use crate::fate::{Fates, Told};
use crate::invariants::{Invariants, Violation};
use crate::panics::{PANIC, survive};
use crate::story::{Story, What};
use crate::trace::Trace;
use crate::world::kv::Wrong;
use crate::world::network::{FaultId, Network};
use crate::world::servers::Servers;

/// As many events as there may be in [`WINDOW`] for each machine, and for five more: five times the most that was seen in any story.
const MOST_EVENTS: u64 = 2000;
/// The time in which events are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// L7.
const BOUNDED: &str = "L7 effects are bounded";

/// Something on the agenda.
#[derive(Debug, Clone, Copy)]
enum Todo {
    /// An operator asks for something.
    Ask(usize),
    /// An operator changes their mind.
    Cancel(usize),
    /// An operator does something about what did not come to an end.
    Again(usize),
    /// An operator has waited for long enough.
    Patience(usize, u32),
    /// An operator applies what was prepared.
    ApplyPrepared(usize),
    /// A fault begins.
    Begin(usize),
    /// A fault ends.
    End(usize),
    /// A client sends a request.
    Request,
}

impl Todo {
    /// Whether a daemon will be asked to do something.
    fn asks(self) -> bool {
        matches!(self, Self::Ask(_) | Self::Again(_) | Self::ApplyPrepared(_))
    }
}

/// A story that is being played.
struct Play<'s> {
    story: &'s Story,
    cluster: Cluster<'static>,
    random: Random,
    agenda: Vec<Todo>,
    tasks: Vec<operators::Task>,
    waiting: BTreeMap<OperationHandle, usize>,
    /// How many times an operator is still to ask for something, as far as it is planned.
    to_come: usize,
    /// Plans that were prepared, with whose they are.
    prepared: Vec<(usize, Submission)>,
    links: BTreeMap<usize, FaultId>,
    /// Faults that have begun and have not hit anything yet.
    lurking: Vec<usize>,
    crashes_seen: u32,
    /// When events were last counted from, and how many there were then.
    counted: (Time, u64),
    /// The time of faults is over.
    mended: bool,
    clients: clients::Clients,
    report: Report,
}

/// Every rule that is asked of a story.
#[must_use]
pub fn rules() -> Vec<&'static str> {
    use crate::invariants::rest::{FINISHED, NOTHING_LEFT, RUNS};
    let beside = [
        away::ANSWERED,
        away::GOES_ON,
        away::SAYS_SO,
        clients::DROPPED,
        clients::MISROUTED,
        clients::ROUTED,
        crash_free::SAME,
        idle::UNASKED,
        placed::PLACED,
        rest::AGAIN,
        FINISHED,
        RUNS,
        NOTHING_LEFT,
        BOUNDED,
    ];
    Invariants::of_a_story().premises().into_keys().chain(beside).collect()
}

/// Plays a story. `lines`: what happens is kept for people.
#[must_use]
pub fn play(story: &Story, lines: bool) -> Report {
    let mut play = Play::new(story, lines);
    let story_took = play.through();
    Report { story_took, ..play.finish() }
}

/// Plays a story; where something panics, that is what broke. What happened before is told all the same.
#[must_use]
pub fn survived(story: &Story, lines: bool) -> Report {
    let mut play = Play::new(story, lines);
    let through = survive(|| play.through());
    let story_took = *through.as_ref().unwrap_or(&Duration::ZERO);
    play.told(through.err(), story_took)
}

impl<'s> Play<'s> {
    /// What it came to, also where it ended in a panic that said this.
    fn told(mut self, panicked: Option<String>, story_took: Duration) -> Report {
        if let Some(what) = panicked {
            self.violate(PANIC, what);
        }
        let (at, mut violations) =
            (self.cluster.world.now, self.cluster.invariants.violations().to_vec());
        survive(|| self.finish()).map_or_else(
            |what| {
                violations.push(Violation { invariant: PANIC, what, at });
                Report { story_took, violations, ..Report::default() }
            },
            |report| Report { story_took, ..report },
        )
    }

    fn new(story: &'s Story, lines: bool) -> Self {
        let mut random = Random::new(story.seed);
        let mut world = story.founded();
        if mutant::on(Mutant::StaleWriteTaken) {
            world.kv.go_wrong(Wrong::StaleAccepted);
        }
        if mutant::on(Mutant::LivesIgnored) {
            world.kv.go_wrong(Wrong::NoExpiry);
        }
        world.network = Network::drawn(story.nodes, &mut random.split());
        let servers = (0..story.servers.clamp(1, story.nodes)).collect();
        world.servers = Servers::new(servers, random.split());
        let told = Told { strikes: Vec::new(), struck: Vec::new(), random: random.split() };
        if story.faults.iter().any(|fault| matches!(fault.what, What::EndedKeysBack { .. })) {
            world.kv.keep_replaced();
        }
        let invariants = Invariants::of_a_story();
        let mut cluster = Cluster::new(world, Fates::Told(told), invariants);
        cluster.trace = Trace::new(lines);
        let clients = clients::Clients::new(story);
        let tasks = story.operations.iter().map(|_| operators::Task::default()).collect();
        Self {
            story,
            cluster,
            random,
            agenda: Vec::new(),
            tasks,
            waiting: BTreeMap::new(),
            to_come: 0,
            prepared: Vec::new(),
            links: BTreeMap::new(),
            lurking: Vec::new(),
            crashes_seen: 0,
            counted: (Time::ZERO, 0),
            mended: false,
            clients,
            report: Report::default(),
        }
    }

    /// All of it; how long the story took, without what comes after it.
    fn through(&mut self) -> Duration {
        let began = std::time::Instant::now();
        self.safety();
        let story_took = began.elapsed();
        let converged = self.liveness();
        self.at_rest(converged);
        self.without_faults();
        story_took
    }

    fn plan(&mut self, after: Duration, todo: Todo) {
        self.cluster.call(after, self.agenda.len() as u64);
        self.to_come += usize::from(todo.asks());
        self.agenda.push(todo);
    }

    fn safety(&mut self) {
        self.plan_everything();
        let length = Duration::from_millis(self.story.on_the_clock(self.story.length));
        self.run_until(Time::ZERO + length, |_| false);
    }

    fn plan_everything(&mut self) {
        let story = self.story;
        for (n, asked) in story.operations.iter().enumerate() {
            self.plan(Duration::from_millis(story.on_the_clock(asked.at)), Todo::Ask(n));
        }
        for (n, fault) in story.faults.iter().enumerate() {
            self.plan(Duration::from_millis(story.on_the_clock(fault.at)), Todo::Begin(n));
        }
        if story.request_every > 0 {
            self.plan(Duration::from_millis(story.request_every), Todo::Request);
        }
    }

    /// Lets things happen until then, or until `enough` says so; whether it said so.
    fn run_until(&mut self, end: Time, enough: impl Fn(&Self) -> bool) -> bool {
        let most = (self.story.nodes as u64 + 5) * MOST_EVENTS;
        loop {
            if enough(self) {
                return true;
            }
            // A run that broke something is over: what follows from it says nothing more.
            if !self.cluster.invariants.violations().is_empty() {
                return false;
            }
            let (now, events) = (self.cluster.world.now, self.cluster.events);
            if now >= self.counted.0 + WINDOW {
                self.counted = (now, events);
                *self.report.premises.entry(BOUNDED).or_default() += 1;
            }
            if events - self.counted.1 > most {
                let what = format!("{} events in {WINDOW:?}", events - self.counted.1);
                self.violate(BOUNDED, what);
                return false;
            }
            match self.cluster.step(end) {
                Stepped::Nothing => return enough(self),
                Stepped::Driver(number) => {
                    let number = usize::try_from(number).expect("an index of the agenda");
                    self.do_it(self.agenda[number]);
                }
                Stepped::Happened => {}
            }
            self.attend();
        }
    }

    fn do_it(&mut self, todo: Todo) {
        self.to_come -= usize::from(todo.asks());
        match todo {
            Todo::Ask(task) => self.ask(task),
            Todo::Cancel(task) => self.cancel(task),
            Todo::Again(task) => self.again(task),
            Todo::Patience(task, tries) => self.lose_patience(task, tries),
            Todo::ApplyPrepared(number) => self.apply_prepared(number),
            Todo::Begin(_) if self.mended => {}
            Todo::Begin(fault) => self.begin(fault),
            Todo::End(fault) => self.end(fault),
            Todo::Request => {
                self.request();
                let now = self.cluster.world.now.as_nanos() / 1_000_000;
                let next = now + self.story.request_every;
                // On quiet days clients are quiet too.
                let next = self.story.quiet_until(next).unwrap_or(next);
                self.plan(Duration::from_millis(next - now), Todo::Request);
            }
        }
    }

    fn violate(&mut self, invariant: &'static str, what: String) {
        let now = self.cluster.world.now;
        self.cluster.invariants.violate(invariant, what, now);
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("below a usize")
    }
}
