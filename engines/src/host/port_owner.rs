//! Which process listens on an address, for the message that the address is in use.

use std::{fmt, net::SocketAddr};

use nix::unistd::{Uid, User};
use procfs::{
    net::{TcpState, tcp, tcp6},
    process::{FDTarget, all_processes},
};

/// What keeps an address in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOwner {
    /// The process that listens.
    Process {
        /// Its command name, of at most 15 bytes.
        name: String,
        /// Its PID.
        pid: i32,
    },
    /// A process of this user id that this one may not look into: a service has no right to, not even as root.
    OfUser(u32),
}

impl PortOwner {
    /// Returns what keeps others from listening on an address. `None`: it has just ended.
    pub fn of(address: SocketAddr) -> Option<Self> {
        let sockets = tcp().into_iter().chain(tcp6()).flatten();
        let mut sockets = sockets
            .filter(|socket| socket.state == TcpState::Listen && overlap(socket.local_address, address))
            .peekable();
        let user = sockets.peek()?.uid;
        let inodes: Vec<_> = sockets.map(|socket| socket.inode).collect();
        let mut owners = all_processes().into_iter().flatten().filter_map(Result::ok).filter(|process| {
            let targets = process.fd().into_iter().flatten().filter_map(Result::ok).map(|file| file.target);
            targets.into_iter().any(|target| matches!(target, FDTarget::Socket(inode) if inodes.contains(&inode)))
        });
        let process = owners.find_map(|owner| Some(Self::Process { name: owner.stat().ok()?.comm, pid: owner.pid() }));
        Some(process.unwrap_or(Self::OfUser(user)))
    }
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "{name} (pid {pid})"),
            Self::OfUser(uid) => match User::from_uid(Uid::from_raw(*uid)) {
                Ok(Some(user)) => write!(f, "a process of {}", user.name),
                _ => write!(f, "a process of the user {uid}"),
            },
        }
    }
}

/// Whether two sockets cannot listen on these addresses at the same time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_owner_is_found_behind_any_address_that_overlaps() {
        for (bound, others) in [
            ("127.0.0.1:0", &["127.0.0.1", "0.0.0.0", "[::]"][..]),
            ("0.0.0.0:0", &["127.0.0.1", "0.0.0.0"]),
            ("[::1]:0", &["[::1]", "[::]"]),
        ] {
            let Ok(listener) = TcpListener::bind(bound) else {
                assert!(bound.starts_with('['), "only IPv6 may be missing");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            for other in others {
                let owner = PortOwner::of(format!("{other}:{port}").parse().unwrap()).expect("an owner");
                assert!(owner.to_string().ends_with(&format!(" (pid {})", std::process::id())), "{owner}");
            }
            assert_eq!(PortOwner::of(format!("127.0.0.2:{port}").parse().unwrap()).is_some(), bound == "0.0.0.0:0");
            drop(listener);
            assert_eq!(PortOwner::of(format!("127.0.0.1:{port}").parse().unwrap()), None);
        }
    }

    #[test]
    fn a_user_is_named() {
        assert_eq!(PortOwner::OfUser(0).to_string(), "a process of root");
        assert_eq!(PortOwner::OfUser(u32::MAX - 2).to_string(), format!("a process of the user {}", u32::MAX - 2));
    }
}
