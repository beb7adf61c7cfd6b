//! What the silence of a node means. Pure.
//!
//! A node hears its own heartbeats, too. While they come back, another node that is not heard is silent. While they do not,
//! or the link is down, nothing can be said about the others: the directory is frozen, and silence is not counted. Then
//! only connections tell whether a node answers.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// A node that was heard within this is fresh.
pub const FRESH_FOR: Duration = Duration::from_secs(3);
/// A node that was not heard for this is removed.
pub const REMOVED_AFTER: Duration = Duration::from_secs(15);
/// A frozen directory is emptied after this.
pub const FROZEN_FOR: Duration = Duration::from_secs(600);
/// How long the link counts as working after an own heartbeat came back: two beats. Less than [`FRESH_FOR`], so that a
/// broken link is noticed before it makes nodes silent.
const ECHO_LASTS: Duration = Duration::from_millis(2500);

/// Whether another node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As any other.
    Fresh,
    /// As the last choice: it was not heard for a while.
    Silent,
    /// As the last choice: it accepts no connections.
    Unreachable,
}

impl Health {
    /// Whether the node is asked only if no other can be.
    pub fn is_suspect(self) -> bool {
        self != Self::Fresh
    }
}

/// When the link to the other nodes was known to work.
#[derive(Debug, Clone, Copy)]
pub struct LinkClock {
    is_up: bool,
    /// When the last own heartbeat came back.
    echoed_at: Instant,
    /// When the link began to work again. Silence before does not count.
    resumed_at: Instant,
}

impl LinkClock {
    /// Makes the clock of a link that has not worked yet.
    pub fn new(now: Instant) -> Self {
        Self { is_up: false, echoed_at: now, resumed_at: now }
    }

    /// Notes whether the link is up, as far as its connection tells.
    pub fn set_up(&mut self, is_up: bool) {
        self.is_up = is_up;
    }

    /// Notes that an own heartbeat has come back.
    pub fn echoed(&mut self, now: Instant) {
        if self.is_frozen(now) {
            self.resumed_at = now;
        }
        (self.is_up, self.echoed_at) = (true, now);
    }

    /// Whether the link does not work, so that silence means nothing.
    pub fn is_frozen(&self, now: Instant) -> bool {
        !self.is_up || now.saturating_duration_since(self.echoed_at) >= ECHO_LASTS
    }

    /// Returns for how long a node has been silent that was last heard at `heard_at`. Only the time counts in which the link
    /// worked.
    pub fn silence(&self, heard_at: Instant, now: Instant) -> Duration {
        let until = if self.is_frozen(now) { self.echoed_at } else { now };
        until.saturating_duration_since(heard_at.max(self.resumed_at))
    }

    /// Judges a node. `None`: it is removed.
    pub fn judge(&self, heard_at: Instant, is_unreachable: bool, now: Instant) -> Option<Health> {
        let silence = self.silence(heard_at, now);
        let is_lost = self.is_frozen(now) && now.saturating_duration_since(self.echoed_at.max(heard_at)) >= FROZEN_FOR;
        match () {
            () if is_lost || silence >= REMOVED_AFTER => None,
            () if is_unreachable => Some(Health::Unreachable),
            () if silence >= FRESH_FOR => Some(Health::Silent),
            () => Some(Health::Fresh),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, seconds: f64) -> Instant {
        base + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_silent_node_is_suspect_and_then_removed() {
        let base = Instant::now();
        let mut link = LinkClock::new(base);
        for second in 0..=20 {
            link.echoed(at(base, f64::from(second)));
            let judged = link.judge(base, false, at(base, f64::from(second)));
            let expected = match second {
                0..3 => Some(Health::Fresh),
                3..15 => Some(Health::Silent),
                _ => None,
            };
            assert_eq!(judged, expected, "second {second}");
        }
    }

    #[test]
    fn an_unreachable_node_is_suspect_at_once_and_removed_when_silent() {
        let base = Instant::now();
        let mut link = LinkClock::new(base);
        link.echoed(base);
        assert_eq!(link.judge(base, true, base), Some(Health::Unreachable));
        link.echoed(at(base, 15.0));
        // The time without an echo did not count.
        assert_eq!(link.judge(base, true, at(base, 15.0)), Some(Health::Unreachable));
        for second in 16..=30 {
            link.echoed(at(base, f64::from(second)));
        }
        assert_eq!(link.judge(base, true, at(base, 30.0)), None);
    }

    #[test]
    fn a_broken_link_takes_away_no_node_before_ten_minutes() {
        let base = Instant::now();
        let mut link = LinkClock::new(base);
        link.echoed(base);
        // As long as an echo is only late, a node may seem silent; not once the link counts as broken.
        for second in [2.5, 3.0, 10.0, 599.0] {
            assert!(link.is_frozen(at(base, second)));
            assert_eq!(link.judge(base, false, at(base, second)), Some(Health::Fresh), "second {second}");
            assert_eq!(link.judge(base, true, at(base, second)), Some(Health::Unreachable), "second {second}");
        }
        assert_eq!(link.judge(base, false, at(base, 600.0)), None);
    }

    #[test]
    fn silence_counts_anew_from_the_return_of_the_link() {
        let base = Instant::now();
        let mut link = LinkClock::new(base);
        link.echoed(base);
        link.set_up(false);
        assert!(link.is_frozen(base));
        link.echoed(at(base, 60.0));
        assert_eq!(link.judge(base, false, at(base, 60.0)), Some(Health::Fresh));
        link.echoed(at(base, 62.0));
        assert_eq!(link.judge(base, false, at(base, 63.0)), Some(Health::Silent));
        assert_eq!(link.judge(at(base, 60.5), false, at(base, 63.0)), Some(Health::Fresh));
    }
}
