//! One line for each check, and the count at the end.

use std::io::Write as _;

/// What was checked so far.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failures: Vec<String>,
}

impl Report {
    /// A check: what was seen is said either way.
    pub fn check(&mut self, name: &str, holds: bool, seen: impl std::fmt::Display) {
        if holds {
            self.passed += 1;
            say(&format!("ok {name} — {seen}"));
        } else {
            let line = format!("FAILED {name} — {seen}");
            say(&line);
            self.failures.push(line);
        }
    }

    /// A check that cannot be made on this machine.
    pub fn skip(&mut self, name: &str, why: &str) {
        say(&format!("skipped: {name}: {why}"));
    }

    /// How many checks held.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// The checks that did not hold, as they were printed.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

/// A line on stdout. A reader that went away is no reason to stop before cleaning up.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
