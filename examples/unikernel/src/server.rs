//! The HTTP server: as many connections as are needed, and a few that wait for a client.

use core::{net::Ipv4Addr, slice};

use crate::{
    connection::{Connection, Head},
    once::Once,
    probe::Probe,
    sockets::Turn,
};

/// Most connections at a time; further clients are refused.
pub const COUNT: usize = 64;

static HEADS: Once<[Head; COUNT]> = Once::new([Head::EMPTY; COUNT]);

/// The server. It makes connections as they are needed and keeps them: each costs instructions in every turn.
pub struct Server {
    connections: [Option<Connection>; COUNT],
    made: usize,
    heads: slice::IterMut<'static, Head>,
    address: Ipv4Addr,
    spare: usize,
}

impl Server {
    /// A server at this address, which is not listening before its first step. `spare` connections wait for clients:
    /// as many as can come before the next step.
    pub fn new(address: Ipv4Addr, spare: usize) -> Self {
        Self { connections: [const { None }; COUNT], made: 0, heads: HEADS.take().iter_mut(), address, spare }
    }

    /// Gets on with every connection.
    pub fn step(&mut self, turn: &mut Turn<'_>, probe: &mut Probe) {
        let mut listening = 0;
        for connection in self.connections[..self.made].iter_mut().flatten() {
            connection.step(turn, probe, self.address);
            listening += usize::from(connection.is_listening(turn));
        }
        while listening < self.spare
            && let Some(head) = self.heads.next()
        {
            let mut connection = Connection::new(turn.sockets.add(), head);
            connection.step(turn, probe, self.address);
            self.connections[self.made] = Some(connection);
            self.made += 1;
            listening += 1;
        }
    }
}
