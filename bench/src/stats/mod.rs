//! Statistics of samples and rounds. Pure: no clock, no files; random numbers come from a seeded generator.
//!
//! The unit of independence is the round. Samples of a round are first reduced to one value, and intervals are made of these
//! values. `quantile.rs` has locations, `interval.rs` intervals of medians and quantiles, `fraction.rs` those of fractions and
//! distributions, `trend.rs` slopes and autocorrelation, `ratio.rs` comparisons.

mod fraction;
mod interval;
mod quantile;
mod ratio;
mod trend;

#[cfg(test)]
mod coverage;
#[cfg(test)]
mod tests;

pub use fraction::{dkw_epsilon, wilson};
pub use interval::{Interval, MIN_BOOTSTRAP, MIN_ROUNDS, Method, median_interval, quantile_interval};
pub use quantile::{Location, is_supported, mean, median, quantile, sorted};
pub use ratio::{Comparison, EQUAL_WITHIN, Finding, compare, ratio_of_medians};
pub use trend::{autocorrelation, theil_sen};

/// Returns the generator of a purpose. Equal seeds and names give equal numbers, on every machine.
pub fn generator(seed: u64, purpose: &str) -> rand::rngs::Xoshiro256PlusPlus {
    use rand::SeedableRng as _;
    // FNV-1a, so that purposes do not share numbers.
    let hash = purpose
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed ^ hash)
}
