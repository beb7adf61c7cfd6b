//! Claims of numbers among the daemons of this host.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

/// Claims a name until the returned socket is closed. An abstract address of a Unix socket exists once in a network
/// namespace, and ends with the daemon.
///
/// # Errors
/// When another daemon has it.
pub fn claim(name: &str) -> nix::Result<OwnedFd> {
    let claim = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(claim.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(claim)
}
