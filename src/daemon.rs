//! Startup from checked settings to a serving daemon, which runs until a signal ends it. `serving.rs` and
//! `shutdown.rs` have what follows.
//!
//! Threads are joined before `run` returns, so the exit code covers them.

mod actors;
mod application;
mod error;
mod settings;

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use slog::{crit, info, o, warn};
use unifaas_actors::{
    AdmissionActor, Callbacks, ChangeSource, Directory, FollowTriggers, History, HostLimits, LoadedSpec, RegistryActor,
    Roots, Services, StartTracker, UsageTable, scan_all,
    spec::SPEC_FILE,
    trigger::{StartSources, TriggerActor},
};

use crate::{
    admin::{AccessRules, Control, Pages},
    broker::BrokerSettings,
    cluster::{Cluster, ClusterActors, NatsServers, PUBLISHED},
    config::Configuration,
    host::{self, function_peers::FunctionPeers, open_files, operators::Operators, signals::Signals},
    http::{Application, FrontSocket, ListenAddrs, Listeners, ServerState, Tls},
    inbox::{DeliveryKey, DeliverySettings, Inbox, InboxSettings, Site},
    invocation::StoredInvoker,
    log::{self, Logging},
    reload::Reloader,
    sandbox::{self, EngineSettings, Engines},
    service,
    serving::{End, Serving},
    shared::{Actors, Shared},
    shutdown::Shutdown,
    snapshot::SnapshotStore,
    state::{self, State},
    trace::Tracer,
    trigger::Sources,
    upgrade::{self, Inheritance, Lives, Recovery, UpgradeTrigger},
};
use actors::lost_actor;
use application::Served;
use error::DaemonError;
use settings::{EffectiveSettings, connection_limits, otlp_endpoint};

/// What outlives the actix system: its last threads may still log and remove journal entries.
#[derive(Default)]
struct Lasting {
    state: Option<State>,
    recovery: Recovery,
    logging: Option<Logging>,
}

/// Runs the daemon until a signal ends it. `on_serving` is called with the address of the front once it serves.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub fn run(configuration: Configuration, on_serving: impl FnOnce(SocketAddr)) -> Result<(), DaemonError> {
    // Before there are threads: both change what this process has inherited.
    let mut inheritance = Inheritance::receive()?;
    let listen = configuration.serve.listen;
    let front = match &mut inheritance {
        Some(inheritance) => inheritance.take_front(listen),
        None => FrontSocket::inherited_or(listen)?,
    };
    let mut lasting = Lasting::default();
    let system = actix::System::new();
    let result = system.block_on(serve(configuration, front, inheritance, &mut lasting, on_serving));
    // Ends the arbiters of the servers' workers.
    actix::System::current().stop();
    let stopped = system.run();
    let Lasting { state, recovery, logging } = lasting;
    recovery.close(state);
    drop(logging);
    result.and(stopped.map_err(DaemonError::System))
}

