//! Who is heard at which listener, decided by where a connection comes from before a byte of it is read.
//!
//! A proxy's word about addresses counts for nothing here: only the connection itself. How many may come is `crowd.rs`'s
//! business, what each listener says `invoke.rs`', `debug.rs`' and `ready.rs`'.

use std::{net::SocketAddr, rc::Rc};

use slog::warn;
use tokio::net::TcpStream;

use super::{
    Shared,
    crowd::{Crowd, Guest},
};
use crate::host::function_peers::FunctionPeers;

/// Which of the daemon's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Front,
    Admin,
    Callback,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Door {
    /// Whether whoever is at the other end of such a connection is heard.
    fn is_open_to(self, Ends { peer, local }: Ends, peers: &FunctionPeers) -> bool {
        let (from, at) = (peer.ip().to_canonical(), local.ip().to_canonical());
        match self {
            _ if from.is_loopback() => true,
            // Functions are called; whom they call is no business of the daemon.
            Door::Front | Door::Admin => !peers.include(peer),
            // Functions, and this host, which calls itself at whichever address it has. Nobody else has a token.
            Door::Callback => from == at || peers.include(peer),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Door::Front => "front",
            Door::Admin => "admin",
            Door::Callback => "callback",
        }
    }
}

/// Lets a connection in if it belongs there and as long as there is room for it.
pub fn let_in(door: Door, shared: &Shared, crowd: &Rc<Crowd>, connection: &TcpStream) -> Option<(Ends, Guest)> {
    // One that has broken already has no ends.
    let ends = Ends { peer: connection.peer_addr().ok()?, local: connection.local_addr().ok()? };
    let from = ends.peer.ip();
    if !door.is_open_to(ends, &shared.peers) {
        if door == Door::Callback {
            shared.callbacks.refuse();
        }
        if let Some(times) = shared.strangers.due() {
            warn!(shared.log, "connection was refused: its address has no business there"; "listener" => door.name(),
                "from" => %from, "times" => times);
        }
        return None;
    }
    let guest = crowd.admit(from);
    if guest.is_none()
        && let Some(times) = shared.crowded.due()
    {
        warn!(shared.log, "connections were refused: every place is taken"; "listener" => door.name(),
            "from" => %from, "times" => times);
    }
    Some((ends, guest?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(door: Door, peer: &str, local: &str, open: bool) {
        let peers = FunctionPeers::default();
        peers.add_network("bridge", vec!["172.17.0.0/16".parse().unwrap()]);
        let ends = Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
        assert_eq!(door.is_open_to(ends, &peers), open, "{door:?}: {ends:?}");
    }

    #[test]
    fn functions_are_heard_where_they_call_back_and_nowhere_else() {
        for (peer, local) in [("172.17.0.2:5", "172.17.0.1:3"), ("[::ffff:172.17.0.2]:5", "[::ffff:192.0.2.7]:3")] {
            check(Door::Callback, peer, local, true);
            check(Door::Front, peer, local, false);
            check(Door::Admin, peer, local, false);
        }
    }

    #[test]
    fn strangers_are_heard_everywhere_but_where_functions_call_back() {
        for (peer, local) in [("192.0.2.9:5", "192.0.2.7:3"), ("[2001:db8::9]:5", "[2001:db8::7]:3")] {
            check(Door::Callback, peer, local, false);
            check(Door::Front, peer, local, true);
            check(Door::Admin, peer, local, true);
        }
    }

    #[test]
    fn this_host_is_heard_at_each_of_its_addresses() {
        for (peer, local) in [
            ("127.0.0.1:5", "127.0.0.1:3"),
            ("[::1]:5", "[::1]:3"),
            ("127.0.0.1:5", "127.0.0.5:3"),
            ("192.0.2.7:5", "192.0.2.7:3"),
            ("[::ffff:192.0.2.7]:5", "[::ffff:192.0.2.7]:3"),
        ] {
            for door in [Door::Callback, Door::Front, Door::Admin] {
                check(door, peer, local, true);
            }
        }
    }
}
