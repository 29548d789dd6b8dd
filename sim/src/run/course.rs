//! A run under way. It is plain data, so it can be kept at any step and gone on with, as often as there are choices to try there.

use std::cell::RefCell;
use std::fmt::Write;
use std::time::Duration;

use proto_core::api::Submission;
use proto_core::coordination::Phase;
use proto_core::daemon::OperationHandle;
use proto_core::store::Revision;
use proto_core::time::Time;

use super::{MAX_EFFECTS, MAX_EVENTS, MAX_TRIES, PATIENCE, Prepared, REST, Report, name, settles};
use crate::choice::Choices;
use crate::cluster::{Asked, Cluster, PAUSE};
use crate::fate::{Budget, Fates};
use crate::invariants::Invariants;
use crate::invariants::rest::{self, Content, Snapshot};
use crate::panics::{PANIC, survive};
use crate::story::machine_name;
use crate::trace::{Kind, Trace};

/// A run under way.
#[derive(Debug, Clone)]
pub(crate) struct Course<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) choices: &'a RefCell<Choices>,
    pub(super) cluster: Cluster<'a>,
    /// What may go wrong in all.
    pub(super) given: Budget,
    /// It is the run that shows what the operation comes to.
    pub(super) first: bool,
    /// How often the operator has tried.
    attempt: u32,
    /// Where he asks next.
    machine: usize,
    /// What he asks for next.
    submission: Submission,
    /// What he asked of daemons that stood still, and heard no more of.
    pub(super) given_up: Vec<OperationHandle>,
    /// What he was told at last.
    pub(super) ended: &'static str,
    /// The heads at rest.
    pub(super) content: Content,
    /// The same command was given once more.
    pub(super) asked_again: bool,
    /// What is waited for, before what comes next.
    wait: Option<Wait>,
    next: Next,
    /// The last state that it came to where runs may meet.
    pub(crate) met: Option<u64>,
}

#[derive(Debug, Clone)]
struct Wait {
    until: Until,
    end: Time,
}

/// What is waited for.
#[derive(Debug, Clone)]
enum Until {
    TimeIsOver,
    IsUp(usize),
    /// This, and what second operators asked for meanwhile.
    AreOver(Asked),
    Answered(OperationHandle),
}

/// What comes next.
#[derive(Debug, Clone)]
pub(super) enum Next {
    /// The operator asks.
    Ask,
    /// The operator looks what became of what was asked.
    Hear(Asked),
    /// The operator has seen what is left, and decides.
    Decide,
    /// Everything has come to rest.
    AtRest,
    /// What was still under way has landed, and everything has come to rest again. It was like this before.
    Landed(Snapshot),
    /// The same was asked for once more and answered, and it was like this before.
    Answered(OperationHandle, Snapshot, Option<Revision>),
    /// And everything has come to rest again.
    RestsAgain(&'static str, Snapshot, Option<Revision>),
    Over,
}

impl<'a> Course<'a> {
    /// A run that begins.
    pub(crate) fn new(
        prepared: &'a Prepared,
        choices: &'a RefCell<Choices>,
        budget: Budget,
        trace: bool,
        first: bool,
    ) -> Self {
        let invariants = Invariants::new(prepared.scenario.serves_through);
        let fates = Fates::Chosen(choices, budget.clone());
        let mut cluster = Cluster::new(prepared.world.clone(), fates, invariants);
        cluster.trace = Trace::new(trace);
        let mut this = Self {
            prepared,
            choices,
            cluster,
            given: budget,
            first,
            attempt: 0,
            machine: 0,
            submission: prepared.apply(),
            given_up: Vec::new(),
            ended: "nothing",
            content: Content::new(),
            asked_again: false,
            wait: None,
            next: Next::Over,
            met: None,
        };
        this.cluster.began_anew = false;
        this.try_it();
        this
    }

    /// The next step; false once it is over, which it also is where something panics.
    pub(crate) fn advance(&mut self) -> bool {
        survive(|| self.step()).unwrap_or_else(|what| {
            self.violate(PANIC, what);
            (self.wait, self.next) = (None, Next::Over);
            false
        })
    }

