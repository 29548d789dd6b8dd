//! One run of a scenario: the operation, what the operator does when its daemon dies, and the questions at rest.
//!
//! | module | holds |
//! |---|---|
//! | here | a scenario made ready, and what a run came to |
//! | `course` | a run under way, which can be kept and gone on with: step by step from the question to the rest |
//! | `rest` | the questions at rest |
//! | `state` | a run's whole state as a number |

mod course;
mod rest;
mod state;

use std::cell::RefCell;
use std::time::Duration;

use proto_core::api::{OperationResult, Submission};

use crate::choice::{Choice, Choices, sparse};
use crate::cluster::{Cluster, ROUND};
use crate::fate::{Budget, Fates};
use crate::invariants::rest::{Content, content};
use crate::invariants::{Invariants, Violation};
use crate::scenario::{Scenario, founded};
use crate::trace::Happened;
use crate::world::World;
use crate::world::clock::Clock;

pub(crate) use course::Course;

/// How long a client waits for an operation.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the world takes to come to rest: every lease has expired, everybody goes on.
const REST: Duration = Duration::from_secs(90);
/// As many effects as a run may have.
const MAX_EFFECTS: u64 = 3000;
/// As many events as a run may have: beyond it something goes round in circles.
const MAX_EVENTS: u64 = 60_000;
/// As many times as the operator tries, beside once for each thing that may go wrong.
const MAX_TRIES: u32 = 8;

/// A scenario with what came before it done.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The scenario.
    pub scenario: Scenario,
    world: World,
    /// What is asked for.
    asks: Submission,
    before: Content,
    after: Content,
    /// How many effects a run has in which nothing goes wrong.
    pub effects: u64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was broken.
    pub violations: Vec<Violation>,
    /// How the operation ended, as the client was told at last.
    pub ended: &'static str,
    /// How long it was, on the simulated clock, in seconds.
    pub simulated_seconds: u64,
    /// How many events there were.
    pub events: u64,
    /// How many effects there were.
    pub effects: u64,
    /// How many daemons died or stood still.
    pub crashes: u32,
    /// The choices.
    pub taken: Vec<Choice>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// What happened, if it was asked for.
    pub trace: Happened,
}

impl Report {
    /// The choices, as `ployz-sim replay` reads them.
    #[must_use]
    pub fn schedule(&self) -> String {
        sparse(&self.taken)
    }
}

impl Prepared {
    /// Does what comes before, and the operation once with nothing going wrong.
    ///
    /// # Errors
    ///
    /// The report of the run in which nothing went wrong, if it broke something.
    pub fn new(scenario: Scenario) -> Result<Self, Box<Report>> {
        let choices = RefCell::new(Choices::recorded(Vec::new()));
        let mut world = founded(scenario.machines);
        world.clocks.iter_mut().for_each(Clock::stop_wall);
        world.kv.end_lives_at(ROUND);
        for request in &scenario.before {
            let submission = Submission::Apply { request: request.clone() };
            (world, _) = done(world, submission, &choices);
        }
        let request = scenario.request.clone();
        let mut asks = Submission::Apply { request: request.clone() };
        if scenario.prepared {
            let preview = Submission::Preview { request: request.clone() };
            let previewed;
            (world, previewed) = done(world, preview, &choices);
            let Some(OperationResult::Previewed { plan, .. }) = previewed else {
                panic!("a preview with nothing going wrong ends as {previewed:?}")
            };
            asks = Submission::ApplyPrepared { request, plan };
        }
        // What is settled leaves the file with the next write. As if there had been one: daemons begin with nothing to ask.
        world.fences.iter_mut().for_each(|fence| fence.journal.clear());
        let before = content(&world);
        let mut this = Self { scenario, world, asks, before, after: Content::new(), effects: 0 };
        let mut course = Course::new(&this, &choices, Budget::none(), true, true);
        while course.advance() {}
        let after = course.content.clone();
        let report = course.report();
        this.effects = report.effects;
        this.after = after;
        if report.violations.is_empty() { Ok(this) } else { Err(Box::new(report)) }
    }

    /// One run.
    pub fn run(&self, choices: &mut Choices, budget: Budget, trace: bool) -> Report {
        let cell = RefCell::new(std::mem::replace(choices, Choices::recorded(Vec::new())));
        let mut course = Course::new(self, &cell, budget, trace, false);
        while course.advance() {}
        let report = course.report();
        *choices = cell.into_inner();
        report
    }

    /// The head after an end like this.
    fn head_of(&self, ended: &str) -> &Content {
        if matches!(ended, "committed" | "already done") { &self.after } else { &self.before }
    }

    fn apply(&self) -> Submission {
        self.asks.clone()
    }
}

/// The world once this is done and all has come to rest, and how it ended.
fn done(
    world: World,
    submission: Submission,
    choices: &RefCell<Choices>,
) -> (World, Option<OperationResult>) {
    let fates = Fates::Chosen(choices, Budget::none());
    let mut cluster = Cluster::new(world, fates, Invariants::new(true));
    let handle = cluster.submit(0, submission).expect("nothing is broken yet");
    cluster.run(PATIENCE, MAX_EVENTS, |cluster| cluster.results.contains_key(&handle));
    cluster.run(REST, MAX_EVENTS, |_| false);
    let result = cluster.results.remove(&handle);
    (cluster.world, result)
}

/// Whether an answer says how it ended.
fn settles(result: &OperationResult) -> bool {
    matches!(
        result,
        OperationResult::Committed { .. }
            | OperationResult::AlreadyDone { .. }
            | OperationResult::Aborted { .. }
    )
}

fn name(result: &OperationResult) -> &'static str {
    match result {
        OperationResult::Previewed { .. } => "previewed",
        OperationResult::AlreadyDone { .. } => "already done",
        OperationResult::Committed { .. } => "committed",
        OperationResult::Refused { .. } => "refused",
        OperationResult::Aborted { .. } => "aborted",
        OperationResult::Interrupted { .. } => "interrupted",
        OperationResult::Unknown { .. } => "unknown",
        OperationResult::CleanupPending { .. } => "cleanup pending",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::by_name;

    #[test]
    fn where_a_run_panics_that_is_what_broke_and_its_choices_are_kept() {
        let mut prepared =
            Prepared::new(by_name("pair-stop").expect("there is one")).expect("fine");
        let (budget, mut plain) = (Budget::new(1, 0, &[2]), Choices::recorded(Vec::new()));
        let fine = prepared.run(&mut plain, budget.clone(), false);
        // The other machine is not in the model any more.
        prepared.world.runtimes.truncate(1);
        let report = prepared.run(&mut Choices::recorded(Vec::new()), budget, false);
        let broke = report.violations.last().expect("it panics");
        assert_eq!(broke.invariant, "panic");
        assert!(broke.what.contains("index out of bounds"), "{broke}");
        assert!(report.events > 0 && report.events < fine.events);
        assert!(!report.taken.is_empty() && report.taken.len() < fine.taken.len());
    }
}
