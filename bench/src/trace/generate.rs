//! A synthetic trace, in the form that Shahrad et al. found in Azure Functions (Serverless in the Wild, USENIX ATC 2020):
//! most functions are invoked rarely, and a few of them often.

use std::f64::consts::{PI, TAU};

use rand::{Rng, RngExt as _, seq::SliceRandom as _};

use super::{Invocation, MAX_DURATION_MS, Trace};
use crate::stats::generator;

/// Decimal logarithm of invocations per second: a normal distribution through two points of the paper's figure 5. 45 % of
/// the applications are invoked once per hour or less, and 81 % once per minute or less.
const RATE: (f64, f64) = (-3.334, 1.772);
/// Natural logarithm of the mean seconds that functions work: the fit of the paper's figure 7.
const DURATION: (f64, f64) = (-0.38, 2.36);
/// Shares of functions with periodic and with bursty arrivals; those of the others are a Poisson process. The paper has
/// timers in 29 % of the applications, and 40 % whose gaps vary more than those of a Poisson process.
const PERIODIC: f64 = 0.3;
const BURSTY: f64 = 0.2;
/// Amplitude of the day in the rate of a Poisson process: the least rate is half of the largest one, as in figure 4.
const DAY: f64 = 1.0 / 3.0;
const DAY_SECONDS: f64 = 86_400.0;
/// Squared coefficient of variation of bursty gaps.
const BURSTY_VARIATION: f64 = 9.0;
/// Share of the load that a single function may be.
const MAX_SHARE: f64 = 0.2;

/// How large a trace is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Functions, of which some may have no invocation.
    pub functions: u32,
    /// Minutes.
    pub minutes: u32,
    /// Processors that all functions together keep busy, on average. Longer work is shortened.
    pub load: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { functions: 50, minutes: 20, load: 0.3 }
    }
}

/// How a function is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Periodic,
    Poisson,
    Bursty,
}

/// Returns the trace of a seed.
pub fn generate(shape: &Shape, seed: u64) -> Trace {
    let mut random = generator(seed, "synthetic trace");
    let count = shape.functions as usize;
    // Quantiles instead of draws: a single draw of the upper tail would decide about the size of the trace.
    let mut rates: Vec<f64> = (0..count)
        .map(|place| 10_f64.powf(RATE.0 + RATE.1 * normal_quantile((place as f64 + 0.5) / count as f64)))
        .collect();
    rates.shuffle(&mut random);
    let mut durations: Vec<f64> = rates
        .iter()
        .map(|rate| {
            let seconds = (DURATION.0 + DURATION.1 * normal(&mut random)).exp();
            seconds.min(MAX_SHARE * shape.load / rate)
        })
        .collect();
    let demand: f64 = rates.iter().zip(&durations).map(|(rate, seconds)| rate * seconds).sum();
    let factor = (shape.load / demand).min(1.0);
    durations.iter_mut().for_each(|seconds| *seconds *= factor);
    let mut invocations = Vec::new();
    for (place, (rate, seconds)) in rates.into_iter().zip(durations).enumerate() {
        let share = (place as f64 + 0.5) / count as f64;
        let kind = match share {
            _ if share < PERIODIC => Kind::Periodic,
            _ if share < PERIODIC + BURSTY => Kind::Bursty,
            _ => Kind::Poisson,
        };
        let function: std::sync::Arc<str> = format!("f{:0width$}", place + 1, width = count.to_string().len()).into();
        let duration_ms = (seconds * 1000.0).clamp(1.0, MAX_DURATION_MS);
        let times = arrivals(kind, rate, f64::from(shape.minutes) * 60.0, &mut random);
        invocations.extend(times.into_iter().map(|time_s| Invocation {
            time_s,
            function: function.clone(),
            duration_ms,
            memory_mib: None,
        }));
    }
    Trace::of(invocations)
}

