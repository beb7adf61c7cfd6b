//! Confidence intervals of medians and quantiles of rounds.
//!
//! From 20 rounds on, the percentile bootstrap of rounds. Between 6 and 19, the order statistics of the rounds, whose coverage
//! is exact: the bootstrap covers too little there. Below six rounds there is no interval.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::quantile::{is_supported, quantile, sorted};

/// Rounds from which on an interval is the bootstrap's.
pub const MIN_BOOTSTRAP: usize = 20;
/// Rounds from which on there is an interval at 95 %.
pub const MIN_ROUNDS: usize = 6;
/// Resamples of the bootstrap.
pub(super) const RESAMPLES: usize = 10_000;

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Percentile bootstrap of rounds.
    Bootstrap,
    /// Order statistics of the rounds.
    OrderStatistics,
}

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence, such as 0.95; of order statistics the exact one, which is at least what was asked for.
    pub confidence: f64,
    /// How it was made.
    pub method: Method,
}

impl Interval {
    /// Returns whether a value is inside.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// Returns an interval of the median of rounds. `None`: there are too few rounds for this confidence.
pub fn median_interval(rounds: &[f64], confidence: f64, random: &mut impl Rng) -> Option<Interval> {
    if rounds.len() < MIN_BOOTSTRAP {
        return order_statistics(rounds, confidence);
    }
    Some(bootstrap(rounds, 0.5, confidence, RESAMPLES, random))
}

/// Returns an interval of a tail quantile of rounds. `None`: there are too few rounds.
pub fn quantile_interval(rounds: &[f64], q: f64, confidence: f64, random: &mut impl Rng) -> Option<Interval> {
    let is_enough = rounds.len() >= MIN_BOOTSTRAP && is_supported(rounds.len(), q);
    is_enough.then(|| bootstrap(rounds, q, confidence, RESAMPLES, random))
}

/// Returns the narrowest symmetric interval of order statistics that covers the median with at least `confidence`.
fn order_statistics(rounds: &[f64], confidence: f64) -> Option<Interval> {
    let values = sorted(rounds.to_vec());
    let count = values.len();
    // P(Binomial(n, 1/2) <= k), summed up as k grows.
    let (mut below, mut term, mut best) = (0.0, 0.5_f64.powi(count as i32), None);
    for k in 0..count / 2 {
        below += term;
        let covered = 1.0 - 2.0 * below;
        if covered < confidence {
            break;
        }
        best = Some((k, covered));
        term *= (count - k) as f64 / (k + 1) as f64;
    }
    let (k, confidence) = best?;
    Some(Interval { low: values[k], high: values[count - 1 - k], confidence, method: Method::OrderStatistics })
}

/// Returns the percentile bootstrap interval of a quantile.
pub(super) fn bootstrap(rounds: &[f64], q: f64, confidence: f64, resamples: usize, random: &mut impl Rng) -> Interval {
    let values = sorted(rounds.to_vec());
    let mut counts = vec![0_u32; values.len()];
    let estimates = (0..resamples).map(|_| {
        counts.fill(0);
        for _ in 0..values.len() {
            counts[random.random_range(0..values.len())] += 1;
        }
        quantile_of_counts(&values, &counts, q)
    });
    let estimates = sorted(estimates.collect());
    let tail = (1.0 - confidence) / 2.0;
    let at = |q| quantile(&estimates, q).unwrap_or(f64::NAN);
    Interval { low: at(tail), high: at(1.0 - tail), confidence, method: Method::Bootstrap }
}

/// Returns the quantile of values that occur `counts` times each. Saves sorting each resample.
fn quantile_of_counts(values: &[f64], counts: &[u32], q: f64) -> f64 {
    let position = q * (values.len() - 1) as f64;
    let below = position.floor();
    let (mut passed, mut low) = (0.0, None);
    for (value, count) in values.iter().zip(counts) {
        passed += f64::from(*count);
        if low.is_none() && passed > below {
            low = Some(*value);
        }
        if let Some(low) = low
            && passed > below + 1.0
        {
            return low + (position - below) * (value - low);
        }
    }
    low.unwrap_or(f64::NAN)
}
