//! How much of something comes by per second, as far as the last minute tells.

use std::time::Duration;

use tokio::time::Instant;

/// What is remembered is the current window and the one before it.
const WINDOW: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    /// Of the current window.
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

    /// How long it takes until `amount` has come by. `None`: nothing has of late, so nobody knows.
    pub fn time_for(&self, amount: u64, now: Instant) -> Option<Duration> {
        let Rate { since: Some(since), current, previous } = self.at(now) else { return None };
        let seen = current + previous;
        let over = if previous > 0 { WINDOW } else { Duration::ZERO } + (now - since);
        // What came by just now says little about a second.
        let per_unit = over.max(Duration::from_secs(1)).as_secs_f64() / seen as f64;
        Duration::try_from_secs_f64(per_unit * amount as f64).ok()
    }

    /// With the windows that are over put away.
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
    fn what_never_came_cannot_be_foretold() {
        let now = Instant::now();
        assert_eq!(Rate::default().time_for(1, now), None);
        let mut rate = Rate::default();
        rate.observe(10, now);
        assert_eq!(rate.time_for(1, now + secs(61)), None);
    }

    #[test]
    fn the_last_minute_tells_how_long_it_takes() {
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
        // Since then nothing has come: it takes ever longer.
        assert!(rate.time_for(100, start + secs(59)) > Some(secs(12)));
        assert_eq!(rate.time_for(0, start + secs(45)), Some(secs(0)));
    }
}
