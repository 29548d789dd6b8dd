//! Every run of a scenario within a budget: all choices, in order, on all cores.
//!
//! | module | holds |
//! |---|---|
//! | here | what is told and found, and the threads |
//! | `explore` | the runs that begin alike, one after the other |
//! | `meetings` | states that several runs come to |

mod explore;
mod meetings;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proto_core::mutant::Mutant;

use crate::choice::{Choice, Choices};
use crate::fate::Budget;
use crate::run::{Prepared, Report};

use explore::{Made, explore};
use meetings::Meetings;

/// What an enumeration is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How much goes wrong.
    pub budget: Budget,
    /// How many threads.
    pub threads: usize,
    /// Ends after this time, and says so.
    pub within: Duration,
    /// Ends with the first violation.
    pub stop_at_first: bool,
    /// A run that comes to a state where another has been is not made any further.
    pub merge: bool,
    /// Only this invariant counts, by the beginning of its name.
    pub looking_for: Option<&'static str>,
    /// Bugs that are planted. Without the feature `mutants` there are none to plant.
    pub planted: Vec<Mutant>,
}

/// What an enumeration found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// How many runs there are: those that were made to their end, and for each that met another what it would have come to.
    pub schedules: u64,
    /// How many runs were made to their end.
    pub ended: u64,
    /// How many came to a state where another had been.
    pub met: u64,
    /// How many states there were at which runs may meet.
    pub states: u64,
    /// How many of them broke something.
    pub broken: u64,
    /// For each invariant that was broken first in a run, the run with the fewest crashes, and of those the first found.
    pub examples: BTreeMap<&'static str, Report>,
    /// How many runs ended how.
    pub ends: BTreeMap<&'static str, u64>,
    /// The most effects of a run.
    pub most_effects: u64,
    /// How long it took.
    pub took: Duration,
    /// Every run within the budget was made.
    pub complete: bool,
}

impl Found {
    fn add(&mut self, report: Report, looking_for: Option<&str>) -> bool {
        self.ended += 1;
        self.most_effects = self.most_effects.max(report.effects);
        *self.ends.entry(report.ended).or_default() += 1;
        let counts = |name: &str| looking_for.is_none_or(|wanted| name.starts_with(wanted));
        let Some(first) = report.violations.iter().find(|found| counts(found.invariant)) else {
            return false;
        };
        self.broken += 1;
        let fewer =
            self.examples.get(first.invariant).is_none_or(|other| report.crashes < other.crashes);
        if fewer {
            self.examples.insert(first.invariant, report);
        }
        true
    }

    fn merge(&mut self, other: Self) {
        self.ended += other.ended;
        self.met += other.met;
        self.complete &= other.complete;
        self.broken += other.broken;
        self.most_effects = self.most_effects.max(other.most_effects);
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        for (invariant, report) in other.examples {
            let fewer =
                self.examples.get(invariant).is_none_or(|mine| report.crashes < mine.crashes);
            if fewer {
                self.examples.insert(invariant, report);
            }
        }
    }
}

/// Runs `body` with bugs planted.
#[cfg(feature = "mutants")]
pub fn with_planted<T>(planted: &[Mutant], body: impl FnOnce() -> T) -> T {
    proto_core::mutant::with(planted, body)
}

/// Runs `body`; there are no bugs to plant in this build.
///
/// # Panics
///
/// If some are to be planted nevertheless.
#[cfg(not(feature = "mutants"))]
pub fn with_planted<T>(planted: &[Mutant], body: impl FnOnce() -> T) -> T {
    assert!(planted.is_empty(), "planting bugs needs the feature `mutants`");
    body()
}

/// Makes every run of the scenario within the budget.
#[must_use]
pub fn enumerate(prepared: &Prepared, settings: &Settings) -> Found {
    let begun = Instant::now();
    let plain = with_planted(&settings.planted, || {
        prepared.run(&mut Choices::recorded(Vec::new()), settings.budget.clone(), false)
    });
    // Every run but this one differs from it first at one place, in one way: a job each.
    let answers = plain.taken.clone();
    let jobs: Vec<Vec<Choice>> = answers
        .iter()
        .enumerate()
        .flat_map(|(at, choice)| (1..choice.bound).map(move |value| (at, value)))
        .map(|(at, value)| {
            let mut prefix = answers[..=at].to_vec();
            prefix[at].value = value;
            prefix
        })
        .collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found = Mutex::new(Found { complete: true, ..Found::default() });
    let mut own = Found { complete: true, ..Found::default() };
    let broken = own.add(plain, settings.looking_for);
    stop.store(broken && settings.stop_at_first, Ordering::Relaxed);
    found.lock().expect("nobody has it yet").merge(own);
    let meetings = settings.merge.then(Meetings::default);
    if let Some(meetings) = &meetings {
        meetings.end(None);
    }
    let work = || {
        let mut mine = Found { complete: true, ..Found::default() };
        while let Some(begins) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let stopped =
                explore(prepared, begins.clone(), &settings.budget, meetings.as_ref(), |made| {
                    match made {
                        Made::Met => mine.met += 1,
                        Made::Ended(report) => {
                            let broken = mine.add(*report, settings.looking_for);
                            stop.fetch_or(broken && settings.stop_at_first, Ordering::Relaxed);
                        }
                    }
                    let late = begun.elapsed() > settings.within;
                    if late || stop.load(Ordering::Relaxed) {
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                });
            if stopped.is_break() {
                mine.complete = false;
                break;
            }
        }
        found.lock().expect("a thread that panicked ended the run").merge(mine);
    };
    std::thread::scope(|scope| {
        for _ in 0..settings.threads.max(1) {
            scope.spawn(|| with_planted(&settings.planted, work));
        }
    });
    let mut found = found.into_inner().expect("every thread has ended well");
    found.took = begun.elapsed();
    found.schedules = meetings.as_ref().map_or(found.ended, Meetings::runs);
    found.states = meetings.as_ref().map_or(0, |meetings| meetings.states() as u64);
    found
}

#[cfg(test)]
mod tests;
