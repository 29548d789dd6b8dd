use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

/// How often each claim is to be compared in a full run.
pub const ENOUGH: u64 = 500;
/// And in one that only has to be quick.
const A_FEW: u64 = 10;

/// How often each claim is to be compared where a full run takes too long for every day: [`ENOUGH`] times if `PLOYZ_CONFORMANCE` is
/// `full`, as `make conformance` sets it.
#[must_use]
pub fn wanted() -> u64 {
    if std::env::var("PLOYZ_CONFORMANCE").is_ok_and(|how| how == "full") { ENOUGH } else { A_FEW }
}

/// How often each claim of a model was compared, over everything that runs side by side.
#[derive(Debug)]
pub struct Tally<C> {
    all: Vec<C>,
    says: fn(C) -> &'static str,
    wanted: u64,
    counts: Mutex<BTreeMap<C, u64>>,
}

impl<C: Copy + Ord> Tally<C> {
    /// Nothing yet, of all of these claims; each is wanted so often.
    #[must_use]
    pub fn new(all: &[C], says: fn(C) -> &'static str, wanted: u64) -> Self {
        Self { all: all.to_vec(), says, wanted, counts: Mutex::default() }
    }

    /// The claim was compared once more.
    ///
    /// # Panics
    ///
    /// If it is none of the claims that are counted.
    pub fn count(&self, claim: C) {
        assert!(self.all.contains(&claim), "{} is not claimed", (self.says)(claim));
        *self.counts().entry(claim).or_default() += 1;
    }

    /// What was not compared often enough.
    #[must_use]
    pub fn missing(&self) -> Vec<C> {
        let counts = self.counts();
        let rare = |claim: &C| counts.get(claim).copied().unwrap_or(0) < self.wanted;
        self.all.iter().copied().filter(rare).collect()
    }

    /// A line for each claim with its count, as in the documentation.
    #[must_use]
    pub fn table(&self) -> String {
        let counts = self.counts();
        let mut table = String::from("| claim | compared |\n|---|---|\n");
        for claim in &self.all {
            let count = counts.get(claim).copied().unwrap_or(0);
            // Writing to a string can't fail.
            let _ = writeln!(table, "| {} | {count} |", (self.says)(*claim));
        }
        table
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<C, u64>> {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_compared_too_rarely_is_missing() {
        let says = |claim| if claim == 1 { "one" } else { "two" };
        let tally = Tally::new(&[1, 2], says, 2);
        for claim in [1, 2, 1] {
            tally.count(claim);
        }
        assert_eq!(tally.missing(), [2]);
        assert!(tally.table().ends_with("| one | 2 |\n| two | 1 |\n"), "{}", tally.table());
    }
}