    fn step(&mut self) -> bool {
        if let Some(Wait { until, end }) = &self.wait {
            let over = |cluster: &Cluster<'_>| match until {
                Until::TimeIsOver => false,
                Until::IsUp(machine) => cluster.is_up(*machine),
                Until::AreOver(first) => {
                    let mut asked = [first].into_iter().chain(&cluster.rivals);
                    asked.all(|asked| asked.is_over(cluster))
                }
                Until::Answered(handle) => cluster.results.contains_key(handle),
            };
            if self.cluster.run_one(*end, MAX_EVENTS, over).is_some() {
                self.wait = None;
            }
            return true;
        }
        match std::mem::replace(&mut self.next, Next::Over) {
            Next::Ask => self.ask(),
            Next::Hear(first) => self.hear(first),
            Next::Decide => self.decide(),
            Next::AtRest => self.at_rest(),
            Next::Landed(before) => self.landed(&before),
            Next::Answered(handle, snapshot, last) => {
                let result = self.cluster.results.get(&handle).map_or("nothing", name);
                self.rest(REST, Next::RestsAgain(result, snapshot, last));
            }
            Next::RestsAgain(result, snapshot, last) => self.rests_again(result, &snapshot, last),
            Next::Over => return false,
        }
        true
    }

    /// What it came to.
    pub(crate) fn report(self) -> Report {
        let Self { mut cluster, choices, ended, .. } = self;
        if cluster.effects > MAX_EFFECTS {
            let what = format!("{} effects", cluster.effects);
            violate(&mut cluster, "L7 effects are bounded", what);
        }
        Report {
            violations: cluster.invariants.violations().to_vec(),
            ended,
            simulated_seconds: cluster.world.now.as_nanos() / 1_000_000_000,
            events: cluster.events,
            effects: cluster.effects,
            crashes: cluster.crashes,
            hash: cluster.trace.hash(),
            trace: cluster.trace.into_happened(),
            taken: choices.borrow().taken().to_vec(),
        }
    }

    fn wait(&mut self, until: Until, within: Duration, next: Next) {
        let end = self.cluster.world.now + within;
        (self.wait, self.next) = (Some(Wait { until, end }), next);
    }

    /// Waits for so long, and to the next full round.
    pub(super) fn rest(&mut self, how_long: Duration, next: Next) {
        let within = self.cluster.to_round(how_long);
        self.wait(Until::TimeIsOver, within, next);
    }

    pub(super) fn wait_for_answer(&mut self, handle: OperationHandle, next: Next) {
        self.wait(Until::Answered(handle), PATIENCE, next);
    }

    pub(super) fn violate(&mut self, invariant: &'static str, what: String) {
        violate(&mut self.cluster, invariant, what);
    }

    /// The operator turns to a daemon that runs, or will.
    fn try_it(&mut self) {
        if self.attempt >= MAX_TRIES + self.given.left() {
            return self.comes_to_rest();
        }
        if !self.cluster.is_up(self.machine) {
            let machines = 0..self.prepared.scenario.machines;
            let up = machines.into_iter().find(|other| self.cluster.is_up(*other));
            self.machine = up.unwrap_or(self.machine);
        }
        self.wait(Until::IsUp(self.machine), PAUSE * 2, Next::Ask);
    }

    fn ask(&mut self) {
        match Asked::of(&mut self.cluster, self.machine, self.submission.clone()) {
            None => {
                self.attempt += 1;
                self.try_it();
            }
            Some(first) => self.wait(Until::AreOver(first), PATIENCE, Next::Hear(first)),
        }
    }

    fn hear(&mut self, first: Asked) {
        let cluster = &mut self.cluster;
        let asked = [vec![first], cluster.nobody_waits()].concat();
        if let Some(silent) = asked.iter().find(|asked| !asked.is_over(cluster)) {
            let what = format!("no answer of {} within {PATIENCE:?}", machine_name(silent.machine));
            violate(cluster, rest::FINISHED, what);
            return self.comes_to_rest();
        }
        let silent = asked.iter().filter(|asked| !cluster.results.contains_key(&asked.handle));
        self.given_up.extend(silent.map(|asked| asked.handle));
        let answers = asked.iter().filter_map(|asked| cluster.results.get(&asked.handle));
        // What settles it counts before what only says that somebody else is at it.
        let wait = match answers.min_by_key(|result| !settles(result)) {
            Some(result) => {
                self.ended = name(result);
                // A refusal with nothing left behind is an answer; one because of what was left behind, or of a
                // lease that still has to expire, is not.
                let refused = self.ended == "refused"
                    && cluster.crashes == 0
                    && rest::unfinished(&cluster.world).is_empty();
                if settles(result) || refused {
                    return self.comes_to_rest();
                }
                31
            }
            None if first.is_lost(cluster) => 2,
            None => 35,
        };
        self.rest(Duration::from_secs(wait), Next::Decide);
    }

