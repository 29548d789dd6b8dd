use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;

/// How many requests, upgraded connections included, are under way to each instance.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(super) counts: Arc<handover::UnderWay<SocketAddr>>,
    ended: Arc<Notify>,
}

/// A request on its way to an instance, until it is dropped.
pub(super) type Guard = handover::Guard<SocketAddr>;

impl Default for UnderWay {
    fn default() -> Self {
        let ended = Arc::new(Notify::new());
        let notify = Arc::clone(&ended);
        Self { counts: handover::UnderWay::new(move || notify.notify_waiters()), ended }
    }
}

impl UnderWay {
    /// How many are under way to any of these.
    pub(crate) fn count(&self, backends: &[SocketAddr]) -> usize {
        self.counts.count(backends)
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
