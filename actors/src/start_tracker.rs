//! Which starts of the host overlap: each may have slowed the others down.

use std::{cell::Cell, rc::Rc};

/// Counts the starts of all functions.
#[derive(Debug, Default)]
pub struct StartTracker(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    in_progress: Cell<usize>,
    /// Starts begun, ever.
    begun: Cell<u64>,
}

/// A start in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct TrackedStart {
    counts: Rc<Counts>,
    began_alone: bool,
    /// How many starts had begun, with this one.
    number: u64,
}

impl StartTracker {
    /// Notes the beginning of a start.
    pub(crate) fn begin(&self) -> TrackedStart {
        let counts = self.0.clone();
        let (others, number) = (counts.in_progress.get(), counts.begun.get() + 1);
        counts.in_progress.set(others + 1);
        counts.begun.set(number);
        TrackedStart { counts, began_alone: others == 0, number }
    }
}

impl TrackedStart {
    /// Whether no other start was in progress at any time since it began.
    pub fn is_alone(&self) -> bool {
        self.began_alone && self.number == self.counts.begun.get()
    }
}

impl Drop for TrackedStart {
    fn drop(&mut self) {
        self.counts.in_progress.set(self.counts.in_progress.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_that_overlap_are_not_alone_even_after_the_other_has_ended() {
        let tracker = StartTracker::default();
        let first = tracker.begin();
        assert!(first.is_alone());
        let second = tracker.begin();
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        assert!(!second.is_alone());
        let third = tracker.begin();
        drop(second);
        assert!(!third.is_alone());
        drop(third);
        assert!(tracker.begin().is_alone());
    }
}
