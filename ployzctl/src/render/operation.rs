//! Operations: their events, results and listings.

use std::fmt::Write as _;

use proto_core::api::views::LeaseView;
use proto_core::api::{OperationEvent, OperationResult, OperationSummary, StepStatus};

use super::{count, plan};
use crate::out::table;

/// An event as a line; `None` if it is said otherwise: the result at the end, a plan by its first line only.
pub(crate) fn event(event: &OperationEvent) -> Option<String> {
    Some(match event {
        OperationEvent::Observing => "asking the machines".to_owned(),
        OperationEvent::Planned { plan, digest } => {
            let (steps, cleanup) = (plan.steps.len(), plan.cleanup.len());
            let mut out = format!(
                "planned: {steps} before the commit, {cleanup} after it, digest {}",
                digest.short()
            );
            for note in &plan.notes {
                _ = write!(out, "\nnote: {note}");
            }
            out
        }
        OperationEvent::Recorded { operation, adopted: false } => format!("operation {operation}"),
        OperationEvent::Recorded { operation, adopted: true } => {
            format!("operation {operation} goes on where an earlier run stopped")
        }
        OperationEvent::Step { step: _, machine, action, status } => match status {
            StepStatus::Started => format!("{machine}: {action} …"),
            StepStatus::Done => format!("{machine}: {action}: done"),
            StepStatus::Retrying => format!("{machine}: {action}: no answer, asked again"),
            StepStatus::Failed { error } => {
                format!("{machine}: {action}: failed: {}", error.message)
            }
        },
        OperationEvent::Phase { phase } => format!("phase {phase}"),
        OperationEvent::Note { text } => format!("note: {text}"),
        OperationEvent::Finished { .. } => return None,
    })
}

/// How it ended: what goes to standard output. Errors go to standard error.
pub(crate) fn result(result: &OperationResult) -> String {
    match result {
        OperationResult::Previewed { plan, digest } => plan::plan(plan, digest),
        OperationResult::Committed { notes, .. } => {
            let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
            notes + &format!("{result}\n")
        }
        result => format!("{result}\n"),
    }
}

/// `op ls`.
pub(crate) fn list(operations: &[OperationSummary]) -> String {
    if operations.is_empty() {
        return "no operations\n".to_owned();
    }
    let rows = operations.iter().map(|operation| {
        let record = &operation.record;
        [
            record.id.to_string(),
            phase(operation),
            record.scope.to_string(),
            record.summary.clone(),
            record.coordinator.to_string(),
            record.started.to_string(),
        ]
    });
    table(["OPERATION", "PHASE", "SCOPE", "WHAT", "COORDINATOR", "STARTED"], rows.collect())
}

fn phase(operation: &OperationSummary) -> String {
    let phase = operation.record.phase;
    match (phase.is_final(), operation.running_here) {
        (false, true) => format!("{phase}, runs"),
        (false, false) => format!("{phase}, does not run here"),
        (true, _) => phase.to_string(),
    }
}

/// `op show`.
pub(crate) fn show(operation: &OperationSummary) -> String {
    let record = &operation.record;
    let mut out = format!("operation {}: {}\n", record.id, record.summary);
    _ = writeln!(out, "on {}, {}, attempt {}", record.scope, phase(operation), record.attempt);
    let epoch = record.epoch.map_or_else(|| "none yet".to_owned(), |epoch| epoch.to_string());
    _ = writeln!(out, "coordinator {}, epoch {epoch}", record.coordinator);
    _ = writeln!(out, "started {}, updated {}", record.started, record.updated);
    for note in &record.notes {
        _ = writeln!(out, "note: {note}");
    }
    if let Some(done) = &record.done {
        let steps = count(done.steps.len(), "step");
        _ = writeln!(out, "committed {}, {steps} done", done.commit);
        for step in &done.steps {
            _ = writeln!(out, "  {step}");
        }
    }
    if let Some(plan) = &record.plan {
        out += &plan::plan(plan, &plan.digest());
    }
    if let Some(error) = &record.error {
        // Whoever reads this need not be told to.
        let here = format!("ployzctl op show {}", record.id);
        let mut error = error.clone();
        error.next = error.next.filter(|next| *next != here);
        out += &crate::failure::text(&error);
    }
    if !record.phase.is_final() && !operation.running_here {
        let next = format!("ployzctl op resume {0}, or ployzctl op abort {0}", record.id);
        _ = writeln!(out, "{}", crate::next::line(&next));
    }
    out
}

/// `lock ls`.
pub(crate) fn leases(leases: &[LeaseView]) -> String {
    if leases.is_empty() {
        return "no leases are held\n".to_owned();
    }
    let rows = leases.iter().map(|LeaseView { key, lease }| {
        let epoch = lease.epoch.map_or_else(|| "first take".to_owned(), |epoch| epoch.to_string());
        [
            key.to_string(),
            lease.operation.to_string(),
            lease.holder.to_string(),
            epoch,
            lease.since.to_string(),
        ]
    });
    table(["LEASE", "OPERATION", "HOLDER", "EPOCH", "SINCE"], rows.collect())
}
