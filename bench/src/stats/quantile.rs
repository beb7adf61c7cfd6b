//! Quantiles, and the location and spread of a set of samples.

use serde::{Deserialize, Serialize};

/// Samples that must lie beyond a tail quantile before it is printed.
const MIN_BEYOND: f64 = 5.0;
/// Factor of the interquartile range beyond which a sample counts as an outlier.
const OUTLIER_FACTOR: f64 = 3.0;

/// Returns the values in ascending order.
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the quantile `q` of sorted values by linear interpolation (type 7 of Hyndman and Fan). `None`: there are none.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (position - below as f64) * (high - low))
}

/// Returns the median of values in any order.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values.to_vec()), 0.5)
}

/// Returns the arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns whether `count` samples are enough for the tail quantile `q`: n·(1-q) ≥ 5.
pub fn is_supported(count: usize, q: f64) -> bool {
    // Tolerates that 1 - 0.95 is not exact.
    count as f64 * (1.0 - q) >= MIN_BEYOND - 1e-9
}

/// Location and spread of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Number of samples.
    pub count: usize,
    /// Median.
    pub median: f64,
    /// First quartile.
    pub lower_quartile: f64,
    /// Third quartile.
    pub upper_quartile: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// Arithmetic mean, for comparison with publications that have means.
    pub mean: f64,
    /// 95th percentile, if there are enough samples.
    pub p95: Option<f64>,
    /// 99th percentile, if there are enough samples.
    pub p99: Option<f64>,
    /// Samples more than 3 interquartile ranges outside of the quartiles. They are not removed.
    pub outliers: usize,
}

impl Location {
    /// Returns the location of samples. `None`: there are none.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let values = sorted(values);
        let at = |q| quantile(&values, q);
        let tail = |q| at(q).filter(|_| is_supported(values.len(), q));
        let (lower, upper) = (at(0.25)?, at(0.75)?);
        let reach = OUTLIER_FACTOR * (upper - lower);
        let is_outlier = |value: &&f64| **value < lower - reach || **value > upper + reach;
        Some(Self {
            count: values.len(),
            median: at(0.5)?,
            lower_quartile: lower,
            upper_quartile: upper,
            min: *values.first()?,
            max: *values.last()?,
            mean: mean(&values)?,
            p95: tail(0.95),
            p99: tail(0.99),
            outliers: values.iter().filter(is_outlier).count(),
        })
    }
}
