use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How many requests, upgraded connections included, are under way to each instance.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    counts: Mutex<HashMap<SocketAddr, usize>>,
    ended: Notify,
}

/// A request on its way to an instance, until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    all: Arc<UnderWay>,
    address: SocketAddr,
}

impl UnderWay {
    pub(super) fn begin(self: &Arc<Self>, address: SocketAddr) -> Guard {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(address).or_default() += 1;
        Guard { all: Arc::clone(self), address }
    }

    /// How many are under way to any of these.
    pub(crate) fn count(&self, backends: &[SocketAddr]) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        backends.iter().filter_map(|backend| counts.get(backend)).sum()
    }

    /// Waits until none is under way to any of these.
    pub(crate) async fn drained(&self, backends: &[SocketAddr]) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before the look, so that no end between look and wait is missed.
            ended.as_mut().enable();
            if self.count(backends) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
                drop(counts);
                self.all.ended.notify_waiters();
            }
        }
    }
}
