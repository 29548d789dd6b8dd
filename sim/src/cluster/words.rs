//! What daemons are asked, say and put out, in words for people.

use proto_core::api::{OperationEvent, OperationResult, StepStatus, Submission};
use proto_core::coordination::command::CommandBody;
use proto_core::daemon::{EffectKind, NodeEvent};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::StoreRequest;

use super::queue::Flight;

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

/// What is on its way, in a few words.
pub(super) fn short_flight(flight: &Flight) -> String {
    match flight {
        Flight::Store { request, .. } => short(&EffectKind::Store(request.clone())),
        Flight::Command { command, .. } => format!("command {}", short_command(&command.body)),
        Flight::Runtime { request, .. } => short(&EffectKind::Runtime(request.clone())),
        Flight::Routes { request, .. } => format!("{request:?}"),
    }
}

/// An effect in a few words.
pub(super) fn short(effect: &EffectKind) -> String {
    match effect {
        EffectKind::Store(StoreRequest::Read { prefixes }) => {
            format!("reads {} prefixes", prefixes.len())
        }
        EffectKind::Store(StoreRequest::Commit { writes }) => {
            let keys: Vec<_> = writes
                .iter()
                .map(|write| {
                    let phase = write.value.get("phase").and_then(|phase| phase.as_str());
                    phase.map_or_else(|| write.key.to_string(), |p| format!("{}={p}", write.key))
                })
                .collect();
            format!("writes {}", keys.join(" "))
        }
        EffectKind::Send { to, command } => format!("sends {to} {}", short_command(&command.body)),
        EffectKind::Runtime(RuntimeRequest::Create { spec }) => format!("creates {}", spec.name),
        EffectKind::Runtime(RuntimeRequest::List { .. }) => "lists".to_owned(),
        EffectKind::Runtime(RuntimeRequest::Facts { .. }) => "asks for facts".to_owned(),
        EffectKind::Runtime(RuntimeRequest::Probe { instance, .. }) => format!("probes {instance}"),
        EffectKind::Runtime(request) => format!("{request:?}"),
        EffectKind::Persist(file) => {
            let floors: Vec<_> = file.floors.iter().map(|(_, epoch)| epoch.to_string()).collect();
            let journal: Vec<_> = file.journal.iter().map(|entry| entry.step.to_string()).collect();
            format!("persists floors {} journal {}", floors.join(" "), journal.join(" "))
        }
        EffectKind::Routes(request) => format!("{request:?}"),
        EffectKind::Reply { reply, .. } => format!("replies {reply:?}").chars().take(120).collect(),
    }
}

fn short_command(body: &CommandBody) -> String {
    match body {
        CommandBody::Observe { .. } => "observe".to_owned(),
        CommandBody::Barrier { epoch, .. } => format!("barrier {epoch}"),
        CommandBody::Perform { epoch, step, action, .. } => format!("{step} at {epoch}: {action}"),
    }
}
