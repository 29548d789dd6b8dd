//! What operators do about answers, in both tiers alike.

use std::time::Duration;

use proto_core::api::{OperationRequest, OperationResult, Submission};

use crate::invariants::rest;
use crate::story::{Action, Asked, Story, Then};
use crate::world::World;

/// How often an operator does something about one and the same operation.
pub const MAX_TRIES: u32 = 8;

/// When an operator tries again whose daemon does not listen, or in whose way somebody else is.
pub const LATER: Duration = Duration::from_secs(15);

/// When an operator does something about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// In some seconds.
    Soon,
    /// Somebody else is at it, or the store is away: after [`LATER`].
    Later,
}

/// Whether an operator does something about this answer, and when.
#[must_use]
pub fn about(result: &OperationResult, then: Then) -> Option<Again> {
    match result {
        OperationResult::Refused { error } => {
            let later = matches!(
                error.code.as_str(),
                "LEASE_HELD"
                    | "OPERATION_UNFINISHED"
                    | "STORE_AWAY"
                    | "STORE_REFUSED"
                    | "CONTENDED"
                    | "MACHINE_SILENT"
            );
            later.then_some(Again::Later)
        }
        OperationResult::Interrupted { .. }
        | OperationResult::Unknown { .. }
        | OperationResult::CleanupPending { .. } => (then != Then::Leave).then_some(Again::Soon),
        OperationResult::Previewed { .. }
        | OperationResult::AlreadyDone { .. }
        | OperationResult::Committed { .. }
        | OperationResult::Aborted { .. } => None,
    }
}

/// What an operator asks for who comes back to what did not come to an end, and whether that only ends what is in the way. `applying`: what
/// was to be prepared is prepared.
#[must_use]
pub fn come_back(asked: &Asked, applying: bool, world: &World) -> (Submission, bool) {
    let request = asked.action.request();
    match asked.action {
        Action::Preview { .. } => return (Submission::Preview { request }, false),
        Action::Prepared { .. } if !applying => return (Submission::Preview { request }, false),
        _ => {}
    }
    let unfinished = rest::unfinished(world);
    let digest = request.digest();
    let own = unfinished.iter().find(|record| record.request_digest == digest);
    let in_the_way = unfinished.iter().find(|record| record.scope == request.scope());
    let clearing = own.is_none() && in_the_way.is_some() && asked.then != Then::Retry;
    let submission = match (own.or(in_the_way), asked.then) {
        (Some(record), Then::Leave) if clearing => {
            Submission::Resume { operation: record.id.clone() }
        }
        (Some(record), Then::Resume) => Submission::Resume { operation: record.id.clone() },
        (Some(record), Then::Abort) => Submission::Abort { operation: record.id.clone() },
        _ => Submission::Apply { request },
    };
    (submission, clearing)
}

/// Whether asking twice for it is asking once.
fn is_once(action: &Action) -> bool {
    match action {
        Action::Deploy { .. }
        | Action::DeployService { .. }
        | Action::Scale { .. }
        | Action::Stop { .. } => true,
        Action::Prepared { of, .. } => is_once(of),
        Action::Restart { .. }
        | Action::Rollback { .. }
        | Action::Remove { .. }
        | Action::Preview { .. } => false,
    }
}

/// What a head was made for and what is done already when it is asked for once more: not a restart, which is something new each time, nor a
/// rollback, nor what is to be on each machine, of which more may be there by now.
#[must_use]
pub fn done_already(story: &Story, world: &World) -> Vec<OperationRequest> {
    let heads = rest::heads(world);
    let may_be = story.operations.iter().filter(|asked| is_once(&asked.action));
    let made = |request: &OperationRequest| {
        let head = heads.get(request.namespace());
        head.is_some_and(|head| {
            head.request == request.digest() && !rest::has_one_on_each(world, head)
        })
    };
    may_be.map(|asked| asked.action.request()).filter(made).collect()
}
