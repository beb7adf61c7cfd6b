//! What all parts of the daemon that answer requests share: the actors' directories, settings, and what serves them.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use actix::Addr;
use arc_swap::ArcSwap;
use clap::ValueEnum;
use serde::Serialize;
use slog::Logger;
use tokio::time::Instant;
use unifaas_actors::{AdmissionActor, Callbacks, Directory, History};

use crate::{
    cluster::Cluster,
    failure::ErrorDetail,
    http::{ListenerKind, ServerState},
    inbox::Inbox,
    log::{AccessLogMode, LogThrottle},
    snapshot::SnapshotStore,
    trace::Tracer,
    upstream::{ConnectionPools, MalformedResponses},
};

/// What all parts of the daemon that answer requests share.
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
    /// Where requests are logged.
    pub log: Logger,
    /// Shown at `/debug`.
    settings: ArcSwap<Settings>,
    /// When the daemon started.
    pub started: Instant,
    /// The listeners' part.
    pub server: ServerState,
    /// Connections to instances.
    pub upstream: Arc<ConnectionPools>,
    /// Instances with malformed responses.
    pub malformed_responses: MalformedResponses,
    /// Traces requests, if that was asked for.
    pub tracer: Option<Tracer>,
    /// Asynchronous invocations.
    pub inbox: Inbox,
    /// The other nodes, if there may be any.
    pub cluster: Option<Cluster>,
    /// How much answers to failed requests say.
    pub error_detail: ErrorDetail,
    access_log: AtomicU8,
    pub log_throttles: LogThrottles,
}

/// What is known of the actors.
pub struct Actors {
    pub directory: Arc<Directory>,
    pub callbacks: Arc<Callbacks>,
    pub admission: Addr<AdmissionActor>,
    pub history: Arc<History>,
    pub snapshots: Arc<SnapshotStore>,
    /// The other nodes, if there may be any.
    pub cluster: Option<Cluster>,
}

/// Log lines that anybody can cause, each written at most once in a while.
#[derive(Debug, Default)]
pub struct LogThrottles {
    pub unknown_token: LogThrottle,
    pub unknown_user: LogThrottle,
}

/// Which users of this host see the admin pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AdminRead {
    Anyone,
    Group,
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
        server: ServerState,
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
            server,
            upstream: ConnectionPools::new(),
            malformed_responses: MalformedResponses::default(),
            tracer,
            inbox,
            cluster,
            error_detail: settings.error_detail,
            access_log: AtomicU8::new(settings.access_log as u8),
            settings: ArcSwap::from_pointee(settings),
            log_throttles: LogThrottles::default(),
        }
    }

    /// Returns which requests are logged.
    pub fn access_log(&self) -> AccessLogMode {
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

    /// Returns how many callbacks were refused since the daemon started, also by the address of their connection.
    pub fn callbacks_refused(&self) -> u64 {
        self.callbacks.refused() + self.server.connections(ListenerKind::Callback).foreign()
    }

    /// From now on connections of the front end after their response: another process takes the next ones. Live pages end.
    pub fn start_handover(&self) {
        self.server.start_handover();
        self.history.feed.close();
    }

    /// From now on every request is refused, and connections end after their response. Live pages end.
    pub fn start_draining(&self) {
        self.server.start_draining();
        self.history.feed.close();
    }

    pub fn is_draining(&self) -> bool {
        self.server.is_draining()
    }
}
