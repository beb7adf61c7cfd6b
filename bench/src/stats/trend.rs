//! Slopes and autocorrelation: whether rounds drift or depend on each other.

use super::quantile::{mean, median};

/// Returns slope and intercept of the Theil–Sen line: the median of all pairwise slopes, and the intercept for which the line
/// passes through the medians. `None`: there are fewer than two different positions.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (index, (x, y)) in points.iter().enumerate() {
        let later = points[index + 1..].iter().filter(|(other, _)| other != x);
        slopes.extend(later.map(|(other_x, other_y)| (other_y - y) / (other_x - x)));
    }
    let slope = median(&slopes)?;
    let (xs, ys): (Vec<_>, Vec<_>) = points.iter().copied().unzip();
    Some((slope, median(&ys)? - slope * median(&xs)?))
}

/// Returns the correlation of each value with the next one. `None`: there are fewer than ten, or all are equal.
pub fn autocorrelation(values: &[f64]) -> Option<f64> {
    const MIN_VALUES: usize = 10;
    let centre = mean(values).filter(|_| values.len() >= MIN_VALUES)?;
    let variance: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    let product: f64 = values.windows(2).map(|pair| (pair[0] - centre) * (pair[1] - centre)).sum();
    (variance > 0.0).then(|| product / variance)
}
