//! The rate of events per second, over the last minute.

use std::time::Duration;

use tokio::time::Instant;

/// The rate covers the current window and the one before it.
const WINDOW: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    /// The start of the current window.
    since: Option<Instant>,
    current: u64,
    previous: u64,
}

impl Rate {
    pub fn observe(&mut self, amount: u64, now: Instant) {
        *self = self.at(now);
        self.since.get_or_insert(now);
        self.current += amount;
    }

    /// Estimates how long `amount` takes at this rate. `None`: nothing was observed in the last minute.
    pub fn time_for(&self, amount: u64, now: Instant) -> Option<Duration> {
        let Rate { since: Some(since), current, previous } = self.at(now) else { return None };
        let seen = current + previous;
        let over = if previous > 0 { WINDOW } else { Duration::ZERO } + (now - since);
        // The first second is too short for an estimate.
        let per_unit = over.max(Duration::from_secs(1)).as_secs_f64() / seen as f64;
        Duration::try_from_secs_f64(per_unit * amount as f64).ok()
    }

    /// Returns the rate without windows that are over.
    fn at(mut self, now: Instant) -> Self {
        if let Some(since) = self.since
            && now >= since + WINDOW
        {
            let recent = now < since + 2 * WINDOW;
            self.previous = if recent { self.current } else { 0 };
            self.current = 0;
            self.since = recent.then_some(since + WINDOW);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_observed_gives_no_estimate() {
        let now = Instant::now();
        assert_eq!(Rate::default().time_for(1, now), None);
        let mut rate = Rate::default();
        rate.observe(10, now);
        assert_eq!(rate.time_for(1, now + secs(61)), None);
    }

    #[test]
    fn estimates_from_the_last_minute() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for second in 0..20 {
            rate.observe(10, start + secs(second));
        }
        assert_eq!(rate.time_for(100, start + secs(20)), Some(secs(10)));
        for second in 20..45 {
            rate.observe(10, start + secs(second));
        }
        assert_eq!(rate.time_for(100, start + secs(45)), Some(secs(10)));
        // Nothing was observed since then, so the estimate grows.
        assert!(rate.time_for(100, start + secs(59)) > Some(secs(12)));
        assert_eq!(rate.time_for(0, start + secs(45)), Some(secs(0)));
    }
}
