//! A restart under way: which instances are still to be replaced, and for how long their replacements are awaited.
//!
//! Pure. `scaling.rs` counts a start for each instance that remains, `actions.rs` retires one as soon as a new one is ready.

use std::time::Duration;

use tokio::time::Instant;

use crate::id::InstanceId;

/// How long a replacement may wait for the host, besides its boot, before the old instances make room for it.
const HOST_WAIT: Duration = Duration::from_secs(10);

/// The instances that a restart replaces.
#[derive(Debug)]
pub(super) struct Replacement {
    /// Those that still get requests.
    old: Vec<InstanceId>,
    /// How long each step may take.
    step: Duration,
    deadline: Instant,
}

/// What an instance does, as far as a restart is concerned. The least costly one to retire is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Idle,
    Busy,
    /// It was started before the restart, and callers may wait for it.
    Booting,
}

impl Replacement {
    /// Starts to replace `old`, whose replacements boot for `boot_timeout` at most.
    pub fn new(old: Vec<InstanceId>, boot_timeout: Duration, now: Instant) -> Self {
        let step = boot_timeout + HOST_WAIT;
        Self { old, step, deadline: now + step }
    }

    /// Returns whether the instance is one of those to be replaced.
    pub fn is_old(&self, id: InstanceId) -> bool {
        self.old.contains(&id)
    }

    /// Returns how many instances are still to be replaced.
    pub fn remaining(&self) -> usize {
        self.old.len()
    }

    /// Returns when the remaining instances are retired without a replacement.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Notes that an instance gets no more requests, for whatever reason.
    pub fn remove(&mut self, id: InstanceId) {
        self.old.retain(|old| *old != id);
    }

    /// Removes and returns the instance to retire next. The time for the next step begins.
    pub fn next(&mut self, now: Instant, use_of: impl Fn(InstanceId) -> Use) -> Option<InstanceId> {
        let next = self.old.iter().copied().min_by_key(|id| use_of(*id))?;
        self.remove(next);
        self.deadline = now + self.step;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_instances_are_retired_first() {
        let [idle, busy, booting] = [(); 3].map(|()| InstanceId::random());
        let (boot_timeout, start) = (Duration::from_secs(5), Instant::now());
        let mut replacement = Replacement::new(vec![booting, busy, idle], boot_timeout, start);
        let use_of = |id| match id {
            id if id == idle => Use::Idle,
            id if id == busy => Use::Busy,
            _ => Use::Booting,
        };
        let later = start + Duration::from_secs(3);
        assert_eq!(replacement.next(later, use_of), Some(idle));
        assert_eq!(replacement.deadline(), later + boot_timeout + HOST_WAIT, "each step has its time");
        assert!(replacement.is_old(busy) && !replacement.is_old(idle));
        replacement.remove(busy);
        assert_eq!([(); 2].map(|()| replacement.next(later, use_of)), [Some(booting), None]);
        assert_eq!(replacement.remaining(), 0);
    }
}
