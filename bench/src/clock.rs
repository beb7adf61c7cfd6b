//! The clock of all time stamps: CLOCK_MONOTONIC, in nanoseconds.

use nix::time::{ClockId, clock_gettime};

/// Returns the present time. It is 0 only on a kernel without the clock, which Linux always has.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns nanoseconds as microseconds, rounded to a tenth: what samples are written with.
pub fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}
