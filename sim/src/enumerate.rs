//! Every run of a scenario within a budget: all choices, in order, on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proto_core::mutant::Mutant;

use crate::choice::{Choice, Choices};
use crate::fate::Budget;
use crate::run::{Prepared, Report};

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
    /// Only this invariant counts, by the beginning of its name.
    pub looking_for: Option<&'static str>,
    /// Bugs that are planted. Without the feature `mutants` there are none to plant.
    pub planted: Vec<Mutant>,
}

/// What an enumeration found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// How many runs there were.
    pub schedules: u64,
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
        self.schedules += 1;
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
        self.schedules += other.schedules;
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
    let mut own = Found::default();
    let broken = own.add(plain, settings.looking_for);
    stop.store(broken && settings.stop_at_first, Ordering::Relaxed);
    found.lock().expect("nobody has it yet").merge(own);
    let work = || {
        let mut mine = Found::default();
        while let Some(prefix) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut choices = Choices::exhaustive_from(prefix.clone());
            loop {
                if stop.load(Ordering::Relaxed) || begun.elapsed() > settings.within {
                    let mut all = found.lock().expect("a thread that panicked ended the run");
                    all.complete = false;
                    all.merge(mine);
                    return;
                }
                let report = prepared.run(&mut choices, settings.budget.clone(), false);
                if mine.add(report, settings.looking_for) && settings.stop_at_first {
                    stop.store(true, Ordering::Relaxed);
                }
                if !choices.advance() {
                    break;
                }
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
    found
}
