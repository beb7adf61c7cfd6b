//! Which connections a listener accepts, decided by their addresses before a byte of them is read.
//!
//! What a proxy says about addresses counts for nothing here: only the connection itself does. How many connections there
//! may be is `connections.rs`'s matter, who sees the admin pages that of `admin/access.rs`.

use std::{io, net::SocketAddr};

use serde::{Deserialize, Serialize};
use slog::warn;
use tokio::net::TcpStream;

use super::{connections::ConnectionGuard, server_state::ServerState};
use crate::host::function_peers::FunctionPeers;

/// Which of the daemon's listeners. Daemons of other versions know the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerKind {
    Front,
    Callback,
    Admin,
    Metrics,
    /// Other nodes forward requests to it.
    Peer,
}

/// The two addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAddrs {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl ConnAddrs {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When the connection has broken already.
    pub fn of(connection: &TcpStream) -> io::Result<Self> {
        Ok(Self { peer: connection.peer_addr()?, local: connection.local_addr()? })
    }
}

impl ListenerKind {
    /// Every listener, in the order of the discriminants.
    pub const ALL: [Self; 5] = [Self::Front, Self::Callback, Self::Admin, Self::Metrics, Self::Peer];

    /// Whether a connection with these addresses may be served.
    fn accepts(self, ConnAddrs { peer, local }: ConnAddrs, functions: &FunctionPeers) -> bool {
        let (from, at) = (peer.ip().to_canonical(), local.ip().to_canonical());
        match self {
            _ if from.is_loopback() => true,
            Self::Metrics => true,
            // Functions are called; they do not call the daemon.
            Self::Front | Self::Admin | Self::Peer => !functions.include(peer),
            // Functions, and this host, which reaches itself at any of its addresses.
            Self::Callback => from == at || functions.include(peer),
        }
    }

    /// Returns the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Admin => "admin",
            Self::Callback => "callback",
            Self::Metrics => "metrics",
            Self::Peer => "peer",
        }
    }
}

/// Admits a connection if its addresses fit the listener and the limit of connections allows it.
pub fn admit(kind: ListenerKind, server: &ServerState, addrs: ConnAddrs) -> Option<ConnectionGuard> {
    let (from, connections) = (addrs.peer.ip(), server.connections(kind));
    if !kind.accepts(addrs, &server.function_peers) {
        connections.count_foreign();
        if let Some(times) = server.foreign_address.due() {
            warn!(server.log, "connection refused: the listener does not serve its address"; "listener" => kind.name(),
                "from" => %from, "times" => times);
        }
        return None;
    }
    let guard = connections.admit(from);
    if guard.is_none()
        && let Some(times) = server.too_many_connections.due()
    {
        warn!(server.log, "connections refused: the limit is reached"; "listener" => kind.name(), "from" => %from,
            "times" => times);
    }
    guard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ListenerKind, peer: &str, local: &str, accepted: bool) {
        let functions = FunctionPeers::default();
        functions.add_network("bridge", vec!["172.17.0.0/16".parse().unwrap()]);
        let addrs = ConnAddrs { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
        assert_eq!(kind.accepts(addrs, &functions), accepted, "{kind:?}: {addrs:?}");
    }

    #[test]
    fn the_order_of_listeners_is_that_of_other_versions() {
        let order = ListenerKind::ALL.map(|kind| (kind as usize, kind.name()));
        assert_eq!(order, [(0, "front"), (1, "callback"), (2, "admin"), (3, "metrics"), (4, "peer")]);
    }

    #[test]
    fn functions_are_accepted_by_the_callback_listener_and_that_of_metrics() {
        for (peer, local) in [("172.17.0.2:5", "172.17.0.1:3"), ("[::ffff:172.17.0.2]:5", "[::ffff:192.0.2.7]:3")] {
            check(ListenerKind::Callback, peer, local, true);
            check(ListenerKind::Front, peer, local, false);
            check(ListenerKind::Admin, peer, local, false);
            check(ListenerKind::Peer, peer, local, false);
            check(ListenerKind::Metrics, peer, local, true);
        }
    }

    #[test]
    fn other_hosts_are_accepted_except_by_the_callback_listener() {
        for (peer, local) in [("192.0.2.9:5", "192.0.2.7:3"), ("[2001:db8::9]:5", "[2001:db8::7]:3")] {
            check(ListenerKind::Callback, peer, local, false);
            check(ListenerKind::Front, peer, local, true);
            check(ListenerKind::Admin, peer, local, true);
            check(ListenerKind::Peer, peer, local, true);
        }
    }

    #[test]
    fn this_host_is_accepted_at_each_of_its_addresses() {
        for (peer, local) in [
            ("127.0.0.1:5", "127.0.0.1:3"),
            ("[::1]:5", "[::1]:3"),
            ("127.0.0.1:5", "127.0.0.5:3"),
            ("192.0.2.7:5", "192.0.2.7:3"),
            ("[::ffff:192.0.2.7]:5", "[::ffff:192.0.2.7]:3"),
        ] {
            for kind in ListenerKind::ALL {
                check(kind, peer, local, true);
            }
        }
    }
}