/// Returns the times of a function's invocations.
fn arrivals(kind: Kind, rate: f64, end: f64, random: &mut impl Rng) -> Vec<f64> {
    let mut times = Vec::new();
    // The trace begins at a random moment of a gap.
    let mut at = gap(kind, rate, random) * random.random::<f64>();
    while at < end {
        let day = (1.0 + DAY * (TAU * at / DAY_SECONDS).sin()) / (1.0 + DAY);
        // Thinning: candidates come at the largest rate of the day.
        if kind != Kind::Poisson || random.random::<f64>() < day {
            times.push(at);
        }
        at += gap(kind, rate, random);
    }
    times
}

/// Returns the time to the next invocation.
fn gap(kind: Kind, rate: f64, random: &mut impl Rng) -> f64 {
    let mut exponential = |rate: f64| -(1.0 - random.random::<f64>()).ln() / rate;
    match kind {
        Kind::Periodic => 1.0 / rate,
        Kind::Poisson => exponential(rate * (1.0 + DAY)),
        Kind::Bursty => {
            // A hyperexponential distribution with balanced means.
            let often = 0.5 * (1.0 + ((BURSTY_VARIATION - 1.0) / (BURSTY_VARIATION + 1.0)).sqrt());
            let (short, long) = (exponential(2.0 * often * rate), exponential(2.0 * (1.0 - often) * rate));
            if random.random::<f64>() < often { short } else { long }
        }
    }
}

/// Returns a number of the standard normal distribution (Box and Muller).
fn normal(random: &mut impl Rng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (2.0 * PI * angle).cos()
}

/// Returns a quantile of the standard normal distribution, by bisection of its distribution function.
fn normal_quantile(q: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if normal_cdf(middle) < q { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Returns the distribution function of the standard normal distribution, by its series around zero.
fn normal_cdf(z: f64) -> f64 {
    if z.abs() > 6.0 {
        return if z > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut n) = (z, z, 1.0);
    while term.abs() > 1e-15 {
        term *= z * z / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    0.5 + sum * (-z * z / 2.0).exp() / TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution_are_those_of_tables() {
        for (q, z) in [(0.5, 0.0), (0.975, 1.959_964), (0.01, -2.326_348), (0.45, -0.125_661), (0.81, 0.877_896)] {
            assert!((normal_quantile(q) - z).abs() < 1e-5, "{q}: {}", normal_quantile(q));
        }
        // The two points of the paper.
        let per_second = |q| 10_f64.powf(RATE.0 + RATE.1 * normal_quantile(q));
        assert!((per_second(0.45) * 3600.0 - 1.0).abs() < 0.01 && (per_second(0.81) * 60.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn gaps_have_their_mean_and_variation() {
        for (kind, variation) in [(Kind::Periodic, 0.0), (Kind::Bursty, BURSTY_VARIATION)] {
            let mut random = generator(3, "gaps");
            let gaps: Vec<f64> = (0..200_000).map(|_| gap(kind, 4.0, &mut random)).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let square = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean - 0.25).abs() < 0.005, "{kind:?}: {mean}");
            assert!((square / mean.powi(2) - variation).abs() < 0.4, "{kind:?}: {}", square / mean.powi(2));
        }
        let times = arrivals(Kind::Poisson, 0.5, 4.0 * DAY_SECONDS, &mut generator(3, "days"));
        let expected = 0.5 * 4.0 * DAY_SECONDS;
        assert!((times.len() as f64 / expected - 1.0).abs() < 0.01, "{}", times.len());
        let in_half = |half: u64| times.iter().filter(|at| (*at / DAY_SECONDS * 2.0) as u64 % 2 == half).count() as f64;
        // The mean of a sine over its half is 2/π.
        let ratio = in_half(0) / in_half(1);
        let wanted = (1.0 + DAY * 2.0 / PI) / (1.0 - DAY * 2.0 / PI);
        assert!((ratio / wanted - 1.0).abs() < 0.03, "{ratio} and {wanted}");
    }
}
