//! TCP keepalive: whether the other side of a silent connection is still there.

use std::{io, os::fd::AsFd};

use nix::sys::socket::{setsockopt, sockopt};

/// When and how often the kernel probes a silent peer, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// Seconds of silence until the first probe.
    pub idle: u32,
    /// Seconds between two probes.
    pub interval: u32,
    /// The number of unanswered probes after which the connection is reset.
    pub count: u32,
}

impl KeepAlive {
    /// Sets it for a connection, or for those that a listener accepts.
    ///
    /// # Errors
    /// What the system says.
    pub fn set(self, socket: &impl AsFd) -> io::Result<()> {
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &self.idle)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &self.interval)?;
        Ok(setsockopt(socket, sockopt::TcpKeepCount, &self.count)?)
    }
}
