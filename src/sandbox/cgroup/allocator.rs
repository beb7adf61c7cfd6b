//! The limits that all engines put on their instances, where this host allows it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use slog::{Logger, warn};

use super::{DaemonCgroups, Group, ResourceLimits, pool::Pool};
use crate::state::{Resource, State};

/// Shared by the engines, and by the threads that start processes.
#[derive(Clone)]
pub struct CgroupAllocator(Arc<Shared>);

struct Shared {
    /// Dropped before the directories that those of the instances are in.
    pool: Pool,
    cgroups: Option<DaemonCgroups>,
    /// Whether a missing limit has been logged.
    warned: AtomicBool,
    log: Logger,
}

impl CgroupAllocator {
    /// Makes the daemon's cgroups.
    pub fn set_up(state: &State, log: &Logger) -> Self {
        let (cgroups, error) = match DaemonCgroups::set_up(state) {
            Ok(cgroups) => (Some(cgroups), None),
            Err(error) => (None, Some(error)),
        };
        let limits =
            Self(Arc::new(Shared { pool: Pool::default(), cgroups, warned: AtomicBool::new(false), log: log.clone() }));
        if let Some(error) = error {
            limits.warn_unlimited(&error);
        } else if !limits.0.cgroups.as_ref().is_some_and(DaemonCgroups::counts_processes) {
            warn!(log, "instances may have any number of processes: there is no controller for that in reach");
        }
        limits
    }

    /// A cgroup for one instance, which is `foreign` if it runs as another user than the daemon. `None`: it runs without
    /// limit, which is logged once.
    pub fn group(&self, limits: ResourceLimits, foreign: bool) -> Option<Group> {
        let cgroups = self.0.cgroups.as_ref()?;
        if let Some(kept) = self.0.pool.take(limits) {
            return Some(kept.for_user(foreign));
        }
        cgroups.group(limits, foreign).inspect_err(|error| self.warn_unlimited(error)).ok()
    }

    /// Takes back the cgroup of an instance that has ended. Nobody is left in it then.
    pub async fn release(&self, group: Group) -> io::Result<()> {
        let over = if group.is_clean() { self.0.pool.keep(group) } else { Some(group) };
        match over {
            Some(group) => group.remove().await.map(drop),
            None => Ok(()),
        }
    }

    /// What other daemons of the state directory have beside this one's, whether it is written down or not.
    pub fn orphans(&self) -> Vec<Resource> {
        self.0.cgroups.as_ref().map(DaemonCgroups::orphans).unwrap_or_default()
    }

    /// DaemonCgroups that are kept for others.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.0.pool.len()
    }

    /// As on a host where no cgroup can be made.
    #[cfg(test)]
    pub fn none(log: &Logger) -> Self {
        Self(Arc::new(Shared {
            pool: Pool::default(),
            cgroups: None,
            warned: AtomicBool::new(false),
            log: log.clone(),
        }))
    }

    /// The directories that hold those of the instances.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &std::path::Path> {
        self.0.cgroups.iter().flat_map(DaemonCgroups::parents)
    }

    fn warn_unlimited(&self, error: &io::Error) {
        if !self.0.warned.swap(true, Ordering::Relaxed) {
            warn!(self.0.log, "instances run without limit of memory and processes: no cgroup can be made for them"; "error" => %error);
        }
    }
}
