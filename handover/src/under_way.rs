use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::InForce;
use crate::sync::{Arc, Mutex};

/// How many requests are under way to each backend.
pub struct UnderWay<K> {
    counts: Mutex<BTreeMap<K, usize>>,
    ended: Box<dyn Fn() + Send + Sync>,
}

/// A request on its way to a backend, until it is dropped.
pub struct Guard<K: Ord> {
    all: Arc<UnderWay<K>>,
    backend: K,
}

impl<K: Ord + Clone> UnderWay<K> {
    /// None under way. `ended` is called after each time that the last one to a backend ended.
    #[must_use]
    pub fn new(ended: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::new(BTreeMap::new()), ended: Box::new(ended) })
    }

    /// Counts a request to this backend until the guard is dropped.
    #[must_use]
    pub fn begin(all: &Arc<Self>, backend: K) -> Guard<K> {
        let mut counts = all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(backend.clone()).or_default() += 1;
        drop(counts);
        Guard { all: Arc::clone(all), backend }
    }

    /// How many are under way to any of these.
    #[must_use]
    pub fn count(&self, backends: &[K]) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        backends.iter().filter_map(|backend| counts.get(backend)).sum()
    }
}

impl<K: Ord> Drop for Guard<K> {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.backend) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.backend);
                drop(counts);
                (self.all.ended)();
            }
        }
    }
}

impl<K: std::fmt::Debug> std::fmt::Debug for UnderWay<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnderWay").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl<K: Ord + std::fmt::Debug> std::fmt::Debug for Guard<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guard").field(&self.backend).finish()
    }
}

/// Counts a request at the backend that `pick` finds, from before it is certain that the state which it was found in is still in
/// force; if it is not, picks again in the one that is. So whoever waits for a backend to drain, once a state without it is in force,
/// either finds the request counted, or the request finds that state. `None` if `pick` finds nobody.
pub fn enter<T, K: Ord + Clone>(
    in_force: &InForce<T>,
    under_way: &Arc<UnderWay<K>>,
    mut state: Arc<T>,
    mut pick: impl FnMut(&Arc<T>) -> Option<K>,
) -> Option<Guard<K>> {
    let mut guard = UnderWay::begin(under_way, pick(&state)?);
    loop {
        match in_force.current() {
            Some(current) if !Arc::ptr_eq(&current, &state) => state = current,
            _ => return Some(guard),
        }
        // The one before is counted until this one is.
        guard = UnderWay::begin(under_way, pick(&state)?);
    }
}
