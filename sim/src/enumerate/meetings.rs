//! Where runs meet: states that a run came to, and what is below each.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// The state that stands for the beginning.
const BEGIN: u64 = 0;

/// The states that runs came to. A run that comes to one where another has been goes on as that did, so it need not be made any further;
/// what it would have come to is counted.
#[derive(Debug, Default)]
pub(super) struct Meetings(Mutex<BTreeMap<u64, Below>>);

/// What is below a state, up to the next ones.
#[derive(Debug, Default)]
struct Below {
    /// How many runs ended.
    ended: u64,
    /// The states that runs came to, once for each run that did.
    next: Vec<u64>,
}

impl Meetings {
    /// A run comes to this state, from that one; whether it is the first.
    pub(super) fn come(&self, from: Option<u64>, state: u64) -> bool {
        let mut there = self.lock();
        there.entry(from.unwrap_or(BEGIN)).or_default().next.push(state);
        let known = there.contains_key(&state);
        if !known {
            there.insert(state, Below::default());
        }
        !known
    }

    /// Whether a run came to this state.
    pub(super) fn knows(&self, state: u64) -> bool {
        self.lock().contains_key(&state)
    }

    /// A run ends, and this is the last state that it came to.
    pub(super) fn end(&self, from: Option<u64>) {
        self.lock().entry(from.unwrap_or(BEGIN)).or_default().ended += 1;
    }

    /// How many runs there are, those that were not made to their end counted as often as they would have ended.
    pub(super) fn runs(&self) -> u64 {
        let there = self.lock();
        let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
        // A state is counted when everything below it is.
        let mut open = vec![(BEGIN, false)];
        while let Some((state, counted)) = open.pop() {
            let Some(below) = there.get(&state).filter(|_| !runs.contains_key(&state)) else {
                continue;
            };
            if counted {
                let next = below.next.iter().filter_map(|next| runs.get(next));
                runs.insert(state, below.ended + next.sum::<u64>());
            } else {
                open.push((state, true));
                open.extend(below.next.iter().map(|next| (*next, false)));
            }
        }
        runs.get(&BEGIN).copied().unwrap_or(0)
    }

    /// How many states there are.
    pub(super) fn states(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Below>> {
        self.0.lock().expect("no thread panics with it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_meets_another_counts_for_all_that_is_below() {
        let meetings = Meetings::default();
        assert!(meetings.come(None, 7));
        assert!(meetings.come(Some(7), 8));
        meetings.end(Some(8));
        meetings.end(Some(8));
        meetings.end(Some(7));
        assert!(!meetings.come(None, 8));
        assert!(!meetings.come(None, 7));
        meetings.end(None);
        assert_eq!(meetings.runs(), 3 + 2 + 3 + 1);
    }
}
