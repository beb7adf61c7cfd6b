//! Startup from checked settings to a serving daemon, and shutdown from the first signal to the exit code.
//!
//! The order of the shutdown: new requests are refused, functions drain, instances end, their resources are released,
//! and the servers send their last bytes. Threads are joined before `run` returns, so the exit code covers them.

use std::{io, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use actix::Addr;
use slog::{info, o, warn};
use tokio::{sync::oneshot, time::timeout};
use unifaas_actors::{
    AdmissionActor, Callbacks, ChangeSource, Directory, DrainAll, HostLimits, RegistryActor, Services, scan_all,
};

use crate::{
    cli::Serve,
    host,
    host::function_peers::FunctionPeers,
    host::open_files,
    host::signals::Signals,
    http::{BindError, ConnLimits, Listeners, Servers, Settings, Shared, Tls, TlsError},
    log::{self, Logging},
    net::{NetError, Subnet},
    sandbox::{self, EngineSettings, Engines},
    state::{self, State, StateError},
};

/// After the drain's grace: how long killed instances and the release of their resources may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read the registry {}: {source}", path.display())]
    Registry { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Network(#[from] NetError),
    #[error("only {0} files may be open at once, and it takes {least} to serve: raise the hard limit (ulimit -Hn, or \
        LimitNOFILE= of the service)", least = open_files::minimum())]
    OpenFiles(u64),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// What outlives the actix system: its last threads may still log and remove journal entries.
#[derive(Default)]
struct Lasting {
    state: Option<State>,
    logging: Option<Logging>,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// When it cannot start.
pub fn run(options: Serve) -> Result<(), StartError> {
    let mut lasting = Lasting::default();
    let system = actix::System::new();
    let result = system.block_on(serve(options, &mut lasting));
    // Ends the arbiters of the servers' workers.
    actix::System::current().stop();
    let stopped = system.run();
    drop(lasting);
    result.and(stopped.map_err(StartError::System))
}

async fn serve(options: Serve, lasting: &mut Lasting) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let registry = options.registry.unwrap_or_default();
    let root = readable_directory(&registry)?;
    let specs = scan_all(&root).map_err(|source| StartError::Registry { path: registry, source })?;
    let (state, left) = State::open(&options.state_dir.unwrap_or_else(state::default_directory))?;
    let state = lasting.state.insert(state);
    let tls_cert = options.tls_cert.as_ref().map(|file| file.display().to_string());
    let tls = options.tls_cert.zip(options.tls_key).map(|(cert, key)| Tls::load(cert, key)).transpose()?;
    let listeners = Listeners::bind(options.listen, options.callback_listen, options.admin_listen)?;
    let (front, callback, admin) = (listeners.front()?, listeners.callback()?, listeners.admin()?);

    // The daemon runs from here on. The failures above leave nothing behind.
    let log = lasting.logging.insert(log::set_up(options.log_level, options.log_format)).log.clone();
    let callbacks = Arc::new(Callbacks::default());
    let directory = Arc::new(Directory::default());
    open_files::raise(&log).map_err(StartError::OpenFiles)?;
    let limits = HostLimits {
        memory: options.memory_budget.resolve(sandbox::memory_limit()),
        process_starts: options.max_process_starts.map_or(usize::MAX, NonZeroUsize::get),
        starts: options.max_starts.map_or_else(host::budget::default_max_starts, NonZeroUsize::get),
    };
    let admission = AdmissionActor::launch(limits);
    let (subnet, tap_pool) = (options.subnet, options.tap_pool);
    let peers = FunctionPeers::default();
    let engine_settings = EngineSettings { callback, subnet, tap_pool, peers: peers.clone() };
    let engines = Engines::new(engine_settings.clone(), state, &log)?;
    engines.reclaim(left, state, &engine_settings, &log).await;
    engines.prepare(specs.values().filter_map(|loaded| loaded.as_deref().ok())).await?;
    let services =
        Services { sandboxes: Box::new(engines.clone()), callbacks: callbacks.clone(), admission: admission.clone() };
    let actors =
        RegistryActor::launch(root.clone(), specs, directory.clone(), services, ChangeSource::Watcher, log.clone());
    let connections = options.max_connections.min(open_files::max_connections());
    if connections < options.max_connections {
        warn!(log, "there can be fewer connections than --max-connections says: each request needs two open files";
            "wanted" => options.max_connections, "connections" => connections);
    }
    let conn_limits = ConnLimits {
        connections,
        connections_per_client: options.max_connections_per_client.unwrap_or(connections.div_ceil(2)),
        client_timeout: (!options.client_timeout.is_zero()).then_some(options.client_timeout),
    };
    let settings = Settings {
        registry: root.display().to_string(),
        listen: front.to_string(),
        callback_listen: callback.to_string(),
        admin_listen: admin.map(|admin| admin.to_string()),
        tls_cert,
        subnet: options.subnet.unwrap_or(Subnet::DEFAULT).to_string(),
        state_dir: state.directory().display().to_string(),
        drain_grace_seconds: options.drain_grace.as_secs_f64(),
        max_connections: conn_limits.connections,
        max_connections_per_client: conn_limits.connections_per_client,
        client_timeout_seconds: options.client_timeout.as_secs_f64(),
        memory_budget: limits.memory,
        max_starts: limits.starts,
        max_process_starts: options.max_process_starts,
    };
    let functions = directory.all().len();
    let log_of_workers = log.new(o!());
    let shared = Shared::new(directory, callbacks, admission, peers, conn_limits, settings, log_of_workers);
    let shared = Arc::new(shared);
    let servers = listeners.serve(&shared, tls.as_ref())?;
    if let Some(tls) = &tls {
        tls.watch(&log);
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let admin = admin.map_or_else(String::new, |admin| format!(" admin {scheme}://{admin}"));
    info!(log, "serving"; "listen" => %front, "callback" => %callback, "registry" => %root.display(),
        "functions" => functions, "version" => env!("CARGO_PKG_VERSION"));
    announce(&format!(
        "unifaas: serving {scheme}://{front} callback http://{callback}{admin} registry {}",
        root.display()
    ));

    let name = signals.next().await;
    info!(log, "ending"; "signal" => name, "grace" => ?options.drain_grace);
    shared.start_draining();
    engines.shutdown();
    shut_down(&actors, servers, options.drain_grace, &mut signals, &log).await;
    Ok(())
}

/// Shuts down in order: drains the instances within `grace`, kills the rest, and stops the servers.
async fn shut_down(
    actors: &Addr<RegistryActor>,
    servers: Servers,
    grace: Duration,
    signals: &mut Signals,
    log: &slog::Logger,
) {
    let mut drained = drain(actors, grace);
    let kill = tokio::select! {
        _ = &mut drained => false,
        name = signals.next() => {
            warn!(log, "ending at once"; "signal" => name);
            true
        }
        () = tokio::time::sleep(grace) => true,
    };
    if kill {
        // A second drain without grace kills what is left. The registry answers both when no instance is left.
        let at_once = drain(actors, Duration::ZERO);
        if timeout(KILL_TIMEOUT, at_once).await.is_err() {
            warn!(log, "some instances did not end in time and are killed at exit");
        }
    }
    servers.stop().await;
    info!(log, "ended");
}

fn drain(actors: &Addr<RegistryActor>, grace: Duration) -> oneshot::Receiver<()> {
    let (done, drained) = oneshot::channel();
    actors.do_send(DrainAll { grace, done });
    drained
}

/// Returns the absolute path of the registry if it can be read.
fn readable_directory(registry: &std::path::Path) -> Result<PathBuf, StartError> {
    let error = |source| StartError::Registry { path: registry.to_owned(), source };
    // Made absolute without following links, which may lead to another directory later.
    let root = std::path::absolute(registry).map_err(error)?;
    std::fs::read_dir(&root).map_err(error)?;
    Ok(root)
}

/// Prints a line to standard output, for scripts that wait for the daemon to be ready.
fn announce(line: &str) {
    use std::io::Write as _;
    // Standard output may be closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}
