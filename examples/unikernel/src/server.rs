//! The HTTP server: its connections, and a few sockets that listen.

use core::{net::Ipv4Addr, slice};

use crate::{
    connection::{Connection, Head},
    once::Once,
    probe::Probe,
    sockets::Turn,
};

/// Maximum number of connections. Further clients take the place of idle ones, or are refused.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a connection must have been idle to be closed for a new client, in microseconds.
const IDLE: u64 = 250_000;

static HEADS: Once<[Head; MAX_CONNECTIONS]> = Once::new([Head::EMPTY; MAX_CONNECTIONS]);

/// The server. It creates connections as they are needed, since each costs instructions in every step, and keeps them.
pub struct Server {
    connections: [Option<Connection>; MAX_CONNECTIONS],
    made: usize,
    heads: slice::IterMut<'static, Head>,
    address: Ipv4Addr,
    spare: usize,
}

impl Server {
    /// Creates a server that listens from its first step on. `spare` sockets listen: as many as clients can connect between
    /// two steps.
    pub fn new(address: Ipv4Addr, spare: usize) -> Self {
        Self { connections: [const { None }; MAX_CONNECTIONS], made: 0, heads: HEADS.take().iter_mut(), address, spare }
    }

    /// Advances every connection.
    pub fn step(&mut self, turn: &mut Turn<'_>, probe: &mut Probe) {
        let (mut listening, mut closing) = (0, 0);
        for connection in self.connections[..self.made].iter_mut().flatten() {
            connection.step(turn, probe, self.address);
            listening += usize::from(connection.is_listening(turn));
            closing += usize::from(connection.is_closing());
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
        if listening + closing < self.spare {
            self.make_room(turn);
        }
    }

    /// Closes the connection that has been idle for longest.
    fn make_room(&mut self, turn: &mut Turn<'_>) {
        let connections = self.connections.iter_mut().flatten();
        let idle = connections.filter_map(|connection| Some((connection.idle_since(turn)?, connection)));
        if let Some((since, connection)) = idle.min_by_key(|(since, _)| *since)
            && turn.now - since >= IDLE
        {
            connection.hang_up(turn);
        }
    }
}
