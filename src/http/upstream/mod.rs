//! Connections to instances: opened, kept for the next request, and thrown away with the instance.
//!
//! Each HTTP worker has its own [`Pool`], because a connection belongs to the event loop that opened it. What is said on a
//! connection is `exchange.rs`, and `vigil.rs` knows when nothing more will be.

mod exchange;
mod vigil;

use std::{cell::RefCell, io, sync::Arc, time::Duration};

use foldhash::HashMap;
use tokio::{net::TcpStream, time::Instant};
use unifaas_actors::{Endpoint, InstanceId};

pub use exchange::{Answer, Exchange, ExchangeError};

use super::socket::Socket;
use vigil::Vigil;

/// How long an unused connection is kept: less than the five seconds after which common servers close theirs.
const KEPT: Duration = Duration::from_secs(4);
/// After how long an unused connection gives back the memory that only large bodies need.
const SWOLLEN: Duration = Duration::from_secs(1);
/// Unused connections kept per instance and worker.
const KEPT_PER_INSTANCE: usize = 64;

/// One connection to an instance. Boxed, as it goes from hand to hand.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    /// Whether it has served a request before: the instance may be closing it right now.
    reused: bool,
    vigil: Vigil,
}

impl Connection {
    /// Opens a connection.
    pub async fn open(endpoint: &Arc<Endpoint>) -> io::Result<Box<Self>> {
        let io = TcpStream::connect(endpoint.address).await?;
        io.set_nodelay(true)?;
        Ok(Box::new(Self { socket: Socket::new(io), reused: false, vigil: Vigil::over(endpoint) }))
    }

    /// Whether it can take another request as far as can be known without asking the other side.
    fn is_quiet(&self) -> bool {
        // Between requests an instance has nothing to say: bytes, an end or an error all mean that it is of no use.
        let would_block = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.socket.input.is_empty() && self.socket.io().try_read(&mut [0]).is_err_and(would_block)
    }
}

/// The unused connections of one HTTP worker.
#[derive(Debug, Default)]
pub struct Pool(RefCell<HashMap<InstanceId, Kept>>);

#[derive(Debug)]
struct Kept {
    endpoint: Arc<Endpoint>,
    connections: Vec<(Box<Connection>, Instant)>,
}

impl Pool {
    /// A connection that the instance has kept open, the most recently used one.
    pub fn take(&self, instance: InstanceId, now: Instant) -> Option<Box<Connection>> {
        let mut pool = self.0.borrow_mut();
        let kept = pool.get_mut(&instance)?;
        while let Some((connection, since)) = kept.connections.pop() {
            if now - since < KEPT && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn give_back(&self, endpoint: &Arc<Endpoint>, mut connection: Box<Connection>) {
        if !endpoint.is_live() || endpoint.spec.single_use {
            return;
        }
        connection.reused = true;
        let mut pool = self.0.borrow_mut();
        let kept = pool
            .entry(endpoint.instance)
            .or_insert_with(|| Kept { endpoint: endpoint.clone(), connections: Vec::new() });
        if kept.connections.len() < KEPT_PER_INSTANCE {
            kept.connections.push((connection, Instant::now()));
        }
    }

    /// Throws away what is too old or belongs to an instance that is gone. To be called every second or so.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, kept| {
            kept.connections.retain_mut(|(connection, since)| {
                if now - *since > SWOLLEN {
                    connection.socket.shrink();
                }
                now - *since < KEPT
            });
            kept.endpoint.is_live() && !kept.connections.is_empty()
        });
    }
}
