//! When a function that has nothing to do gets an instance ahead of its next request. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::idle_times::{Expected, IdleTimes};

/// The idle times of a function, and the present one.
#[derive(Debug, Default)]
pub(crate) struct Prewarming {
    times: IdleTimes,
    /// Since when nothing of the function runs.
    idle_since: Option<Instant>,
    /// The idle time for which an instance was started.
    started_for: Option<Instant>,
}

/// When to have an instance during the present idle time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub from: Instant,
    pub until: Instant,
}

impl Prewarming {
    /// Notes that nothing of the function runs, and when its last request has ended.
    pub fn went_idle(&mut self, since: Instant) {
        self.idle_since = Some(since);
    }

    /// Notes that a request came at which nothing of the function ran.
    pub fn requested(&mut self, at: Instant) {
        if let Some(since) = self.idle_since.take() {
            self.times.note(at.saturating_duration_since(since));
        }
    }

    /// Notes that an instance runs for another reason, so that the next request is perhaps not noticed.
    pub fn interrupted(&mut self) {
        self.idle_since = None;
    }

    /// Notes that an instance was started for the present idle time. There is one of them.
    pub fn started(&mut self) {
        self.started_for = self.idle_since;
    }

    /// Returns when to have an instance, if a start takes that long.
    pub fn window(&self, start: Duration) -> Option<Window> {
        let (since, Expected { from, until }) = (self.idle_since?, self.times.expected()?);
        Some(Window { from: since + from.saturating_sub(start), until: since + until })
    }

    /// Returns the window in which to start an instance, unless that has been done.
    pub fn start_window(&self, start: Duration) -> Option<Window> {
        self.window(start).filter(|_| self.started_for != self.idle_since)
    }

    /// Returns how many idle times are known, and when the next request is expected after the last one has ended.
    pub fn expected(&self) -> (u32, Option<Expected>) {
        (self.times.count(), self.times.expected())
    }
}

impl Window {
    pub fn contains(&self, now: Instant) -> bool {
        self.from <= now && now < self.until
    }

    /// Returns when the window begins or ends, whichever is next.
    pub fn next_edge(&self, now: Instant) -> Option<Instant> {
        [self.from, self.until].into_iter().find(|edge| *edge > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Returns the state after idle times of 300 s, and the time at which the function has gone idle again.
    fn learnt() -> (Prewarming, Instant) {
        let (mut prewarming, mut now) = (Prewarming::default(), Instant::now());
        for _ in 0..10 {
            prewarming.went_idle(now);
            now += secs(300);
            prewarming.requested(now);
        }
        prewarming.went_idle(now);
        (prewarming, now)
    }

    #[test]
    fn an_instance_is_wanted_around_the_usual_time_of_the_next_request() {
        let (prewarming, idle_since) = learnt();
        let window = prewarming.start_window(START).unwrap();
        assert!(!window.contains(idle_since + secs(150)) && window.contains(idle_since + secs(270)));
        assert!(window.contains(idle_since + secs(330)) && !window.contains(idle_since + secs(450)));
        assert_eq!(window.next_edge(idle_since), Some(window.from));
        assert_eq!(window.next_edge(window.from), Some(window.until));
        assert_eq!(window.next_edge(window.until), None);
        let slow = prewarming.start_window(secs(60)).unwrap();
        assert_eq!((window.from - slow.from, slow.until), (secs(59), window.until));
    }

    #[test]
    fn one_instance_is_started_in_each_idle_time() {
        let (mut prewarming, idle_since) = learnt();
        prewarming.started();
        assert_eq!(prewarming.start_window(START), None);
        assert!(prewarming.window(START).is_some(), "it is kept");
        // It was not used.
        prewarming.went_idle(idle_since);
        assert_eq!(prewarming.start_window(START), None);
        prewarming.requested(idle_since + secs(900));
        prewarming.went_idle(idle_since + secs(901));
        assert!(prewarming.start_window(START).is_some());
    }

    #[test]
    fn nothing_is_predicted_while_the_function_runs() {
        let (mut prewarming, idle_since) = learnt();
        prewarming.interrupted();
        assert_eq!(prewarming.window(START), None);
        prewarming.requested(idle_since + secs(5));
        assert_eq!(prewarming.expected().0, 10, "how long it was idle is unknown");
    }
}
