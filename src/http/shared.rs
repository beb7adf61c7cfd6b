//! What all HTTP workers share: the actors' directories, settings and limits.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use arc_swap::ArcSwap;
use serde::Serialize;
use slog::Logger;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use unifaas_actors::{AdmissionActor, Callbacks, Directory, History};

use super::{
    accept_policy::ListenerKind,
    access_log::{AccessLogMode, write_overdue},
    connections::Connections,
    status::ErrorDetail,
};
use crate::{
    cli::AdminRead,
    cluster::Cluster,
    host::function_peers::FunctionPeers,
    inbox::Inbox,
    log::LogThrottle,
    snapshot::SnapshotStore,
    trace::Tracer,
    upstream::{ConnectionPools, MalformedResponses},
};

/// Connections that there may be at the admin listener and at that of metrics, and at the callback listener. Each is short.
const MAX_ADMIN_CONNECTIONS: usize = 64;
const MAX_CALLBACK_CONNECTIONS: usize = 1024;
/// Of those, as many from one address.
const MAX_PER_ADDRESS: usize = 32;
/// Between two looks whether there are connections, and how many in a row find none at the end.
const CONNECTIONS_INTERVAL: Duration = Duration::from_millis(10);
const CONNECTIONS_LOOKS: u32 = 10;

/// What every HTTP worker shares.
pub struct Shared {
    /// The functions there are.
    pub directory: Arc<Directory>,
    /// Receives ready callbacks.
    pub callbacks: Arc<Callbacks>,
    /// What instances have of the host.
    pub admission: Addr<AdmissionActor>,
    /// What is remembered of instances.
    pub history: Arc<History>,
    /// The snapshots that are kept.
    pub snapshots: Arc<SnapshotStore>,
    /// Where the workers log.
    pub log: Logger,
    /// Shown at `/debug`.
    settings: ArcSwap<Settings>,
    /// When the daemon started.
    pub started: Instant,
    /// Which peer addresses and user ids belong to functions.
    pub function_peers: FunctionPeers,
    /// Connections to instances.
    pub upstream: Arc<ConnectionPools>,
    /// Traces requests, if that was asked for.
    pub tracer: Option<Tracer>,
    /// Asynchronous invocations.
    pub inbox: Inbox,
    /// The other nodes, if there may be any.
    pub cluster: Option<Cluster>,
    /// How much answers to failed requests say.
    pub error_detail: ErrorDetail,
    access_log: AtomicU8,
    pub(super) limits: ConnLimits,
    /// Of each [`ListenerKind`].
    connections: [Arc<Connections>; ListenerKind::ALL.len()],
    pub(super) malformed_responses: MalformedResponses,
    pub log_throttles: LogThrottles,
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

/// What the HTTP workers know of the actors.
pub struct Actors {
    pub directory: Arc<Directory>,
    pub callbacks: Arc<Callbacks>,
    pub admission: Addr<AdmissionActor>,
    pub history: Arc<History>,
    pub snapshots: Arc<SnapshotStore>,
    /// The other nodes, if there may be any.
    pub cluster: Option<Cluster>,
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
pub struct LogThrottles {
    pub foreign_address: LogThrottle,
    pub too_many_connections: LogThrottle,
    pub unknown_token: LogThrottle,
    pub unknown_user: LogThrottle,
}

/// The daemon's settings, as `/debug` shows them.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The configuration file.
    pub config: Option<String>,
    pub registry: String,
    pub listen: String,
    pub callback_listen: String,
    pub admin_listen: Option<String>,
    pub metrics_listen: Option<String>,
    pub peer_listen: Option<String>,
    pub otlp_endpoint: Option<String>,
    /// The brokers of triggers, without their passwords.
    pub nats: Option<String>,
    pub mqtt: Option<String>,
    pub trace_sample: f64,
    pub admin_read: AdminRead,
    /// The group whose members may act.
    pub admin_group: Option<String>,
    pub tls_cert: Option<String>,
    pub subnet: String,
    pub state_dir: String,
    pub drain_grace_seconds: f64,
    pub error_detail: ErrorDetail,
    pub access_log: AccessLogMode,
    pub max_connections: usize,
    pub max_connections_per_client: usize,
    /// 0: none.
    pub client_timeout_seconds: f64,
    /// Memory that instances may use together, in MiB.
    pub memory_budget: u64,
    /// As it was configured.
    pub snapshot_budget: String,
    pub max_starts: usize,
    /// Space of the inbox, in MiB.
    pub inbox_size: u64,
    /// Attempts of asynchronous invocations at once.
    pub async_concurrency: usize,
    /// `None`: without bound.
    pub max_process_starts: Option<NonZeroUsize>,
}

impl Shared {
    /// Makes the shared part of a daemon that has just started.
    pub fn new(
        actors: Actors,
        function_peers: FunctionPeers,
        limits: ConnLimits,
        settings: Settings,
        tracer: Option<Tracer>,
        inbox: Inbox,
        log: Logger,
    ) -> Self {
        let Actors { directory, callbacks, admission, history, snapshots, cluster } = actors;
        Self {
            directory,
            callbacks,
            admission,
            history,
            snapshots,
            log,
            started: Instant::now(),
            function_peers,
            upstream: ConnectionPools::new(),
            tracer,
            inbox,
            cluster,
            error_detail: settings.error_detail,
            access_log: AtomicU8::new(settings.access_log as u8),
            settings: ArcSwap::from_pointee(settings),
            limits,
            connections: ListenerKind::ALL.map(|kind| match kind {
                ListenerKind::Front => Connections::new(limits.connections, limits.connections_per_client),
                ListenerKind::Admin | ListenerKind::Metrics => Connections::new(MAX_ADMIN_CONNECTIONS, MAX_PER_ADDRESS),
                // Each of a few nodes has many.
                ListenerKind::Peer => Connections::new(limits.connections, limits.connections),
                ListenerKind::Callback => Connections::new(MAX_CALLBACK_CONNECTIONS, MAX_PER_ADDRESS),
            }),
            malformed_responses: MalformedResponses::default(),
            log_throttles: LogThrottles::default(),
            phase: AtomicU8::new(Phase::Serving as u8),
            kept: watch::Sender::new(KeptConnections::Served),
        }
    }

