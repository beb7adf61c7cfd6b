//! Whether a difference is one, and which.

use crate::stats::Interval;

/// What is said about a median.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The whole interval is beyond the threshold, on the worse side.
    Regression,
    /// The whole interval is beyond the threshold, on the better side.
    Improvement,
    /// No difference of that size is shown.
    NoDifference,
}

impl Change {
    /// Returns its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regression => "**worse**",
            Self::Improvement => "better",
            Self::NoDifference => "no difference found",
        }
    }
}

/// Judges the ratio of the later to the earlier median. Differences up to `least` do not count.
pub fn change(ratio: Interval, more_is_better: bool, least: f64) -> Change {
    let grown = ratio.low > 1.0 + least;
    let shrunk = ratio.high < 1.0 / (1.0 + least);
    match (grown, shrunk) {
        (true, _) if more_is_better => Change::Improvement,
        (true, _) => Change::Regression,
        (_, true) if more_is_better => Change::Regression,
        (_, true) => Change::Improvement,
        _ => Change::NoDifference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Method;

    #[test]
    fn only_whole_intervals_beyond_the_threshold_count() {
        let of =
            |low, high, more| change(Interval { low, high, confidence: 0.95, method: Method::Bootstrap }, more, 0.05);
        assert_eq!(of(1.06, 1.2, false), Change::Regression);
        assert_eq!(of(1.04, 1.2, false), Change::NoDifference);
        assert_eq!(of(0.8, 0.9, false), Change::Improvement);
        assert_eq!(of(0.8, 0.9, true), Change::Regression);
        assert_eq!(of(1.06, 1.2, true), Change::Improvement);
        assert_eq!(of(0.94, 0.96, false), Change::NoDifference);
    }
}
