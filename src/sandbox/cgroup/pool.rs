//! Cgroups that are used again.
//!
//! The kernel makes and removes cgroups one at a time, and takes as long for one as for half the start of a small program.
//! So one that an instance has left as it found it is kept for another one with the same limits.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use super::{Group, ResourceLimits};

/// Cgroups that are kept, each with one directory per hierarchy. They cost the kernel some 27 KB each, on two processors.
const MOST: usize = 128;

/// The ones that are kept, the one returned longest ago first.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<VecDeque<Group>>);

impl Pool {
    /// One that was made for that limits.
    pub(super) fn take(&self, limits: ResourceLimits) -> Option<Group> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = kept.iter().rposition(|group| group.limits() == limits)?;
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

    fn limits(memory: u64) -> ResourceLimits {
        ResourceLimits { memory, pids: 10 }
    }

    fn group(memory: u64) -> Group {
        Group::create(std::iter::empty(), limits(memory), true).unwrap()
    }

    #[test]
    fn a_cgroup_is_used_again_for_the_same_allowance_only() {
        let pool = Pool::default();
        assert!(pool.keep(group(1)).is_none() && pool.keep(group(2)).is_none());
        assert!(pool.take(limits(3)).is_none());
        assert_eq!(pool.take(limits(1)).unwrap().limits(), limits(1));
        assert!(pool.take(limits(1)).is_none());
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn the_oldest_makes_room() {
        let pool = Pool::default();
        assert!((0..MOST as u64).all(|memory| pool.keep(group(memory)).is_none()));
        assert_eq!(pool.keep(group(999)).unwrap().limits(), limits(0));
        assert!(pool.take(limits(999)).is_some());
    }
}
