//! Answers as text for people. Nothing here asks or decides; every function is a value in, a text out.

pub(crate) mod commit;
pub(crate) mod operation;
pub(crate) mod plan;
pub(crate) mod status;

/// `1 service`, `2 services`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A length of time as people say it: its two largest units.
pub(crate) fn ago(millis: u64) -> String {
    let secs = millis / 1000;
    match (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, ..) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_their_two_largest_units() {
        let said = [999, 61_000, 3_720_000, 90_000_000].map(ago);
        assert_eq!(said, ["0s", "1m1s", "1h2m", "1d1h"]);
    }
}
