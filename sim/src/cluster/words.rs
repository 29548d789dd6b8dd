//! What daemons are asked and say, in words for people.

use proto_core::api::{OperationEvent, OperationResult, StepStatus, Submission};
use proto_core::daemon::NodeEvent;

/// What a daemon is asked for.
pub(super) fn said(submission: &Submission) -> String {
    match submission {
        Submission::Apply { request } => request.summary(),
        Submission::Preview { request } => format!("a preview of {}", request.summary()),
        Submission::ApplyPrepared { request, .. } => format!("prepared {}", request.summary()),
        Submission::Resume { operation } => format!("op resume {operation}"),
        Submission::Abort { operation } => format!("op abort {operation}"),
    }
}

/// What a daemon tells those who listen.
pub(super) fn told(event: &NodeEvent) -> String {
    match &event.event {
        OperationEvent::Observing => "observes".to_owned(),
        OperationEvent::Planned { plan, digest } => {
            let digest: String = digest.to_string().chars().take(8).collect();
            format!("planned {digest}: {} steps", plan.steps.len())
        }
        OperationEvent::Recorded { operation, adopted } => {
            format!("{} as {operation}", if *adopted { "adopted" } else { "recorded" })
        }
        OperationEvent::Step { machine, action, status, .. } => {
            let status = match status {
                StepStatus::Started => "begins".to_owned(),
                StepStatus::Done => "done".to_owned(),
                StepStatus::Retrying => "no answer, asked again".to_owned(),
                StepStatus::Failed { error } => format!("FAILED {}: {}", error.code, error.message),
            };
            format!("on {machine}: {action}: {status}")
        }
        OperationEvent::Phase { phase } => format!("phase {}", phase.as_str()),
        OperationEvent::Note { text } => format!("note: {text}"),
        OperationEvent::Finished { result } => format!("ends: {}", ended(result)),
    }
}

fn ended(result: &OperationResult) -> String {
    let outcome = crate::play::outcome(result);
    match result {
        OperationResult::Committed { commit, .. } | OperationResult::AlreadyDone { commit } => {
            format!("{outcome}, the head is {commit}")
        }
        OperationResult::Previewed { plan, .. } => format!("{outcome}, {} steps", plan.steps.len()),
        OperationResult::Refused { error }
        | OperationResult::Aborted { error, .. }
        | OperationResult::Interrupted { error, .. }
        | OperationResult::Unknown { error, .. }
        | OperationResult::CleanupPending { error, .. } => {
            format!("{outcome} {}: {}", error.code, error.message)
        }
    }
}
