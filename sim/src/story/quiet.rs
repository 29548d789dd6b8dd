//! Days on which nothing happens, in the middle of a story. Records of operations live for a week, so what a kill brings back of them is
//! brought back after more than that.
//!
//! The times in a story are those of its busy hours; what comes after quiet days comes that much later on the clock.

use std::time::Duration;

use super::{Story, What};

/// How long before the kill the quiet days are over, in milliseconds: operations are at work again when it comes.
const WAKES_BEFORE: u64 = 20_000;
const DAY: u64 = 24 * 3_600_000;

impl Story {
    /// When on the clock, in milliseconds, what the story plans for this time comes.
    #[must_use]
    pub fn on_the_clock(&self, at: u64) -> u64 {
        at + self.quiet().filter(|(from, _)| *from <= at).map(|(_, lasts)| lasts).sum::<u64>()
    }

    /// How long nothing happens in all.
    #[must_use]
    pub fn quiet_time(&self) -> Duration {
        Duration::from_millis(self.quiet().map(|(_, lasts)| lasts).sum())
    }

    /// Where in the story, and for how long, in milliseconds.
    fn quiet(&self) -> impl Iterator<Item = (u64, u64)> {
        self.faults.iter().filter_map(|fault| match fault.what {
            What::EndedKeysBack { days, .. } => {
                Some((fault.at.saturating_sub(WAKES_BEFORE), days * DAY))
            }
            _ => None,
        })
    }

    /// If this time on the clock, in milliseconds, is within quiet days: when they are over.
    #[must_use]
    pub fn quiet_until(&self, clock: u64) -> Option<u64> {
        let window = |(from, _)| {
            let earlier = self.quiet().filter(|(other, _)| *other < from);
            let begin = from + earlier.map(|(_, lasts)| lasts).sum::<u64>();
            // Those that begin at the same time follow one another.
            (begin, self.on_the_clock(from))
        };
        let windows = self.quiet().map(window);
        windows
            .filter(|(from, until)| (*from..*until).contains(&clock))
            .map(|(_, until)| until)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, VERSION};
    use super::*;

    #[test]
    fn what_is_planned_after_quiet_days_comes_that_much_later() {
        let back = What::EndedKeysBack { keys: 1, days: 2 };
        let story = Story {
            v: VERSION,
            seed: 0,
            nodes: 1,
            servers: 1,
            length: 100_000,
            request_every: 0,
            used: 0,
            operations: Vec::new(),
            faults: vec![Fault { at: 50_000, lasts: 0, what: back }],
            away: None,
            broke: None,
        };
        assert_eq!(story.on_the_clock(29_999), 29_999);
        assert_eq!(story.on_the_clock(30_000), 30_000 + 2 * DAY);
        assert_eq!(story.quiet_until(29_999), None);
        assert_eq!(story.quiet_until(30_000), Some(30_000 + 2 * DAY));
        assert_eq!(story.quiet_until(30_000 + 2 * DAY), None);
        assert_eq!(story.quiet_time(), Duration::from_millis(2 * DAY));
        let faults = [story.faults.clone(), story.faults.clone()].concat();
        let twice = Story { faults, ..story };
        assert_eq!(twice.quiet_until(30_000), Some(30_000 + 4 * DAY));
        assert_eq!(twice.quiet_until(30_000 + 4 * DAY), None);
    }
}
