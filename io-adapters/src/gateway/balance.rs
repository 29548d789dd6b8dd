use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use handover::InForce;
use proto_core::routing::{Backend, Commits, RouteTable, Target};

use super::under_way::UnderWay;

/// For how long a backend that refused a connection is asked last.
const DOWN: Duration = Duration::from_secs(1);
/// How many of those are remembered.
const MAX_DOWN: usize = 256;

/// The route table that is in force, replaced in one step, and who is next for each target.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// `None` until there is something to serve.
    pub(super) in_force: InForce<Routing>,
    down: Down,
    pub(super) under_way: Arc<UnderWay>,
}

/// A table with the turns of its targets.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) table: RouteTable,
    turns: Vec<AtomicUsize>,
}

impl Routes {
    /// Requests that come from now on go by `commits`; those that are on their way stay where they are.
    pub(super) fn publish(&self, commits: &Commits) -> Arc<Routing> {
        let table = RouteTable::new(commits);
        let turns = (0..table.target_count()).map(|_| AtomicUsize::new(0)).collect();
        self.in_force.publish(Routing { table, turns }, Arc::clone)
    }

    pub(super) fn current(&self) -> Option<Arc<Routing>> {
        self.in_force.current()
    }

    /// Whose turn it is, leaving out those that were tried. A backend that has just refused a connection comes last.
    pub(super) fn choose<'a>(
        &self,
        routing: &Routing,
        target: &'a Target,
        tried: &[SocketAddr],
    ) -> Option<&'a Backend> {
        let count = target.backends.len();
        if count == 0 {
            return None;
        }
        let first = routing.turns[target.index].fetch_add(1, Ordering::Relaxed);
        let order = (0..count).map(|n| &target.backends[first.wrapping_add(n) % count]);
        let mut fallback = None;
        for backend in order.filter(|backend| !tried.contains(&backend.address)) {
            if !self.down.contains(backend.address) {
                return Some(backend);
            }
            fallback = fallback.or(Some(backend));
        }
        fallback
    }

    /// Says that a backend refused a connection.
    pub(super) fn refused(&self, address: SocketAddr) {
        self.down.add(address);
    }
}

#[derive(Debug, Default)]
struct Down {
    /// Spares the lock while all is well, which is nearly always.
    any: AtomicBool,
    until: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl Down {
    fn add(&self, address: SocketAddr) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        until.retain(|(other, end)| *other != address && *end > now);
        if until.len() < MAX_DOWN {
            until.push((address, now + DOWN));
        }
        self.any.store(true, Ordering::Relaxed);
    }

    fn contains(&self, address: SocketAddr) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        until.retain(|(_, end)| *end > now);
        self.any.store(!until.is_empty(), Ordering::Relaxed);
        until.iter().any(|(other, _)| *other == address)
    }
}
