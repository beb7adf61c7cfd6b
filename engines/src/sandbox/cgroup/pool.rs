//! Cgroups that are kept for reuse.
//!
//! The kernel serialises the creation and removal of cgroups, and each takes half as long as the start of a small program.
//! So a clean cgroup is kept for an instance with the same limits.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use super::{Group, ResourceLimits};

/// How many cgroups are kept, at some 27 KB of kernel memory each.
const MAX_KEPT: usize = 128;

/// The kept cgroups, the one returned longest ago first.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<VecDeque<Group>>);

impl Pool {
    /// Takes a cgroup with these limits.
    pub(super) fn take(&self, limits: ResourceLimits) -> Option<Group> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = kept.iter().rposition(|group| group.limits() == limits)?;
        kept.remove(last)
    }

    /// Keeps a clean cgroup. If the pool is full, returns its oldest cgroup.
    pub(super) fn keep(&self, group: Group) -> Option<Group> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(group);
        if kept.len() > MAX_KEPT { kept.pop_front() } else { None }
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
        ResourceLimits { memory, pids: 10, cpu_quota: None, freezable: false }
    }

    fn group(memory: u64) -> Group {
        Group::create(std::iter::empty(), limits(memory), true).unwrap()
    }

    #[test]
    fn reuses_cgroup_for_same_limits_only() {
        let pool = Pool::default();
        assert!(pool.keep(group(1)).is_none() && pool.keep(group(2)).is_none());
        assert!(pool.take(limits(3)).is_none());
        assert_eq!(pool.take(limits(1)).unwrap().limits(), limits(1));
        assert!(pool.take(limits(1)).is_none());
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn evicts_oldest() {
        let pool = Pool::default();
        assert!((0..MAX_KEPT as u64).all(|memory| pool.keep(group(memory)).is_none()));
        assert_eq!(pool.keep(group(999)).unwrap().limits(), limits(0));
        assert!(pool.take(limits(999)).is_some());
    }
}