    /// What the operator does with what he sees by now.
    fn decide(&mut self) {
        let unfinished = rest::unfinished(&self.cluster.world);
        let many = self.attempt < 2;
        let mut choices = self.choices.borrow_mut();
        self.submission = match unfinished.first() {
            None => self.prepared.apply(),
            Some(record) => {
                let operation = record.id.clone();
                let bound = if record.phase == Phase::CleanupPending { 2 } else { 3 };
                let bound = if many { bound } else { 1 };
                let label = || "the operator: resumes, says the same again, aborts".to_owned();
                match choices.choose(bound, label) {
                    0 => Submission::Resume { operation },
                    1 => self.prepared.apply(),
                    _ => Submission::Abort { operation },
                }
            }
        };
        let machines = self.prepared.scenario.machines;
        if machines > 1 && many {
            let label = || "the operator: on which machine".to_owned();
            self.machine = choices.choose(machines, label);
        }
        drop(choices);
        self.attempt += 1;
        self.try_it();
    }

    fn comes_to_rest(&mut self) {
        let wanted = if self.prepared.scenario.fails { "aborted" } else { "committed" };
        // A second operator alone makes it no worse.
        let left = Budget { rivals: self.given.rivals, ..self.cluster.fates.budget() };
        if left == self.given && self.ended != wanted {
            let what = format!("{} instead of {wanted}", self.ended);
            self.violate("L0 with nothing going wrong it ends as it should", what);
        }
        self.cluster.fates.end();
        self.rest(REST, Next::AtRest);
    }

    /// Writes down everything that what is still to come depends on.
    pub(super) fn write_state(&self, to: &mut impl Write) -> std::fmt::Result {
        let Self {
            prepared: _,
            choices: _,
            cluster,
            given,
            first,
            attempt,
            machine,
            submission,
            given_up,
            ended,
            content,
            asked_again,
            wait,
            next,
            met: _,
        } = self;
        cluster.write_state(to)?;
        write!(to, "{given:?} {first} {attempt} {machine} {submission:?} {ended}")?;
        // Of results only those are looked at again that nobody heard so far.
        let asked = match next {
            Next::Hear(first) => Some(first),
            _ => None,
        };
        let asked = asked.into_iter().chain(&cluster.rivals).map(|asked| &asked.handle);
        let unheard = given_up.iter().chain(asked);
        let results = unheard.map(|handle| cluster.results.get(handle).map(name));
        write!(to, "{given_up:?} {:?} {content:?} {asked_again}", results.collect::<Vec<_>>())?;
        write!(to, "{wait:?} {next:?}")
    }

    /// Whether it is where runs that went different ways meet.
    pub(crate) fn may_meet(&mut self) -> bool {
        let began = std::mem::take(&mut self.cluster.began_anew);
        let rests = self.wait.is_none() && matches!(self.next, Next::Decide | Next::AtRest);
        began || rests
    }

    /// Whether a choice may come with the next step.
    pub(crate) fn may_choose(&self) -> bool {
        let decides = self.wait.is_none() && matches!(self.next, Next::Decide) && self.attempt < 2;
        let rests = self.wait.is_none() && matches!(self.next, Next::AtRest);
        let lands = rests && self.cluster.has_stragglers();
        let asks = self.wait.is_none() && self.cluster.fates.are_open();
        decides || lands || asks || self.wait.is_some() && self.cluster.next_may_choose()
    }

    /// Whether nothing is broken so far.
    pub(crate) fn is_sound(&self) -> bool {
        self.cluster.invariants.violations().is_empty()
    }
}

fn violate(cluster: &mut Cluster<'_>, invariant: &'static str, what: String) {
    let now = cluster.world.now;
    cluster.note(None, Kind::Violation, None, || format!("{invariant}: {what}"));
    cluster.invariants.violate(invariant, what, now);
}
