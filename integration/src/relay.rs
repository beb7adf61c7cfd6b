//! A relay in front of a server: it breaks connections off, or holds them, at once or when they have brought so many bytes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What a relay does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// It passes everything on.
    Pass,
    /// It ends the connection behind so many bytes of the server.
    Cut(usize),
    /// It passes nothing on behind so many bytes of the server, until the mode is another one.
    Hold(usize),
    /// It passes nothing on in both directions, not even an end, until the mode is another one.
    Silent,
}

/// A running relay. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    mode: watch::Sender<RelayMode>,
    target: watch::Sender<Option<SocketAddr>>,
    stopped: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay whose server is named later.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(mode: RelayMode) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), mode).await
    }

    /// Starts a relay at this address.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start_at(address: SocketAddr, mode: RelayMode) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let (mode, target, stopped) = (watch::Sender::new(mode), watch::Sender::new(None), Arc::default());
        let (modes, mut targets, counter) = (mode.subscribe(), target.subscribe(), Arc::clone(&stopped));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = targets.wait_for(Option::is_some).await.map(|target| *target) else { return };
                let (modes, counter) = (modes.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server.expect("it was waited for")).await else { return };
                    relay(client, server, modes, &counter).await;
                });
            }
        });
        Self { address, mode, target, stopped, task }
    }

    /// Names the server.
    pub fn lead_to(&self, server: SocketAddr) {
        self.target.send_replace(Some(server));
    }

    /// Sets what is done with all connections from now on.
    pub fn set(&self, mode: RelayMode) {
        self.mode.send_replace(mode);
    }

    /// Returns how many connections were broken off or held.
    pub fn stopped(&self) -> usize {
        self.stopped.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes on until a side ends, or the mode says so.
async fn relay(client: TcpStream, server: TcpStream, modes: watch::Receiver<RelayMode>, stopped: &AtomicUsize) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = carry(from_client, to_server, modes.clone(), None) => {}
        () = carry(from_server, to_client, modes, Some(stopped)) => {}
    }
}

/// Carries the bytes of one side. `stopped` counts connections that were broken off or held behind so many bytes; without it
/// none is.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<RelayMode>,
    stopped: Option<&AtomicUsize>,
) {
    let (mut piece, mut passed, mut is_held) = (vec![0; 16 * 1024], 0, false);
    loop {
        let read = from.read(&mut piece).await.unwrap_or_default();
        passed += read;
        loop {
            let mode = *modes.borrow_and_update();
            match (mode, stopped) {
                (RelayMode::Cut(limit), Some(stopped)) if passed > limit => {
                    stopped.fetch_add(1, Relaxed);
                    return;
                }
                (RelayMode::Hold(limit), Some(stopped)) if passed > limit => {
                    if !std::mem::replace(&mut is_held, true) {
                        stopped.fetch_add(1, Relaxed);
                    }
                }
                (RelayMode::Silent, _) => {}
                _ => break,
            }
            if modes.changed().await.is_err() {
                return;
            }
        }
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
