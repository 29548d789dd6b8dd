//! What the daemon did that nobody asked for: adopted, restarted, found. Kept in memory, the last thousand.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use proto_core::api::OperationResult;
use proto_core::api::views::DaemonEvent;
use tokio::sync::broadcast;

use crate::clock::Clock;

/// How many events are kept.
const KEPT: usize = 1000;

/// The daemon's events.
#[derive(Debug)]
pub struct Events {
    clock: Clock,
    kept: Mutex<VecDeque<DaemonEvent>>,
    live: broadcast::Sender<DaemonEvent>,
}

impl Events {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, kept: Mutex::new(VecDeque::new()), live: broadcast::channel(256).0 }
    }

    /// Keeps an event and tells whoever follows.
    pub fn publish(&self, code: &str, component: &str, message: impl Into<String>) {
        self.keep(DaemonEvent {
            at: self.clock.wall(),
            code: code.to_owned(),
            component: component.to_owned(),
            message: message.into(),
            result: None,
        });
    }

    /// The same for the end of an operation.
    pub fn ended(&self, what: &str, result: &OperationResult) {
        let why = result.error().map(|error| format!(". {}: {}", error.code, error.message));
        self.keep(DaemonEvent {
            at: self.clock.wall(),
            code: "OPERATION_ENDED".to_owned(),
            component: "operation".to_owned(),
            message: format!("{what}: {result}{}", why.unwrap_or_default()),
            result: Some(result.clone()),
        });
    }

    fn keep(&self, event: DaemonEvent) {
        tracing::info!(code = event.code, component = event.component, "{}", event.message);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Nobody has to follow.
        let _ = self.live.send(event);
    }

    /// What is kept, and what comes from now on, with nothing between lost.
    pub fn follow(&self) -> (Vec<DaemonEvent>, broadcast::Receiver<DaemonEvent>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.live.subscribe())
    }
}
