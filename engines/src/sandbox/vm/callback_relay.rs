//! Passes callbacks of one guest on to the callback listener.
//!
//! Only its tap distinguishes a guest with the address of clones: the listener that answers it is bound to that tap.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet, spawn_local},
    time::{sleep, timeout},
};

use crate::net::TapLease;

/// Connections at the same time, of which the rest waits.
const MAX_CONNECTIONS: usize = 4;
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Ends with this, and all of its connections as well.
#[derive(Debug)]
pub struct CallbackRelay(AbortHandle);

impl CallbackRelay {
    /// Listens on a tap, and passes connections on to an address.
    ///
    /// # Errors
    /// When the port or the tap cannot be used.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn listen(tap: &TapLease, to: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind_device(Some(tap.name.as_bytes()))?;
        socket.set_reuseaddr(true)?;
        // The relay of the last guest on this tap may be about to end.
        socket.set_reuseport(true)?;
        socket.bind((tap.link.gateway, tap.callback_port).into())?;
        let listener = socket.listen(MAX_CONNECTIONS as u32)?;
        Ok(Self(spawn_local(relay(listener, to)).abort_handle()))
    }
}

impl Drop for CallbackRelay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn relay(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((guest, _)) => drop(connections.spawn_local(timeout(CONNECTION_TIMEOUT, pass(guest, to)))),
                // No file is free, for instance.
                Err(_) => sleep(RETRY_INTERVAL).await,
            },
        }
    }
}

async fn pass(mut guest: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut callback = TcpStream::connect(to).await?;
    copy_bidirectional(&mut guest, &mut callback).await.map(drop)
}