    /// Returns which requests are logged.
    pub(super) fn access_log(&self) -> AccessLogMode {
        match self.access_log.load(Ordering::Relaxed) {
            off if off == AccessLogMode::Off as u8 => AccessLogMode::Off,
            all if all == AccessLogMode::All as u8 => AccessLogMode::All,
            _ => AccessLogMode::Failed,
        }
    }

    /// Changes which requests are logged.
    pub fn set_access_log(&self, mode: AccessLogMode) {
        self.access_log.store(mode as u8, Ordering::Relaxed);
        self.update_settings(|settings| settings.access_log = mode);
    }

    /// Writes what the log lacks of failures: the number of those that have had no line of their own.
    pub fn log_overdue_failures(&self) {
        write_overdue(self);
    }

    /// Returns the connections of a listener.
    pub fn connections(&self, kind: ListenerKind) -> &Arc<Connections> {
        &self.connections[kind as usize]
    }

    /// Returns the settings.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Changes the settings that are shown.
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.settings.load());
        change(&mut settings);
        self.settings.store(Arc::new(settings));
    }

    /// From now on connections of the front end after their response: another process takes the next ones. Live pages end.
    pub fn start_handover(&self) {
        self.phase.store(Phase::HandingOver as u8, Ordering::Release);
        self.kept.send_replace(KeptConnections::Ending);
        self.history.feed.close();
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

    /// From now on every request is refused, and connections end after their response. Live pages end.
    pub fn start_draining(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::Release);
        self.history.feed.close();
    }

    pub fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Draining as u8
    }

    /// Whether connections end after their response.
    pub(super) fn ends_connections(&self) -> bool {
        self.phase.load(Ordering::Acquire) != Phase::Serving as u8
    }

    /// Returns what is done with kept connections of the front.
    pub(super) fn kept_connections(&self) -> watch::Receiver<KeptConnections> {
        self.kept.subscribe()
    }
}
