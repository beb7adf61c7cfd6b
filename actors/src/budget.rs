//! How much of the host's memory instances may take together.
//!
//! Counted by what their specs declare, from before an instance is started until its resources are back.

use std::{cell::Cell, rc::Rc};

/// Memory for instances, in MiB. Shared by all functions; lives on the actors' thread.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    taken: Cell<u64>,
}

impl Budget {
    /// `total` is in MiB.
    pub fn new(total: u64) -> Self {
        Self { total, taken: Cell::new(0) }
    }

    /// All there is, in MiB.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What nobody has taken, in MiB.
    pub fn free(&self) -> u64 {
        self.total - self.taken.get()
    }

    /// Sets `memory` MiB aside until the reservation is dropped, if there is as much.
    pub fn reserve(self: &Rc<Self>, memory: u64) -> Option<Reservation> {
        if memory > self.free() {
            return None;
        }
        self.taken.set(self.taken.get() + memory);
        Some(Reservation { budget: self.clone(), memory })
    }
}

/// Memory that was set aside.
#[derive(Debug)]
pub struct Reservation {
    budget: Rc<Budget>,
    memory: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.taken.set(self.budget.taken.get() - self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_there_is() {
        let budget = Rc::new(Budget::new(100));
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.free(), 0);
        drop(first);
        assert_eq!(budget.free(), 60);
        drop(second);
        assert_eq!(budget.free(), 100);
    }
}
