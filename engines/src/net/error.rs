//! Why a virtual machine gets no tap, and how that is reported as a failed launch.

use std::io;

use nix::errno::Errno;
use unifaas_actors::sandbox::LaunchError;

use super::subnet::Subnet;
use crate::state::JournalError;

/// Why there is no tap for a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// A privilege, a device or a program is missing.
    #[error("{0}")]
    Missing(String),
    /// The subnet is in use on this host.
    #[error("the subnet {subnet} for virtual machines overlaps {used}: choose another one with --subnet")]
    Conflict {
        /// The requested subnet.
        subnet: Subnet,
        /// The address or route that overlaps, in words.
        used: String,
        /// Whether it looks like another UniFaaS daemon.
        daemon: bool,
    },
    /// Every address is in use, or the disk of the journal is full.
    #[error("{0}")]
    Exhausted(String),
    /// The operating system refused.
    #[error("the network for virtual machines cannot be prepared: {0}")]
    Refused(String),
}

impl NetError {
    /// Returns the error for a daemon without CAP_NET_ADMIN.
    pub fn unprivileged() -> Self {
        Self::Missing(
            "virtual machines need a daemon that runs as root or with CAP_NET_ADMIN, to make tap devices; \
             without it only [vm] network = \"user\" works"
                .to_owned(),
        )
    }

    /// Returns the error for a tap manager thread that no longer runs.
    pub fn manager_ended() -> Self {
        Self::Refused("the tap manager has ended".to_owned())
    }
}

impl From<JournalError> for NetError {
    fn from(error: JournalError) -> Self {
        if error.is_full() { Self::Exhausted(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

impl From<NetError> for LaunchError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Missing(why) => LaunchError::Missing(why),
            NetError::Exhausted(why) => LaunchError::Exhausted(why),
            NetError::Conflict { .. } => LaunchError::Missing(error.to_string()),
            NetError::Refused(_) => LaunchError::Refused(error.to_string()),
        }
    }
}

/// Converts the kernel's error about `what`; EPERM is a missing privilege.
pub fn refused(what: &str) -> impl Fn(io::Error) -> NetError {
    move |error| match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EPERM => NetError::unprivileged(),
        _ => NetError::Refused(format!("{what}: {error}")),
    }
}
