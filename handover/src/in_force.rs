use std::sync::PoisonError;

use crate::sync::{Arc, RwLock};

/// The state by which requests are answered, replaced in one step: those that are on their way keep the one that they began with.
#[derive(Debug)]
pub struct InForce<T>(RwLock<Option<Arc<T>>>);

impl<T> Default for InForce<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T> InForce<T> {
    /// What is in force now; `None` until there was something.
    #[must_use]
    pub fn current(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `state` in force, then calls `report`: nobody hears of a state that requests do not find yet.
    pub fn publish<R>(&self, state: T, report: impl FnOnce(&Arc<T>) -> R) -> R {
        let state = Arc::new(state);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&state));
        report(&state)
    }
}
