//! What the HTTP workers of all listeners share: limits, the connections there are, and how these end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use slog::Logger;
use tokio::{sync::watch, time::sleep};

use super::{accept_policy::ListenerKind, connections::Connections};
use crate::{host::function_peers::FunctionPeers, log::LogThrottle};

/// Connections that there may be at the admin listener and at that of metrics, and at the callback listener. Each is short.
const MAX_ADMIN_CONNECTIONS: usize = 64;
const MAX_CALLBACK_CONNECTIONS: usize = 1024;
/// Of those, as many from one address.
const MAX_PER_ADDRESS: usize = 32;
/// Between two looks whether there are connections, and how many in a row find none at the end.
const CONNECTIONS_INTERVAL: Duration = Duration::from_millis(10);
const CONNECTIONS_LOOKS: u32 = 10;

/// What the HTTP workers of all listeners share.
pub struct ServerState {
    pub(super) limits: ConnLimits,
    /// Which peer addresses and user ids belong to functions.
    pub function_peers: FunctionPeers,
    /// Of each [`ListenerKind`].
    connections: [Arc<Connections>; ListenerKind::ALL.len()],
    pub(super) log: Logger,
    pub(super) foreign_address: LogThrottle,
    pub(super) too_many_connections: LogThrottle,
    /// A [`Phase`].
    phase: AtomicU8,
    kept: watch::Sender<KeptConnections>,
}

/// How requests and connections are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Serving,
    /// Another process takes the next connections. Requests are served, and their connections end.
    HandingOver,
    /// Requests are refused, and their connections end.
    Draining,
}

/// What is done with the connections of the front, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptConnections {
    Served,
    /// They end as soon as their clients allow it: HTTP/2 clients get a GOAWAY frame.
    Ending,
    ClosedIfIdle,
}

/// Limits of clients' connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address of another host.
    pub connections_per_client: usize,
    /// How long a client may be silent in the middle of a request, or take nothing of a response.
    pub client_timeout: Option<Duration>,
}

impl ServerState {
    /// Makes the state of servers without connections.
    pub fn new(limits: ConnLimits, function_peers: FunctionPeers, log: Logger) -> Self {
        Self {
            limits,
            function_peers,
            connections: ListenerKind::ALL.map(|kind| match kind {
                ListenerKind::Front => Connections::new(limits.connections, limits.connections_per_client),
                ListenerKind::Admin | ListenerKind::Metrics => Connections::new(MAX_ADMIN_CONNECTIONS, MAX_PER_ADDRESS),
                // Each of a few nodes has many.
                ListenerKind::Peer => Connections::new(limits.connections, limits.connections),
                ListenerKind::Callback => Connections::new(MAX_CALLBACK_CONNECTIONS, MAX_PER_ADDRESS),
            }),
            log,
            foreign_address: LogThrottle::default(),
            too_many_connections: LogThrottle::default(),
            phase: AtomicU8::new(Phase::Serving as u8),
            kept: watch::Sender::new(KeptConnections::Served),
        }
    }

    /// Returns the connections of a listener.
    pub fn connections(&self, kind: ListenerKind) -> &Arc<Connections> {
        &self.connections[kind as usize]
    }

    /// From now on connections of the front end after their response: another process takes the next ones.
    pub fn start_handover(&self) {
        self.phase.store(Phase::HandingOver as u8, Ordering::Release);
        self.kept.send_replace(KeptConnections::Ending);
    }

    /// Waits until these listeners have had no connection for a while: after a pause, a listener may accept another one yet.
    pub async fn no_connections(&self, listeners: &[ListenerKind]) {
        let mut looks = 0;
        while looks < CONNECTIONS_LOOKS {
            sleep(CONNECTIONS_INTERVAL).await;
            let is_free = listeners.iter().all(|kind| self.connections(*kind).report().open == 0);
            looks = if is_free { looks + 1 } else { 0 };
        }
    }

    /// Closes the idle connections of the front, now and from now on.
    pub fn close_idle(&self) {
        self.kept.send_replace(KeptConnections::ClosedIfIdle);
    }

    /// From now on every request is refused, and connections end after their response.
    pub fn start_draining(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Draining as u8
    }

    /// Whether connections end after their response.
    pub fn ends_connections(&self) -> bool {
        self.phase.load(Ordering::Acquire) != Phase::Serving as u8
    }

    /// Returns what is done with kept connections of the front.
    pub(super) fn kept_connections(&self) -> watch::Receiver<KeptConnections> {
        self.kept.subscribe()
    }
}
