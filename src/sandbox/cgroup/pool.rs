//! Cgroups that are used again.
//!
//! The kernel makes and removes cgroups one at a time, and takes as long for one as for half the start of a small program.
//! So one that an instance has left as it found it is kept for another one with the same allowance.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use super::{Allowance, Group};

/// Cgroups that are kept, each with one directory per hierarchy. They cost the kernel some 50 KB each.
const MOST: usize = 128;

/// The ones that are kept, the one returned longest ago first.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<VecDeque<Group>>);

impl Pool {
    /// One that was made for that allowance.
    pub(super) fn take(&self, allowance: Allowance) -> Option<Group> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = kept.iter().rposition(|group| group.allowance() == allowance)?;
        kept.remove(last)
    }

    /// Keeps one that is clean. Returns one for which there is no room.
    pub(super) fn keep(&self, group: Group) -> Option<Group> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(group);
        if kept.len() > MOST { kept.pop_front() } else { None }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(memory: u64) -> Allowance {
        Allowance { memory, pids: 10 }
    }

    fn group(memory: u64) -> Group {
        Group::create(std::iter::empty(), allowance(memory), true).unwrap()
    }

    #[test]
    fn a_cgroup_is_used_again_for_the_same_allowance_only() {
        let pool = Pool::default();
        assert!(pool.keep(group(1)).is_none() && pool.keep(group(2)).is_none());
        assert!(pool.take(allowance(3)).is_none());
        assert_eq!(pool.take(allowance(1)).unwrap().allowance(), allowance(1));
        assert!(pool.take(allowance(1)).is_none());
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn the_oldest_makes_room() {
        let pool = Pool::default();
        assert!((0..MOST as u64).all(|memory| pool.keep(group(memory)).is_none()));
        assert_eq!(pool.keep(group(999)).unwrap().allowance(), allowance(0));
        assert!(pool.take(allowance(999)).is_some());
    }
}
