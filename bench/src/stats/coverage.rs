//! Simulation: 95 % intervals cover the true median as often as they say, and the A/A control finds few false differences.
//!
//! Samples are log-normal, with the round as a cluster: samples of one round share an offset. The seed is fixed, so the test
//! has one outcome.

use rand::{Rng, RngExt};

use super::*;

const EXPERIMENTS: usize = 1_000;
/// Fewer than a run has, so that the test takes seconds.
const RESAMPLES: usize = 400;
const SAMPLES_PER_ROUND: usize = 5;

/// Returns a normal variate, by Box and Muller.
fn normal(random: &mut impl Rng) -> f64 {
    let (angle, radius): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Returns the medians of rounds. The true median is `centre`.
fn rounds(count: usize, centre: f64, random: &mut impl Rng) -> Vec<f64> {
    let round = |_| {
        let shared = 0.2 * normal(random);
        let samples: Vec<_> = (0..SAMPLES_PER_ROUND).map(|_| centre * (shared + 0.5 * normal(random)).exp()).collect();
        median(&samples).unwrap()
    };
    (0..count).map(round).collect()
}

fn interval_of(values: &[f64], random: &mut impl Rng) -> Interval {
    if values.len() < MIN_BOOTSTRAP {
        median_interval(values, 0.95, random).unwrap()
    } else {
        interval::bootstrap(values, 0.5, 0.95, RESAMPLES, random)
    }
}

#[test]
fn intervals_cover_the_true_median() {
    let mut random = generator(20_240_301, "coverage");
    for count in [6, 20, 100] {
        let covers = |_: &usize| interval_of(&rounds(count, 3.0, &mut random), &mut random).contains(3.0);
        let covered = (0..EXPERIMENTS).filter(covers).count();
        let share = covered as f64 / EXPERIMENTS as f64;
        assert!((0.92..=0.98).contains(&share), "{count} rounds: {share}");
    }
}

#[test]
fn equal_contestants_seldom_differ() {
    let mut random = generator(7, "A/A");
    for count in [6, 20, 100] {
        let differs = |_: &usize| {
            let (this, that) = (rounds(count, 3.0, &mut random), rounds(count, 3.0, &mut random));
            let ratios: Vec<_> = this.iter().zip(&that).map(|(this, that)| this / that).collect();
            !interval_of(&ratios, &mut random).contains(1.0)
        };
        let share = (0..EXPERIMENTS).filter(differs).count() as f64 / EXPERIMENTS as f64;
        assert!(share <= 0.07, "{count} rounds: {share}");
    }
}
