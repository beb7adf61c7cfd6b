//! Scaling: how many instances a function should resume and start.
//!
//! Pure. Waiting requests share boots. No instance is started for a request that a boot under way will serve.

/// What the number of starts depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Requests that wait.
    pub waiting: usize,
    /// Those that came before the current spec was in force. They accept older instances.
    pub waiting_older: usize,
    /// Booting instances of the current spec.
    pub booting: usize,
    /// Booting instances of older specs.
    pub booting_older: usize,
    /// Instances that wait for memory in which to be resumed. They are of the current spec.
    pub waking: usize,
    /// Instances that are being resumed. They are of the current spec.
    pub resuming: usize,
    /// Paused instances of the current spec.
    pub paused: usize,
    /// Instances of the current spec that are ready, waking or being resumed, and may still get requests.
    pub usable: usize,
    /// Instances that hold resources of the host, in any state.
    pub alive: usize,
    /// Instances that a restart still has to replace.
    pub to_replace: usize,
    /// Booting instances that will replace one.
    pub replacing: usize,
    /// Requests one instance serves at a time.
    pub per_instance: usize,
    pub min_instances: usize,
    pub max_instances: usize,
}

impl Demand {
    /// Returns how many paused instances to wake now: they are ready before any new one.
    pub fn resumptions(&self) -> usize {
        self.missing().min(self.paused)
    }

    /// Returns how many waking instances are not needed any more.
    pub fn surplus_wakes(&self) -> usize {
        let usable = self.usable.saturating_sub(self.waking);
        let asleep = Demand { waking: 0, paused: self.paused + self.waking, usable, ..*self };
        self.waking.saturating_sub(asleep.resumptions())
    }

    /// Returns how many instances to start now, besides those to wake.
    pub fn starts(&self) -> usize {
        let for_restart = self.to_replace.saturating_sub(self.replacing);
        let wanted = (self.missing() - self.resumptions()).max(for_restart);
        wanted.min(self.max_instances.saturating_sub(self.alive))
    }

    /// Returns how many instances are missing for callers, or for the minimum.
    fn missing(&self) -> usize {
        let for_minimum = self.min_instances.saturating_sub(self.booting + self.usable);
        self.unserved_boots().max(for_minimum)
    }

    /// Returns the position of the first waiting request that no booting, waking or resuming instance will serve.
    pub fn first_unserved(&self) -> Option<usize> {
        let served = self.served_by_older() + self.coming().saturating_mul(self.per_instance);
        Some(served).filter(|served| *served < self.waiting)
    }

    fn unserved_boots(&self) -> usize {
        let instances = (self.waiting - self.served_by_older()).div_ceil(self.per_instance);
        instances.saturating_sub(self.coming())
    }

    fn coming(&self) -> usize {
        self.booting + self.waking + self.resuming
    }

    fn served_by_older(&self) -> usize {
        self.waiting_older.min(self.booting_older * self.per_instance)
    }
}

