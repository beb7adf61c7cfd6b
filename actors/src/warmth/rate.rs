//! How often something happens. Pure.

use std::{f64::consts::LN_2, time::Duration};

use tokio::time::Instant;

/// After this time, an event counts half.
const HALF_LIFE: Duration = Duration::from_secs(3600);
/// Least time for which events are taken to have been counted: a single one says little.
const LEAST_OBSERVED: Duration = Duration::from_secs(300);

/// Counts events, of which older ones count less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventRate {
    since: Instant,
    /// The events so far, at the time of the last one.
    weight: f64,
    last: Instant,
}

impl EventRate {
    /// Counts from now on.
    pub fn begin(now: Instant) -> Self {
        Self { since: now, weight: 0.0, last: now }
    }

    pub fn note(&mut self, now: Instant) {
        self.weight = self.weight * self.left_of(now - self.last) + 1.0;
        self.last = now;
    }

    /// Returns how many events there are per second.
    pub fn per_second(&self, now: Instant) -> f64 {
        let observed = (now - self.since).max(LEAST_OBSERVED);
        let whole = HALF_LIFE.as_secs_f64() / LN_2 * (1.0 - self.left_of(observed));
        self.weight * self.left_of(now - self.last) / whole
    }

    fn left_of(&self, passed: Duration) -> f64 {
        (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// Least age of an instance: what it has served before says little.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// How an idle instance was used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// How often instances of the function are started or resumed, per second.
    pub comebacks: f64,
    /// How many there are.
    pub instances: usize,
    /// It runs, so requests find it without its function being asked.
    pub runs: bool,
    /// Requests that it has served.
    pub served: u64,
    pub age: Duration,
    pub idle_for: Duration,
}

impl Use {
    /// Estimates how often the instance is wanted, per second. Not more often than it was, since it is idle.
    pub fn rate(&self) -> f64 {
        let comebacks = self.comebacks / self.instances.max(1) as f64;
        let served = if self.runs { self.served as f64 / self.age.max(LEAST_AGE).as_secs_f64() } else { 0.0 };
        comebacks.max(served).min(1.0 / self.idle_for.max(Duration::from_secs(1)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_events(count: u32, gap: Duration) -> (EventRate, Instant) {
        let mut now = Instant::now();
        let mut rate = EventRate::begin(now);
        for _ in 0..count {
            now += gap;
            rate.note(now);
        }
        (rate, now)
    }

    #[test]
    fn a_steady_rate_is_found() {
        for (count, gap) in [(20, 60), (1_000, 60), (50, 600), (10_000, 1)] {
            let (rate, now) = after_events(count, Duration::from_secs(gap));
            let estimate = rate.per_second(now) * gap as f64;
            assert!((0.8..1.2).contains(&estimate), "{estimate} times the rate after {count} in {gap} s each");
        }
    }

    #[test]
    fn an_instance_is_wanted_as_often_as_it_was() {
        let (age, idle_for) = (Duration::from_secs(600), Duration::from_secs(30));
        let paused = Use { comebacks: 0.01, instances: 2, runs: false, served: 600, age, idle_for };
        assert_eq!(paused.rate(), 0.005);
        let running = Use { runs: true, served: 6, ..paused };
        assert_eq!(running.rate(), 0.01);
        assert_eq!(Use { served: 600, ..running }.rate(), 1.0 / 30.0, "it is idle");
    }

    #[test]
    fn a_rate_decays_and_a_single_event_says_little() {
        let (rate, now) = after_events(1_000, Duration::from_secs(10));
        let later = rate.per_second(now + HALF_LIFE) / rate.per_second(now);
        assert!((0.4..0.6).contains(&later), "{later}");
        let (rate, now) = after_events(1, Duration::from_secs(1));
        assert!(rate.per_second(now) < 1.0 / 250.0, "{}", rate.per_second(now));
        let now = Instant::now();
        assert_eq!(EventRate::begin(now).per_second(now), 0.0);
    }
}
