//! How long to wait after a failed attempt: random up to a bound that doubles ("full jitter").

use std::time::Duration;

/// Returns the wait after attempt `attempt`, counted from 1. `random` is from 0 to 1.
///
/// The wait is at least `least`, which the function or the platform asked for, whatever `most` says.
pub fn wait_after(attempt: u32, first: Duration, most: Duration, least: Option<Duration>, random: f64) -> Duration {
    let doubled =
        2u32.checked_pow(attempt.saturating_sub(1)).map_or(Duration::MAX, |factor| first.saturating_mul(factor));
    let bound = doubled.min(most);
    bound.mul_f64(random.clamp(0.0, 1.0)).max(least.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_most() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(300));
        let wait = |attempt, random| wait_after(attempt, first, most, None, random);
        assert_eq!(
            [1, 2, 3, 9, 10, 40, u32::MAX].map(|attempt| wait(attempt, 1.0).as_secs()),
            [1, 2, 4, 256, 300, 300, 300]
        );
        assert_eq!((wait(3, 0.5), wait(3, 0.0)), (Duration::from_secs(2), Duration::ZERO));
    }

    #[test]
    fn what_was_asked_for_is_waited_in_any_case() {
        let asked = Some(Duration::from_secs(90));
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(10));
        assert_eq!(wait_after(1, first, most, asked, 1.0), Duration::from_secs(90));
        assert_eq!(wait_after(1, Duration::ZERO, most, None, 1.0), Duration::ZERO);
    }
}
