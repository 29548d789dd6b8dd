use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::api::{OperationEvent, Submission};
use crate::coordination::command::{BusError, Command, CommandReply};
use crate::coordination::participant::FenceFile;
use crate::id::{MachineId, Namespace, OperationId};
use crate::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use crate::span::Span;
use crate::store::{Revision, StoreError, StoreReply, StoreRequest};

/// The number of an effect, unique within the life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId(pub u64);

/// Names an operation that was submitted to this node: chosen by the driver, comes back with each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationHandle(pub u64);

/// Names a command that arrived: chosen by the driver, comes back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyToken(pub u64);

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody asks for an operation.
    Submit {
        /// Chosen by the driver, not used before.
        handle: OperationHandle,
        /// What is asked for.
        submission: Submission,
    },
    /// The audience asks to stop: undone before the commit, finished after it.
    Cancel {
        /// Which.
        handle: OperationHandle,
    },
    /// The daemon is about to end: every operation ends `Interrupted` as soon as nothing of it is half said.
    Shutdown,
    /// A command arrived for this machine.
    Command {
        /// Chosen by the driver, not used before.
        token: ReplyToken,
        /// What is wanted.
        command: Box<Command>,
    },
    /// An effect ended.
    Done {
        /// Which.
        id: EffectId,
        /// How.
        completion: Completion,
    },
    /// Time has passed. Spurious ones do no harm.
    Timeout,
}

/// How an effect ended, by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Of [`EffectKind::Store`].
    Store(Outcome<StoreReply, StoreError>),
    /// Of [`EffectKind::Send`].
    Send(Outcome<CommandReply, BusError>),
    /// Of [`EffectKind::Runtime`].
    Runtime(Outcome<RuntimeReply, RuntimeError>),
    /// Of [`EffectKind::Persist`]: `Err` if the file could not be written and synced.
    Persist(Result<(), String>),
    /// Of [`EffectKind::Routes`]: `Ok` with a note if there is something to say; `Err` if gateway or DNS did not answer.
    Routes(Result<Option<String>, String>),
}

/// Something to be done. Each comes back as [`Input::Done`], except [`EffectKind::Reply`], which has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Its number.
    pub id: EffectId,
    /// On whose behalf; `None` only for the settling of a journal after a start, whose operations the journal names.
    pub operation: Option<OperationId>,
    /// What.
    pub kind: EffectKind,
}

/// Kinds of effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectKind {
    /// Ask the store.
    Store(StoreRequest),
    /// Send a command to a machine, which may be this one.
    Send {
        /// To whom.
        to: MachineId,
        /// What.
        command: Box<Command>,
    },
    /// Ask this machine's runtime.
    Runtime(RuntimeRequest),
    /// Write and sync the fence file before anything else of this command happens.
    Persist(FenceFile),
    /// Ask this machine's gateway and DNS.
    Routes(RoutesRequest),
    /// Answer a command. Has no completion.
    Reply {
        /// Which.
        token: ReplyToken,
        /// With what.
        reply: Box<CommandReply>,
    },
}

/// What is asked of gateway and DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutesRequest {
    /// Wait until both serve every head of this namespace up to this position of the store. What another namespace's head waits for
    /// holds nobody up.
    Applied {
        /// Whose heads.
        namespace: Namespace,
        /// At least this.
        at_least: Revision,
        /// At most so long.
        within: Span,
    },
    /// Wait until the gateway has no request under way to these backends.
    Drained {
        /// The backends.
        backends: Vec<SocketAddr>,
        /// At most so long.
        within: Span,
    },
}

/// Progress of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// Which; the last event is [`OperationEvent::Finished`].
    pub handle: OperationHandle,
    /// What happened.
    pub event: OperationEvent,
}
