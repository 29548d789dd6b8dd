//! Repeated measurements: the median, and from where to where they went.

/// Measurements of one thing, in one unit.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one; of an even number the mean of the two in the middle. NaN without any.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest and the largest. NaN without any.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let nan = f64::NAN;
        (sorted.first().copied().unwrap_or(nan), sorted.last().copied().unwrap_or(nan))
    }

    /// `median (smallest–largest)`, with so many decimals.
    #[must_use]
    pub fn show(&self, decimals: usize) -> String {
        let (low, high) = self.spread();
        format!("{:.decimals$} ({low:.decimals$}–{high:.decimals$})", self.median())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        for value in [4.0, 1.0, 9.0] {
            samples.push(value);
        }
        assert_eq!(samples.show(1), "4.0 (1.0–9.0)");
        samples.push(5.0);
        assert_eq!(samples.show(1), "4.5 (1.0–9.0)");
    }
}
