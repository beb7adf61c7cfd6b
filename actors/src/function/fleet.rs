//! How many instances a function should have: the arithmetic of starting them.
//!
//! Pure. Waiting requests share boots; nothing is started for a request that a boot already under way will serve.

use std::time::Duration;

use tokio::time::Instant;

/// What the decision to start instances depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Requests that wait.
    pub waiting: usize,
    /// Those of them that came before the current spec was in force: an older instance will do for them.
    pub waiting_older: usize,
    /// Instances on their way, of the current spec.
    pub booting: usize,
    /// Instances on their way, of older specs.
    pub booting_older: usize,
    /// Ready instances of the current spec that may still take requests.
    pub usable: usize,
    /// Instances that hold resources of the host, in whatever state.
    pub alive: usize,
    /// Requests one instance serves at a time.
    pub per_instance: usize,
    pub min_instances: usize,
    pub max_instances: usize,
}

impl Demand {
    /// How many instances to start now.
    pub fn starts(&self) -> usize {
        let for_minimum = self.min_instances.saturating_sub(self.booting + self.usable);
        self.unserved_boots().max(for_minimum).min(self.max_instances.saturating_sub(self.alive))
    }

    fn unserved_boots(&self) -> usize {
        let served_by_older = self.waiting_older.min(self.booting_older * self.per_instance);
        (self.waiting - served_by_older).div_ceil(self.per_instance).saturating_sub(self.booting)
    }
}

/// How many of those who wait are told that the boot they waited for has failed.
///
/// Those whom the boots still under way will serve keep waiting; of the others, as many as shared the failed one are
/// answered. The rest gets another boot.
pub(crate) fn victims(waiting: usize, served_by_others: usize, per_instance: usize) -> usize {
    waiting.saturating_sub(served_by_others).min(per_instance)
}

/// The pause between attempts to keep a minimum of instances ready, while they keep failing.
///
/// Requests do not wait for it: each gets an attempt of its own, and its error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(60);

    pub fn failed(&mut self, now: Instant) {
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether the pause lasts. Once it is over it is forgotten, the number of failures is not.
    pub fn pauses(&mut self, now: Instant) -> bool {
        self.until = self.until.filter(|until| *until > now);
        self.until.is_some()
    }

    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Demand = Demand {
        waiting: 0,
        waiting_older: 0,
        booting: 0,
        booting_older: 0,
        usable: 0,
        alive: 0,
        per_instance: 10,
        min_instances: 0,
        max_instances: 100,
    };

    #[track_caller]
    fn starts(expected: usize, demand: Demand) {
        assert_eq!(demand.starts(), expected, "{demand:?}");
    }

    #[test]
    fn waiting_requests_share_boots() {
        starts(0, IDLE);
        starts(1, Demand { waiting: 1, ..IDLE });
        starts(1, Demand { waiting: 10, ..IDLE });
        starts(2, Demand { waiting: 11, ..IDLE });
        starts(10, Demand { waiting: 100, ..IDLE });
        starts(0, Demand { waiting: 10, booting: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 11, booting: 1, alive: 1, ..IDLE });
    }

    #[test]
    fn nothing_is_started_past_the_maximum() {
        starts(3, Demand { waiting: 100, max_instances: 3, ..IDLE });
        starts(1, Demand { waiting: 100, max_instances: 3, alive: 2, usable: 2, ..IDLE });
        starts(0, Demand { waiting: 100, max_instances: 3, alive: 5, ..IDLE });
    }

    #[test]
    fn a_minimum_is_kept_ready() {
        starts(2, Demand { min_instances: 2, ..IDLE });
        starts(1, Demand { min_instances: 2, booting: 1, alive: 1, ..IDLE });
        starts(0, Demand { min_instances: 2, usable: 2, alive: 2, ..IDLE });
        starts(2, Demand { min_instances: 2, waiting: 5, ..IDLE });
    }

    #[test]
    fn boots_of_an_older_spec_serve_only_those_who_came_before_it_changed() {
        starts(0, Demand { waiting: 5, waiting_older: 5, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 6, waiting_older: 5, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 6, waiting_older: 0, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 15, waiting_older: 15, booting_older: 1, alive: 1, ..IDLE });
    }

    #[test]
    fn a_failed_boot_is_answered_to_as_many_as_shared_it() {
        assert_eq!(victims(1, 0, 10), 1);
        assert_eq!(victims(100, 90, 10), 10);
        assert_eq!(victims(95, 90, 10), 5);
        assert_eq!(victims(5, 10, 10), 0);
        assert_eq!(victims(0, 0, 10), 0);
    }

    #[test]
    fn pauses_grow_until_a_boot_succeeds() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert!(!backoff.pauses(now));
        for pause in [500, 1_000, 2_000, 4_000] {
            backoff.failed(now);
            assert!(backoff.pauses(now + Duration::from_millis(pause - 1)));
            assert!(!backoff.pauses(now + Duration::from_millis(pause)));
        }
        for _ in 0..100 {
            backoff.failed(now);
        }
        assert_eq!(backoff.until(), Some(now + Backoff::LONGEST));
        backoff.succeeded();
        assert_eq!(backoff, Backoff::default());
    }
}