/// Returns how many waiting requests fail together with a boot that they shared.
///
/// Requests that the boots still under way will serve keep waiting. Of the others, as many as the failed instance would
/// have served are refused. The rest gets another boot.
pub(crate) fn sharers(waiting: usize, served_by_others: usize, per_instance: usize) -> usize {
    waiting.saturating_sub(served_by_others).min(per_instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Demand = Demand {
        waiting: 0,
        waiting_older: 0,
        booting: 0,
        booting_older: 0,
        waking: 0,
        resuming: 0,
        paused: 0,
        usable: 0,
        alive: 0,
        to_replace: 0,
        replacing: 0,
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
    fn starts_nothing_beyond_the_maximum() {
        starts(3, Demand { waiting: 100, max_instances: 3, ..IDLE });
        starts(1, Demand { waiting: 100, max_instances: 3, alive: 2, usable: 2, ..IDLE });
        starts(0, Demand { waiting: 100, max_instances: 3, alive: 5, ..IDLE });
    }

    #[test]
    fn paused_instances_are_resumed_before_new_ones_are_started() {
        #[track_caller]
        fn check((resumptions, started): (usize, usize), demand: Demand) {
            assert_eq!(demand.resumptions(), resumptions, "{demand:?}");
            starts(started, demand);
        }
        check((0, 0), Demand { paused: 3, alive: 3, ..IDLE });
        check((1, 0), Demand { paused: 3, alive: 3, waiting: 10, ..IDLE });
        check((3, 2), Demand { paused: 3, alive: 3, waiting: 50, ..IDLE });
        check((0, 0), Demand { paused: 3, resuming: 1, usable: 1, alive: 4, waiting: 10, ..IDLE });
        check((1, 0), Demand { paused: 3, resuming: 1, booting: 1, usable: 1, alive: 5, waiting: 21, ..IDLE });
        // Paused instances count for the maximum, and not for the minimum.
        check((2, 0), Demand { paused: 2, alive: 2, waiting: 100, max_instances: 2, ..IDLE });
        check((1, 1), Demand { paused: 1, alive: 1, min_instances: 2, ..IDLE });
        check((0, 2), Demand { paused: 2, alive: 4, usable: 2, to_replace: 2, ..IDLE });
    }

    #[test]
    fn waking_instances_are_left_paused_once_they_are_not_needed() {
        let surplus = |demand: Demand| demand.surplus_wakes();
        let two = Demand { waking: 2, usable: 2, alive: 4, paused: 2, ..IDLE };
        starts(0, Demand { waiting: 20, ..two });
        assert_eq!(surplus(Demand { waiting: 20, ..two }), 0);
        assert_eq!(surplus(Demand { waiting: 10, ..two }), 1);
        assert_eq!((surplus(two), surplus(Demand { waiting: 20, booting: 1, ..two })), (2, 1));
        // The minimum needs one of them.
        assert_eq!(surplus(Demand { min_instances: 1, ..two }), 1);
        assert_eq!(surplus(Demand { min_instances: 1, usable: 3, ..two }), 2);
    }

    #[test]
    fn keeps_the_minimum_ready() {
        starts(2, Demand { min_instances: 2, ..IDLE });
        starts(1, Demand { min_instances: 2, booting: 1, alive: 1, ..IDLE });
        starts(0, Demand { min_instances: 2, usable: 2, alive: 2, ..IDLE });
        starts(2, Demand { min_instances: 2, waiting: 5, ..IDLE });
    }

    #[test]
    fn a_restart_starts_an_instance_for_each_that_it_replaces() {
        starts(3, Demand { to_replace: 3, usable: 3, alive: 3, ..IDLE });
        starts(1, Demand { to_replace: 3, replacing: 2, booting: 2, usable: 3, alive: 5, ..IDLE });
        starts(0, Demand { to_replace: 1, replacing: 1, booting: 1, usable: 3, alive: 4, ..IDLE });
        starts(1, Demand { to_replace: 3, usable: 3, alive: 3, max_instances: 4, ..IDLE });
        starts(0, Demand { to_replace: 3, usable: 3, alive: 3, max_instances: 3, ..IDLE });
        starts(3, Demand { to_replace: 1, waiting: 30, usable: 1, alive: 1, ..IDLE });
    }

    #[test]
    fn boots_of_an_older_spec_serve_only_earlier_requests() {
        starts(0, Demand { waiting: 5, waiting_older: 5, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 6, waiting_older: 5, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 6, waiting_older: 0, booting_older: 1, alive: 1, ..IDLE });
        starts(1, Demand { waiting: 15, waiting_older: 15, booting_older: 1, alive: 1, ..IDLE });
    }

    #[test]
    fn finds_the_first_request_that_no_boot_will_serve() {
        let first = |demand: Demand| demand.first_unserved();
        assert_eq!(first(IDLE), None);
        assert_eq!(first(Demand { waiting: 1, ..IDLE }), Some(0));
        assert_eq!(first(Demand { waiting: 10, booting: 1, ..IDLE }), None);
        assert_eq!(first(Demand { waiting: 11, booting: 1, ..IDLE }), Some(10));
        assert_eq!(first(Demand { waiting: 21, booting: 1, resuming: 1, ..IDLE }), Some(20));
        assert_eq!(first(Demand { waiting: 16, waiting_older: 5, booting_older: 1, booting: 1, ..IDLE }), Some(15));
    }

    #[test]
    fn a_failed_boot_fails_the_requests_that_shared_it() {
        assert_eq!(sharers(1, 0, 10), 1);
        assert_eq!(sharers(100, 90, 10), 10);
        assert_eq!(sharers(95, 90, 10), 5);
        assert_eq!(sharers(5, 10, 10), 0);
        assert_eq!(sharers(0, 0, 10), 0);
    }
}
