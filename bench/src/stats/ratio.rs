//! Comparisons: the ratio of two contestants within each round, so that the pairing is kept.

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

use super::{
    interval::{Interval, MIN_BOOTSTRAP, Method, RESAMPLES, median_interval},
    quantile::{median, quantile, sorted},
};

/// Two contestants are called equal if the whole interval of their ratio is within this distance of 1.
pub const EQUAL_WITHIN: f64 = 0.03;

/// What a comparison has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The interval lies above 1, and beyond the resolution of the run.
    Slower,
    /// The interval lies below 1, and beyond the resolution of the run.
    Faster,
    /// The interval is within ±3 % of 1, and the run can resolve as much.
    Equal,
    /// The difference is smaller than what the run can resolve.
    NotResolved,
    /// There are too few rounds for an interval.
    TooFewRounds,
}

/// The ratio of a contestant to the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Median of the ratios of the rounds.
    pub ratio: f64,
    /// Simultaneous interval.
    pub interval: Option<Interval>,
    /// What that means.
    pub finding: Finding,
}

/// Compares pairs (contestant, reference) of rounds at a simultaneous confidence of 95 % for `comparisons` of them.
/// `resolution` is the largest difference that the A/A control shows by chance; `None`: it is not known.
/// Returns `None` if there are no pairs.
pub fn compare(
    pairs: &[(f64, f64)],
    comparisons: usize,
    resolution: Option<f64>,
    random: &mut impl Rng,
) -> Option<Comparison> {
    let ratios: Vec<f64> = pairs.iter().filter(|(_, to)| *to > 0.0).map(|(this, to)| this / to).collect();
    let ratio = median(&ratios)?;
    // Bonferroni.
    let confidence = 1.0 - 0.05 / comparisons.max(1) as f64;
    let interval = median_interval(&ratios, confidence, random);
    let finding = interval.map_or(Finding::TooFewRounds, |interval| find(&interval, resolution));
    Some(Comparison { ratio, interval, finding })
}

/// Returns an interval of the ratio of two medians of independent rounds, `after` to `before`. From 20 rounds of both, the
/// bootstrap of both; from six, the ends of both intervals, each at half of the error. `None`: there are too few rounds.
pub fn ratio_of_medians(before: &[f64], after: &[f64], confidence: f64, random: &mut impl Rng) -> Option<Interval> {
    if before.len().min(after.len()) >= MIN_BOOTSTRAP {
        let ratios: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let mut resampled = |rounds: &[f64]| {
                    let drawn: Vec<f64> =
                        (0..rounds.len()).map(|_| rounds[random.random_range(0..rounds.len())]).collect();
                    median(&drawn)
                };
                let (one, other) = (resampled(before)?, resampled(after)?);
                (one > 0.0).then(|| other / one)
            })
            .collect();
        let (ratios, tail) = (sorted(ratios), (1.0 - confidence) / 2.0);
        let (low, high) = (quantile(&ratios, tail)?, quantile(&ratios, 1.0 - tail)?);
        return Some(Interval { low, high, confidence, method: Method::Bootstrap });
    }
    let each = 1.0 - (1.0 - confidence) / 2.0;
    let (one, other) = (median_interval(before, each, random)?, median_interval(after, each, random)?);
    let (low, high) = (other.low / one.high, other.high / one.low);
    (one.low > 0.0).then_some(Interval { low, high, confidence, method: Method::OrderStatistics })
}

fn find(interval: &Interval, resolution: Option<f64>) -> Finding {
    // Without a control, a difference is not told from one of the order or the place.
    let Some(resolution) = resolution else { return Finding::NotResolved };
    let (low, high) = (1.0 - EQUAL_WITHIN, 1.0 + EQUAL_WITHIN);
    match interval {
        Interval { low: from, high: to, .. } if *from >= low && *to <= high && resolution <= EQUAL_WITHIN => {
            Finding::Equal
        }
        Interval { low, .. } if *low > 1.0 + resolution => Finding::Slower,
        Interval { high, .. } if *high < 1.0 / (1.0 + resolution) => Finding::Faster,
        _ => Finding::NotResolved,
    }
}
