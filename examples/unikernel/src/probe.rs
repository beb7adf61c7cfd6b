//! Probes whether this guest can connect to an address: tests use it to see what a guest can reach.

use core::net::SocketAddrV4;

use smoltcp::{iface::SocketHandle, socket::tcp};

use crate::sockets::{Sockets, Turn};

/// Timeout of a connection attempt, in microseconds.
const CONNECT_TIMEOUT: u64 = 2_000_000;

/// Runs one probe at a time; further ones wait for it.
pub struct Probe {
    socket: SocketHandle,
    state: State,
}

enum State {
    Idle,
    Trying { owner: SocketHandle, until: u64 },
    Over { owner: SocketHandle, outcome: &'static str },
}

impl Probe {
    /// Creates an idle probe.
    pub fn new(sockets: &mut Sockets) -> Self {
        Self { socket: sockets.add(), state: State::Idle }
    }

    /// Starts a probe for a connection if none runs, and returns the outcome once it is known.
    pub fn ask(&mut self, owner: SocketHandle, server: SocketAddrV4, turn: &mut Turn<'_>) -> Option<&'static str> {
        match self.state {
            State::Idle if turn.connect(self.socket, server) => {
                self.state = State::Trying { owner, until: turn.now + CONNECT_TIMEOUT };
                None
            }
            State::Idle => Some("unreachable"),
            State::Over { owner: other, outcome } if other == owner => {
                self.state = State::Idle;
                Some(outcome)
            }
            _ => None,
        }
    }

    /// Drops the outcome for a connection that has ended.
    pub fn forget(&mut self, owner: SocketHandle) {
        if matches!(self.state, State::Trying { owner: other, .. } | State::Over { owner: other, .. } if other == owner)
        {
            self.state = State::Idle;
        }
    }

    /// Checks the progress of the attempt.
    pub fn step(&mut self, turn: &mut Turn<'_>) {
        let State::Trying { owner, until } = self.state else { return };
        turn.waiting = true;
        let now = turn.now;
        let socket = turn.socket(self.socket);
        let outcome = match socket.state() {
            tcp::State::SynSent if now < until => return,
            tcp::State::SynSent => "timeout",
            tcp::State::Closed => "refused",
            _ => "open",
        };
        socket.abort();
        self.state = State::Over { owner, outcome };
        turn.again = true;
    }
}