async fn serve(
    configuration: Configuration,
    front: FrontSocket,
    mut inheritance: Option<Inheritance>,
    lasting: &mut Lasting,
    on_serving: impl FnOnce(SocketAddr),
) -> Result<(), DaemonError> {
    let mut signals = Signals::listen()?;
    let program = upgrade::own_program()?;
    let options = configuration.serve.clone();
    let collector = otlp_endpoint(&options)?;
    let registry = options.registry.clone().unwrap_or_default();
    let root = readable_directory(&registry)?;
    let specs = scan_all(&root).map_err(|source| DaemonError::Registry { path: registry, source })?;
    let base = options.state_dir.clone().unwrap_or_else(state::default_directory);
    let (state, left) = match &inheritance {
        None => State::open(&base)?,
        Some(inheritance) if inheritance.is_of(&base) => State::open_life(&state::create_life(&base)?)?,
        Some(_) => return Err(DaemonError::StateDirectoryChanged(base)),
    };
    let base = base.canonicalize().unwrap_or(base);
    let published = options.cluster.cluster.is_some().then(|| base.join(PUBLISHED));
    let roots = Roots { registry: root.clone(), published };
    let specs = roots.with_published(specs);
    let state = lasting.state.insert(state);
    let deliver_key = options
        .deliver_key
        .as_ref()
        .map(|file| DeliveryKey::read(file).map_err(|source| DaemonError::DeliverKey { path: file.clone(), source }));
    let deliver_key = deliver_key.transpose()?;
    let sources = {
        let cluster = options.cluster.cluster.as_ref().map(NatsServers::first);
        BrokerSettings::load(&options.broker, cluster, &state::identity_of(&base)?)?
    };
    let tls =
        options.tls_cert.clone().zip(options.tls_key.clone()).map(|(cert, key)| Tls::load(cert, key)).transpose()?;
    let addrs = ListenAddrs {
        front: options.listen,
        callback: options.callback_listen,
        admin: options.admin_listen,
        metrics: options.metrics_listen,
        peer: options.cluster.peer_listen,
    };
    let passed = inheritance.as_mut().map(|it| std::mem::take(&mut it.listeners)).unwrap_or_default();
    let listeners = Listeners::bind(front, addrs, passed)?;
    let operators = Operators::of_group(options.admin_group.as_deref())?;
    let (front, callback, admin) = (listeners.front()?, listeners.callback()?, listeners.admin()?);

    // The daemon runs from here on. The failures above leave nothing behind.
    let logging = lasting.logging.insert(log::set_up(options.log_level, options.log_format));
    let (log, level) = (logging.log.clone(), logging.level.clone());
    warn_of_registry(&root, specs.is_empty(), &log);
    let callbacks = Arc::new(Callbacks::default());
    let directory = Arc::new(Directory::default());
    open_files::raise(&log).map_err(DaemonError::OpenFiles)?;
    let limits = HostLimits {
        memory: options.memory_budget.resolve(sandbox::memory_limit()).ok_or(DaemonError::UnknownMemory)?,
        process_starts: options.max_process_starts.map_or(usize::MAX, NonZeroUsize::get),
        starts: options.max_starts.map_or_else(host::budget::default_max_starts, NonZeroUsize::get),
    };
    let admission = AdmissionActor::launch(limits);
    let (subnet, tap_pool) = (options.subnet, options.tap_pool);
    let peers = FunctionPeers::default();
    let is_successor = inheritance.is_some();
    let (run_id, budget) = (state.run_id(), options.snapshot_budget);
    let snapshots = Arc::new(SnapshotStore::open(&base, run_id, budget, is_successor, &log));
    if !is_successor {
        snapshots.retain(|function| wants_snapshot(specs.get(function)));
    }
    let engine_settings =
        EngineSettings { callback, subnet, tap_pool, peers: peers.clone(), is_successor, snapshots: snapshots.clone() };
    let engines = Engines::new(engine_settings.clone(), state, &log)?;
    engines.reclaim(left, state, &engine_settings, &log).await;
    let own = state.directory().to_owned();
    let lives = Lives { base: &base, own: &own, engines: &engines, settings: &engine_settings, log: &log };
    if inheritance.is_none() {
        lasting.recovery.remove(&lives).await;
    }
    let mut predecessor = inheritance.map(|it| it.predecessor(admission.clone(), peers.clone())).transpose()?;
    engines.prepare(specs.values().filter_map(|loaded| loaded.as_deref().ok())).await?;
    let history = Arc::new(History::new(UsageTable::new(options.metrics_functions)));
    let services = Services {
        sandboxes: Box::new(engines.clone()),
        callbacks: callbacks.clone(),
        admission: admission.clone(),
        history: history.clone(),
        starts: StartTracker::default(),
    };
    let actors =
        RegistryActor::launch(roots.clone(), specs, directory.clone(), services, ChangeSource::Watcher, log.clone());
    let conn_limits = connection_limits(&options, &log);
    let async_concurrency =
        options.async_concurrency.map_or_else(host::budget::default_async_concurrency, NonZeroUsize::get);
    let settings = EffectiveSettings {
        root: &root,
        listeners: &listeners,
        state_dir: state.directory(),
        operators: &operators,
        collector: collector.as_ref(),
        limits,
        connections: &conn_limits,
        async_concurrency,
    };
    let settings = settings.shown(&configuration)?;
    if options.listen != front && configuration.is_set("listen") && listeners.is_front_inherited() {
        warn!(log, "the setting `listen` has no effect: the service manager passed a socket that listens elsewhere";
            "listen" => %options.listen, "socket" => %front);
    }
    let functions = directory.all().len();
    let log_of_workers = log.new(o!());
    let peer_listen = listeners.peer()?;
    let cluster_actors = ClusterActors {
        directory: directory.clone(),
        admission: admission.clone(),
        registry: actors.clone().recipient(),
        roots,
    };
    let cluster = Cluster::launch(&options.cluster, &sources, &base, peer_listen, cluster_actors, &log)?;
    let known = Actors { directory, callbacks, admission: admission.clone(), history, snapshots, cluster };
    let inbox_settings = InboxSettings {
        size: (options.inbox_size as u64) << 20,
        concurrency: async_concurrency,
        delivery: DeliverySettings { deliver_to: options.deliver_to.clone(), key: deliver_key },
    };
    let site = Site::of(known.cluster.as_ref(), &log);
    let inbox = Inbox::new(&base, &inbox_settings, known.directory.clone(), site, log.new(o!()));
    let tracer =
        collector.map(|collector| Tracer::start(collector, options.trace_sample, log.new(o!()))).transpose()?;
    let server = ServerState::new(conn_limits, peers, log_of_workers.clone());
    let shared = Arc::new(Shared::new(known, server, settings, tracer, inbox, log_of_workers));
    shared.inbox.start(Arc::new(StoredInvoker::new(shared.clone())));
    let sources = Box::new(Sources::new(sources, &shared.inbox, &log));
    let triggers = TriggerActor::launch(shared.inbox.handle.clone(), sources, log.new(o!()));
    actors.do_send(FollowTriggers(triggers.clone().recipient()));
    let access = AccessRules { read: options.admin_read, operators };
    let (upgrades, mut upgrade_requests) = UpgradeTrigger::new();
    let forwarder = predecessor.as_ref().map(|predecessor| predecessor.forwarder.clone());
    let control =
        Control { registry: actors.clone(), triggers: triggers.clone(), upgrades: upgrades.clone(), forwarder };
    let pages = Pages::start(&shared, access, control);
    let application: Arc<dyn Application> = Arc::new(Served { shared: shared.clone(), pages });
    let minimum = async {
        if let Some(predecessor) = &predecessor {
            predecessor.serves_callbacks();
            upgrade::minimum_is_ready(&shared).await;
        }
    };
    let servers = listeners.serve(&application, tls.as_ref(), minimum).await?;
    if let Some(tls) = &tls {
        tls.watch(&log);
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let admin = admin.map_or_else(String::new, |admin| format!(" admin {scheme}://{admin}"));
    info!(log, "serving"; "listen" => %front, "callback" => %callback, "registry" => %root.display(),
        "functions" => functions, "version" => env!("CARGO_PKG_VERSION"));
    if let Some(predecessor) = &mut predecessor {
        // Until the one before has ended.
        upgrades.set_busy(true);
        if !predecessor.take_over().await {
            warn!(log, "the daemon before has ended during the upgrade");
        }
    }
    triggers.do_send(StartSources);
    if let Some(cluster) = &shared.cluster {
        cluster.join()?;
    }
    service::ready(&format!("serving {scheme}://{front}, functions: {functions}"), &log);
    service::feed_watchdog(&log);
    announce(&format!(
        "unifaas: serving {scheme}://{front} callback http://{callback}{admin} registry {}",
        root.display()
    ));
    on_serving(front);

    let mut reloader =
        Reloader { configuration, level, shared: shared.clone(), registry: actors.clone(), log: log.clone() };
    let mut lost = std::pin::pin!(lost_actor(&actors, &admission, &triggers, &shared));
    let mut serving = Serving {
        servers: &servers,
        shared: &shared,
        signals: &mut signals,
        reloader: &mut reloader,
        upgrades: &upgrades,
        requests: &mut upgrade_requests,
        predecessor: &mut predecessor,
        lives: &lives,
        recovery: &mut lasting.recovery,
        program: &program,
        log: &log,
    };
    let end = tokio::select! {
        end = serving.until_end() => end,
        lost = &mut lost => {
            crit!(log, "ending, as an actor has ended"; "error" => %lost);
            return Err(lost);
        }
    };
    upgrades.set_busy(true);
    if let Some(cluster) = &shared.cluster {
        match &end {
            // The new daemon is the node now.
            End::Upgrade { .. } => cluster.leave().await,
            End::Signal(_) => cluster.start_draining(),
        }
    }
    let (grace, upgrade_grace) = reloader.graces();
    let (registry, triggers, successor) = (&actors, &triggers, None);
    let mut shutdown =
        Shutdown { shared: &shared, servers, registry, triggers, signals: &mut signals, log: &log, successor };
    let grace = match end {
        End::Upgrade { successor, reply } => {
            info!(log, "leaving to the new daemon"; "grace" => ?upgrade_grace);
            let shared = shared.clone();
            // The new daemon opens the database as soon as this one has closed it.
            actix::spawn(async move { shared.inbox.hand_over(upgrade_grace).await });
            shutdown.leave_to(successor, reply, upgrade_grace).await
        }
        End::Signal(name) => {
            info!(log, "ending"; "signal" => name, "grace" => ?grace);
            service::stopping("requests finish, and instances end", &log);
            if let Some(predecessor) = &predecessor {
                predecessor.end();
            }
            if shutdown.hand_over().await { Duration::ZERO } else { grace }
        }
    };
    shared.start_draining();
    engines.shutdown();
    shutdown.finish(grace).await;
    if let Some(tracer) = &shared.tracer {
        tracer.shut_down();
    }
    if let Some(predecessor) = &mut predecessor {
        predecessor.end_in_time().await;
        lasting.recovery.remove(&lives).await;
    }
    Ok(())
}

/// Returns whether a function may have a snapshot: its spec wants one, or has problems that may be corrected.
fn wants_snapshot(loaded: Option<&LoadedSpec>) -> bool {
    loaded.is_some_and(|loaded| loaded.as_ref().map_or(true, |spec| spec.snapshot().is_some()))
}

/// Returns the absolute path of the registry if it can be read.
fn readable_directory(registry: &Path) -> Result<PathBuf, DaemonError> {
    let error = |source| DaemonError::Registry { path: registry.to_owned(), source };
    // Made absolute without following links, which may lead to another directory later.
    let root = std::path::absolute(registry).map_err(error)?;
    std::fs::read_dir(&root).map_err(error)?;
    Ok(root)
}

/// Logs what a registry without functions may be due to.
fn warn_of_registry(root: &Path, is_empty: bool, log: &slog::Logger) {
    if root.join(SPEC_FILE).exists() {
        warn!(log, "the registry is itself a function's directory; each directory below it is a function";
            "registry" => %root.display(), "file" => SPEC_FILE);
    } else if is_empty {
        warn!(log, "the registry has no function: no directory below it has a function.toml";
            "registry" => %root.display());
    }
}

/// Prints a line to standard output, for scripts that wait for the daemon to be ready.
fn announce(line: &str) {
    use std::io::Write as _;
    // Standard output may be closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}
