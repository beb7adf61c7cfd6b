//! Intervals of fractions and of whole distributions.

/// Quantile of the standard normal distribution for 95 % on both sides.
const Z: f64 = 1.959_963_984_540_054;

/// Returns Wilson's 95 % interval of a fraction. `None`: there are no trials.
pub fn wilson(successes: usize, trials: usize) -> Option<(f64, f64)> {
    if trials == 0 {
        return None;
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let centre = p + Z * Z / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Some((((centre - reach) / scale).max(0.0), ((centre + reach) / scale).min(1.0)))
}

/// Returns half the height of the Dvoretzky–Kiefer–Wolfowitz band at 95 %: the true distribution function lies entirely
/// within that distance of the observed one.
pub fn dkw_epsilon(count: usize) -> f64 {
    ((2.0_f64 / 0.05).ln() / (2.0 * count as f64)).sqrt()
}
