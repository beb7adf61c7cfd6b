//! What the daemon creates outside of itself, as it is recorded, and where a record can be believed. Pure, but for the
//! look at where this daemon runs.

use std::{fs, io, os::unix::fs::MetadataExt};

use procfs::sys::kernel::random;
use serde::{Deserialize, Serialize};

/// A recorded resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub origin: Origin,
    pub resource: Resource,
}

/// Something outside the daemon that must not outlive its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// A child process with its descendants.
    Process(ProcessTree),
    /// A container.
    Container {
        /// The address of its engine, as in `DOCKER_HOST`.
        engine: String,
        /// Its name, which is known before it has an id.
        name: String,
    },
    /// A directory in a hierarchy of cgroups, which has one for each instance.
    Cgroups {
        /// Its hierarchy: `memory`, `pids`, `cpu` or `freezer` of version 1, or `unified`.
        hierarchy: String,
        /// The absolute path of the directory.
        path: String,
    },
    /// Taps, their addresses, the route that reserves the range of addresses, and the table of rules.
    Network {
        /// The mark that all of them carry.
        mark: u32,
        /// The range of addresses, as `10.100.0.0/16`.
        subnet: String,
    },
    /// Forwarding that was off and has been switched on for an interface.
    Forwarding {
        /// The name of the interface.
        interface: String,
    },
}

/// The processes of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    /// The instance's id, which all of them have in their environment unless they have cleared it.
    pub instance: String,
    /// `None` while the process is about to be started.
    pub leader: Option<SessionLeader>,
}

/// The first process of an instance, which leads a session of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLeader {
    /// Its PID.
    pub pid: i32,
    /// The earliest time at which it was started, in clock ticks since boot. A process with its PID that was started earlier, or
    /// later than `before`, is another one: the PID has been reused.
    pub after: u64,
    /// The latest time at which it was started, in clock ticks since boot.
    pub before: u64,
}

/// Where the numbers and names of a record are valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The boot id of the host.
    pub boot: String,
    /// The namespace of process ids, as an inode number.
    pub pids: u64,
    /// The network namespace, as an inode number.
    pub network: u64,
}

impl Origin {
    /// Returns where this daemon runs.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn here() -> io::Result<Self> {
        let namespace = |kind: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/self/ns/{kind}"))?.ino());
        Ok(Self {
            boot: random::boot_id().map_err(io::Error::other)?,
            pids: namespace("pid")?,
            network: namespace("net")?,
        })
    }
}

impl Record {
    /// Returns whether the resource can still exist and can be found by this record from `here`.
    pub fn is_valid(&self, here: &Origin) -> bool {
        let booted = self.origin.boot == here.boot;
        match self.resource {
            Resource::Process(_) => booted && self.origin.pids == here.pids,
            Resource::Network { .. } | Resource::Forwarding { .. } => booted && self.origin.network == here.network,
            Resource::Cgroups { .. } => booted,
            Resource::Container { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_valid_where_its_resource_can_be_found() {
        let here = Origin { boot: "here".to_owned(), pids: 1, network: 2 };
        let leader = Some(SessionLeader { pid: 1, after: 7, before: 8 });
        let resources = [
            Resource::Process(ProcessTree { instance: "00000000000000ab".to_owned(), leader }),
            Resource::Network { mark: 1, subnet: String::new() },
            Resource::Cgroups { hierarchy: String::new(), path: String::new() },
            Resource::Container { engine: String::new(), name: String::new() },
        ];
        let valid = |origin: Origin| {
            resources.clone().map(|resource| Record { origin: origin.clone(), resource }.is_valid(&here))
        };
        assert_eq!(valid(here.clone()), [true, true, true, true]);
        assert_eq!(valid(Origin { boot: "an earlier boot".to_owned(), ..here.clone() }), [false, false, false, true]);
        assert_eq!(valid(Origin { pids: 9, ..here.clone() }), [false, true, true, true]);
        assert_eq!(valid(Origin { network: 9, ..here.clone() }), [true, false, true, true]);
    }
}
