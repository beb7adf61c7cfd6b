//! Scaling: how many instances a function should start.
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
    /// Ready instances of the current spec that may still get requests.
    pub usable: usize,
    /// Instances that hold resources of the host, in any state.
    pub alive: usize,
    /// Requests one instance serves at a time.
    pub per_instance: usize,
    pub min_instances: usize,
    pub max_instances: usize,
}

impl Demand {
    /// Returns how many instances to start now.
    pub fn starts(&self) -> usize {
        let for_minimum = self.min_instances.saturating_sub(self.booting + self.usable);
        self.unserved_boots().max(for_minimum).min(self.max_instances.saturating_sub(self.alive))
    }

    /// Returns the position of the first waiting request that no booting instance will serve.
    pub fn first_unserved(&self) -> Option<usize> {
        let served = self.served_by_older() + self.booting.saturating_mul(self.per_instance);
        Some(served).filter(|served| *served < self.waiting)
    }

    fn unserved_boots(&self) -> usize {
        (self.waiting - self.served_by_older()).div_ceil(self.per_instance).saturating_sub(self.booting)
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
    fn starts_nothing_beyond_the_maximum() {
        starts(3, Demand { waiting: 100, max_instances: 3, ..IDLE });
        starts(1, Demand { waiting: 100, max_instances: 3, alive: 2, usable: 2, ..IDLE });
        starts(0, Demand { waiting: 100, max_instances: 3, alive: 5, ..IDLE });
    }

    #[test]
    fn keeps_the_minimum_ready() {
        starts(2, Demand { min_instances: 2, ..IDLE });
        starts(1, Demand { min_instances: 2, booting: 1, alive: 1, ..IDLE });
        starts(0, Demand { min_instances: 2, usable: 2, alive: 2, ..IDLE });
        starts(2, Demand { min_instances: 2, waiting: 5, ..IDLE });
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
