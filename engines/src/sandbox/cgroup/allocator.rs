//! Gives cgroups to instances, where this host allows it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use slog::{Logger, warn};
use tokio::task;

use super::{DaemonCgroups, Group, ResourceLimits, pool::Pool};
use crate::state::{Resource, State};

/// Creates, reuses and removes the cgroups of instances. Clones share them.
#[derive(Clone)]
pub struct CgroupAllocator(Arc<Shared>);

struct Shared {
    /// Dropped before the parent directories.
    pool: Pool,
    cgroups: Option<DaemonCgroups>,
    /// Whether a missing limit was logged, and that of processor time.
    warned: AtomicBool,
    warned_cpu: AtomicBool,
    log: Logger,
}

impl CgroupAllocator {
    /// Creates the daemon's parent cgroups, and logs which limits this host lacks.
    pub fn set_up(state: &State, log: &Logger) -> Self {
        let (cgroups, error) = match DaemonCgroups::set_up(state) {
            Ok(cgroups) => (Some(cgroups), None),
            Err(error) => (None, Some(error)),
        };
        let limits = Self::with(cgroups, log);
        if let Some(error) = error {
            limits.warn_unlimited(&error);
        } else if !limits.0.cgroups.as_ref().is_some_and(DaemonCgroups::counts_processes) {
            warn!(log, "the number of processes of an instance is not limited: no pids controller is available");
        }
        limits
    }

    /// Returns a cgroup for one instance, which runs as another user than the daemon if `other_user`. `None` where none
    /// can be made, which is logged once.
    pub async fn group(&self, limits: ResourceLimits, other_user: bool) -> Option<Group> {
        self.0.cgroups.as_ref()?;
        if let Some(kept) = self.0.pool.take(limits) {
            return Some(kept.for_user(other_user));
        }
        let allocator = self.clone();
        // The kernel creates cgroups one at a time.
        task::spawn_blocking(move || allocator.create(limits, other_user)).await.ok().flatten()
    }

    fn with(cgroups: Option<DaemonCgroups>, log: &Logger) -> Self {
        let (warned, warned_cpu) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Shared { pool: Pool::default(), cgroups, warned, warned_cpu, log: log.clone() }))
    }

    fn create(&self, mut limits: ResourceLimits, other_user: bool) -> Option<Group> {
        let cgroups = self.0.cgroups.as_ref()?;
        if limits.cpu_quota.is_some()
            && let Err(error) = cgroups.enable_cpu()
        {
            limits.cpu_quota = None;
            if !self.0.warned_cpu.swap(true, Ordering::Relaxed) {
                warn!(self.0.log, "processor time of instances is not limited"; "error" => %error);
            }
        }
        let created = cgroups.group(limits, other_user);
        created.inspect_err(|error| self.warn_unlimited(error)).ok()
    }

    /// Keeps the cgroup of an ended instance for reuse, or kills its processes and removes it.
    pub async fn release(&self, mut group: Group) -> io::Result<()> {
        group.end_instance();
        let unused = if group.is_clean() { self.0.pool.keep(group) } else { Some(group) };
        match unused {
            Some(group) => group.remove().await.map(drop),
            None => Ok(()),
        }
    }

    /// Returns the cgroups of earlier daemons of the state directory, journaled or not.
    pub fn orphans(&self, identity: &str) -> Vec<Resource> {
        self.0.cgroups.as_ref().map(|cgroups| cgroups.orphans(identity)).unwrap_or_default()
    }

    /// Returns how many cgroups are kept for reuse.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.0.pool.len()
    }

    /// Returns an allocator as on a host without cgroups.
    #[cfg(test)]
    pub fn none(log: &Logger) -> Self {
        Self::with(None, log)
    }

    /// Returns the parent directories.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &std::path::Path> {
        self.0.cgroups.iter().flat_map(DaemonCgroups::parents)
    }

    fn warn_unlimited(&self, error: &io::Error) {
        if !self.0.warned.swap(true, Ordering::Relaxed) {
            warn!(self.0.log, "memory and processes of instances are not limited: no cgroup can be made"; "error" => %error);
        }
    }
}
