//! The limits that all engines put on their instances, where this host allows it.

use std::{cell::Cell, io, rc::Rc};

use slog::{Logger, warn};

use super::{Allowance, Cgroups, Group};
use crate::state::State;

/// Shared by the engines.
#[derive(Clone)]
pub struct Limits(Rc<Shared>);

struct Shared {
    cgroups: Option<Cgroups>,
    /// Whether a missing limit has been logged.
    warned: Cell<bool>,
    log: Logger,
}

impl Limits {
    /// Makes the daemon's cgroups.
    pub fn set_up(state: &State, log: &Logger) -> Self {
        let (cgroups, error) = match Cgroups::set_up(state) {
            Ok(cgroups) => (Some(cgroups), None),
            Err(error) => (None, Some(error)),
        };
        let limits = Self(Rc::new(Shared { cgroups, warned: Cell::new(false), log: log.clone() }));
        if let Some(error) = error {
            limits.warn_unlimited(&error);
        } else if !limits.0.cgroups.as_ref().is_some_and(Cgroups::counts_processes) {
            warn!(log, "instances may have any number of processes: there is no controller for that in reach");
        }
        limits
    }

    /// A cgroup for one instance. `None`: it runs without limit, which is logged once.
    pub fn group(&self, name: &str, allowance: Allowance) -> Option<Group> {
        let made = self.0.cgroups.as_ref()?.group(name, allowance);
        made.inspect_err(|error| self.warn_unlimited(error)).ok()
    }

    /// As on a host where no cgroup can be made.
    #[cfg(test)]
    pub fn none(log: &Logger) -> Self {
        Self(Rc::new(Shared { cgroups: None, warned: Cell::new(false), log: log.clone() }))
    }

    /// The directories that hold those of the instances.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &std::path::Path> {
        self.0.cgroups.iter().flat_map(Cgroups::parents)
    }

    fn warn_unlimited(&self, error: &io::Error) {
        if !self.0.warned.replace(true) {
            warn!(self.0.log, "instances run without limit of memory and processes: no cgroup can be made for them"; "error" => %error);
        }
    }
}
