//! Lengths of time as people write them: `250ms`, `5s`, `2m`, `1h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole milliseconds, written as `<number><unit>` with unit `ms`, `s`, `m` or `h`.
///
/// Range: 0 to 30 days. The written form is canonical (the largest unit that divides it), so equal
/// spans have equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(u64);

const MAX_MILLIS: u64 = 30 * 24 * 3_600_000;

impl Span {
    /// A span of `millis` milliseconds, or 30 days if that is less: a longer one could be written and not be read again.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        if millis > MAX_MILLIS { Self(MAX_MILLIS) } else { Self(millis) }
    }

    /// A span of `secs` seconds, or 30 days if that is less.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Whole milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The same length as a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// Why a text is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write a whole number with ms, s, m or h, up to 30 days, for example \"5s\""
)]
pub struct SpanError(String);

impl std::str::FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError(text.to_owned());
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| error())?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        match number.checked_mul(factor) {
            Some(millis) if millis <= MAX_MILLIS => Ok(Self(millis)),
            _ => Err(error()),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_span_reads_back_and_keeps_its_order(a in any::<u64>(), b in 0..2 * MAX_MILLIS) {
            let (a, b) = (Span::from_millis(a), Span::from_millis(b));
            prop_assert_eq!(a.to_string().parse::<Span>(), Ok(a));
            prop_assert!(a.as_millis() <= MAX_MILLIS && b.as_millis() <= MAX_MILLIS);
            prop_assert_eq!(a < b, a.as_millis() < b.as_millis());
        }

        #[test]
        fn a_text_is_a_span_only_as_a_number_and_a_unit(text in "[0-9]{0,12}[a-z ]{0,2}") {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let factor = match &text[digits..] { "ms" => 1, "s" => 1000, "m" => 60_000, "h" => 3_600_000, _ => 0 };
            let millis = text[..digits].parse::<u64>().ok().map(|n| n * factor);
            let wanted = millis.filter(|millis| factor > 0 && *millis <= MAX_MILLIS);
            prop_assert_eq!(text.parse::<Span>().ok().map(Span::as_millis), wanted, "{}", text);
        }
    }

    #[test]
    fn spans_are_written_in_their_largest_whole_unit() {
        for (text, canonical) in
            [("1500ms", "1500ms"), ("60s", "1m"), ("120m", "2h"), ("0ms", "0s"), ("90s", "90s")]
        {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn every_span_that_can_be_made_can_be_read() {
        for span in [Span::from_millis(u64::MAX), Span::from_secs(u64::MAX), Span::from_secs(0)] {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!(Span::from_secs(u64::MAX).to_string(), "720h");
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "5", "s", "-1s", "5 s", "99999999999999999999s", "721h", "1.5s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
