//! What a run came to, as JSON: every command has the same words for the same things, and adds what is its own.

use serde_json::{Value, json};
use sim::invariants::Violation;
use sim::play::Report;
use sim::run;
use sim::story::Story;

use super::saved::Schedule;

/// A story that was played in so many seconds. `replay`: what to type to see what it broke again.
pub(crate) fn of_story(
    story: &Story,
    report: &Report,
    seconds: f64,
    replay: Option<&str>,
) -> Value {
    json!({
        "seed": story.seed,
        "nodes": story.nodes,
        "servers": story.servers,
        "simulated_seconds": report.simulated_seconds,
        "seconds": seconds,
        "events": report.events,
        "effects": report.effects,
        "operations": report.outcomes,
        "answers": report.answers,
        "faults": report.faults,
        "marks": report.marks,
        "requests": report.requests,
        "premises": report.premises,
        "trace_hash": hash(report.trace_hash),
        "peak_memory_bytes": super::peak_memory(),
        "violations": violations(&report.violations),
        "replay": replay,
    })
}

/// A run of an enumeration. `replay`: what to type to see what it broke again.
pub(crate) fn of_schedule(
    schedule: &Schedule,
    nodes: usize,
    report: &run::Report,
    replay: Option<&str>,
) -> Value {
    json!({
        "scenario": schedule.scenario,
        "nodes": nodes,
        "simulated_seconds": report.simulated_seconds,
        "events": report.events,
        "effects": report.effects,
        "budget": schedule.allows(),
        "crashes": report.crashes,
        "ended": report.ended,
        "choices": schedule.choices,
        "trace_hash": hash(report.hash),
        "violations": violations(&report.violations),
        "replay": replay,
    })
}

/// What was broken, and when, in microseconds of the simulation.
pub(crate) fn violation(violation: &Violation) -> Value {
    json!({
        "at": violation.at.as_nanos() / 1000,
        "invariant": violation.invariant,
        "what": violation.what,
    })
}

pub(crate) fn violations(all: &[Violation]) -> Vec<Value> {
    all.iter().map(violation).collect()
}

/// Sixteen digits: not every reader keeps a number of 64 bits as it is.
pub(crate) fn hash(hash: u64) -> String {
    format!("{hash:016x}")
}
