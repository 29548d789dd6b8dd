//! What a run came to.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::api::OperationResult;
use serde::Serialize;

use super::clients::{DROPPED, MISROUTED, ROUTED};
use super::rest::AGAIN;
use super::{Play, placed};
use crate::invariants::Violation;
use crate::invariants::rest::{self, Content};
use crate::marks::Marks;
use crate::story::namespace;
use crate::trace::{Line, Span};

/// How operations ended, by kind and outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Outcomes(pub BTreeMap<&'static str, BTreeMap<&'static str, u64>>);

impl Outcomes {
    /// One more.
    pub fn add(&mut self, kind: &'static str, outcome: &'static str) {
        *self.0.entry(kind).or_default().entry(outcome).or_default() += 1;
    }

    /// How many of a kind ended so.
    #[must_use]
    pub fn count(&self, kind: &str, outcome: &str) -> u64 {
        self.0.get(kind).and_then(|kind| kind.get(outcome)).copied().unwrap_or(0)
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (kind, outcomes) in &other.0 {
            for (outcome, count) in outcomes {
                *self.0.entry(kind).or_default().entry(outcome).or_default() += count;
            }
        }
    }
}

/// Requests of clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// All that had a route.
    pub sent: u64,
    /// Those of them that an operation must not have dropped.
    pub owed: u64,
    /// That an instance answered.
    pub served: u64,
    /// That none did.
    pub failed: u64,
    /// For which there was no route.
    pub unrouted: u64,
    /// Host names whose route was compared with the commit that the gateway serves.
    pub looked_up: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How long it was, on the simulated clock, in seconds, without quiet days.
    pub simulated_seconds: u64,
    /// How long the story itself took, without what comes after it, on the real clock. No run is the same as another in this.
    pub story_took: std::time::Duration,
    /// How many events there were.
    pub events: u64,
    /// How many effects the nodes put out.
    pub effects: u64,
    /// How operations ended: the last answer that its operator had.
    pub outcomes: Outcomes,
    /// The same, by operation.
    pub ended: Vec<&'static str>,
    /// What the heads of the story's namespaces say at the end.
    pub content: Content,
    /// Every answer, also those after which the operator went on.
    pub answers: Outcomes,
    /// How often a fault of each class struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// Classes that struck while an operation was open.
    pub struck_open: BTreeSet<&'static str>,
    /// Rare states that were reached.
    pub marks: Marks,
    /// Requests of clients.
    pub requests: Requests,
    /// In how many states each invariant's premise was true.
    pub premises: BTreeMap<&'static str, u64>,
    /// Deploys that were repeated at rest.
    pub repeated: u64,
    /// Hash of what happened: see [`Trace::hash`](crate::trace::Trace::hash).
    pub trace_hash: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// What happened, if it was kept.
    pub lines: Vec<Line>,
    /// What was asked of daemons, if it was kept.
    pub spans: Vec<Span>,
}

impl Report {
    pub(super) fn struck(&mut self, class: &'static str, open: bool) {
        *self.faults.entry(class).or_default() += 1;
        if open {
            self.struck_open.insert(class);
        }
    }
}

impl Play<'_> {
    pub(super) fn finish(self) -> Report {
        let world = &self.cluster.world;
        let mut report = self.report;
        for (asked, task) in self.story.operations.iter().zip(&self.tasks) {
            let ended = task.ended.unwrap_or("unanswered");
            report.outcomes.add(asked.action.kind(), ended);
            report.ended.push(ended);
        }
        report.content = rest::content(world);
        report.content.remove(&namespace(placed::NEW));
        report.marks.of_world(world);
        // Quiet days cost nothing and count for nothing.
        let quiet = self.story.quiet_time().as_secs();
        report.simulated_seconds = (world.now.as_nanos() / 1_000_000_000).saturating_sub(quiet);
        report.events = self.cluster.events;
        report.effects = self.cluster.effects;
        report.premises.extend(self.cluster.invariants.premises());
        let mut count = |invariant, states| {
            *report.premises.entry(invariant).or_default() += states;
        };
        count(AGAIN, report.repeated);
        count(DROPPED, report.requests.owed);
        count(MISROUTED, report.requests.served);
        count(ROUTED, report.requests.looked_up);
        let mut trace = self.cluster.trace;
        trace.mix(world.kv.last().0);
        report.trace_hash = trace.hash();
        report.violations = self.cluster.invariants.violations().to_vec();
        let happened = trace.into_happened();
        (report.lines, report.spans) = (happened.lines, happened.spans);
        report
    }
}

/// The name of an outcome.
#[must_use]
pub fn outcome(result: &OperationResult) -> &'static str {
    match result {
        OperationResult::Previewed { .. } => "previewed",
        OperationResult::AlreadyDone { .. } => "already_done",
        OperationResult::Committed { .. } => "committed",
        OperationResult::Refused { .. } => "refused",
        OperationResult::Aborted { .. } => "aborted",
        OperationResult::Interrupted { .. } => "interrupted",
        OperationResult::Unknown { .. } => "unknown",
        OperationResult::CleanupPending { .. } => "cleanup_pending",
    }
}
