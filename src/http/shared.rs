//! What all HTTP workers share: the actors' directories, settings and limits.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use serde::Serialize;
use slog::Logger;
use tokio::{sync::Semaphore, time::Instant};
use unifaas_actors::{AdmissionActor, Callbacks, Directory};

use super::{conn_limit::ConnectionLimiter, malformed::MalformedResponses, upstream::ConnectionPools};
use crate::{host::function_peers::FunctionPeers, log::LogThrottle};

/// What every HTTP worker shares.
pub struct Shared {
    /// The functions there are.
    pub directory: Arc<Directory>,
    /// Receives ready callbacks.
    pub callbacks: Arc<Callbacks>,
    /// What instances have of the host.
    pub admission: Addr<AdmissionActor>,
    /// Where the workers log.
    pub log: Logger,
    /// Shown at `/debug`.
    pub settings: Settings,
    /// When the daemon started.
    pub started: Instant,
    /// Which peer addresses and user ids belong to functions.
    pub function_peers: FunctionPeers,
    /// Connections to instances.
    pub upstream: Arc<ConnectionPools>,
    pub(super) limits: ConnLimits,
    /// Of the front.
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) malformed_responses: MalformedResponses,
    pub(super) log_throttles: LogThrottles,
    /// Whose turn it is to write a slice of a page that walks all functions.
    pub(super) page_slices: Semaphore,
    draining: AtomicBool,
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

/// Log lines that anybody can cause, each written at most once in a while.
#[derive(Debug, Default)]
pub(super) struct LogThrottles {
    pub foreign_address: LogThrottle,
    pub too_many_connections: LogThrottle,
    pub unknown_token: LogThrottle,
    pub unknown_user: LogThrottle,
}

/// The daemon's settings, as `/debug` shows them.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub registry: String,
    pub listen: String,
    pub callback_listen: String,
    pub admin_listen: Option<String>,
    pub tls_cert: Option<String>,
    pub subnet: String,
    pub state_dir: String,
    pub drain_grace_seconds: f64,
    pub max_connections: usize,
    pub max_connections_per_client: usize,
    /// 0: none.
    pub client_timeout_seconds: f64,
    /// Memory that instances may use together, in MiB.
    pub memory_budget: u64,
    pub max_starts: usize,
    /// `None`: without bound.
    pub max_process_starts: Option<NonZeroUsize>,
}

impl Shared {
    /// Makes the shared part of a daemon that has just started.
    pub fn new(
        directory: Arc<Directory>,
        callbacks: Arc<Callbacks>,
        admission: Addr<AdmissionActor>,
        function_peers: FunctionPeers,
        limits: ConnLimits,
        settings: Settings,
        log: Logger,
    ) -> Self {
        Self {
            directory,
            callbacks,
            admission,
            log,
            settings,
            started: Instant::now(),
            function_peers,
            upstream: ConnectionPools::new(),
            limits,
            limiter: ConnectionLimiter::new(limits.connections, limits.connections_per_client),
            malformed_responses: MalformedResponses::default(),
            log_throttles: LogThrottles::default(),
            page_slices: Semaphore::new(1),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on every request is refused, and connections end after their response.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
