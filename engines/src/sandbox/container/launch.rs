//! Cold starts of containers: create, start, inspect, each step undone when a later one fails.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use bollard::Docker;
use futures::{
    FutureExt,
    future::{LocalBoxFuture, OptionFuture},
};
use slog::{Logger, debug};
use tokio::{task, time};
use unifaas_actors::{
    MemoryUsage, Phase,
    sandbox::{InstanceNetwork, LaunchError, LaunchOrder, Launched},
    spec::ContainerSpec,
};

use super::{
    create::NotCreated,
    engine::{Engine, QUICK_CALL_TIMEOUT, Session},
    engine_error::EngineError,
    exit_watcher::{ExitWatcher, ExpectedExit},
    first_process,
    handle::{Container, ContainerHandle},
    inspection::Inspection,
    networks::Networks,
    pause::Pauser,
    reaper::ContainerReaper,
    recovery,
    request::{self, Owner},
};
use crate::{
    host::function_peers::FunctionPeers,
    sandbox::{
        cgroup,
        readiness::{Place, Probe, Sockets, Target},
    },
    state::{Journal, JournalEntry, Resource, State},
};

/// The least that a start may take.
const MIN_START_TIMEOUT: Duration = Duration::from_secs(5);
/// A start times out by so much before the boot timeout, so that the engine is blamed and not the instance.
const START_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);
/// How long a failed launch waits for the removal of its container, which then goes on in the background.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts containers.
#[derive(Clone)]
pub struct Containers(Rc<Launcher>);

/// Starts one container at a time.
pub struct Launcher {
    pub(super) engine: Rc<Engine>,
    networks: Networks,
    watcher: Rc<ExitWatcher>,
    reaper: ContainerReaper,
    /// The bound address of the callback listener.
    callback: SocketAddr,
    /// In the labels of the containers.
    pub(super) owner: Owner,
    journal: Journal,
    log: Logger,
}

impl Containers {
    /// Makes the sandbox. It does not connect to the engine: each launch does.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn new(callback: SocketAddr, state: &State, peers: FunctionPeers, log: &Logger) -> Self {
        Self(Rc::new(Launcher::new(Engine::from_environment(), callback, state, peers, log)))
    }

    /// Removes the containers of earlier daemons of the state directory in the background, as soon as their engines can
    /// be reached. `left` are journal entries with the engine and the name of a container.
    pub fn recover(&self, left: Vec<(JournalEntry, String, String)>, state: &State) {
        let Launcher { engine, log, .. } = &*self.0;
        recovery::remove(engine, left, &Owner { daemon: state.identity(), run_id: state.run_id() }, log);
    }

    /// Begins the shutdown: from now on, an engine that is lost is given up.
    pub fn shutdown(&self) {
        let engine = self.0.engine.clone();
        task::spawn_local(async move { engine.give_up_if_lost().await });
    }

    /// Starts a container for `order`.
    ///
    /// # Errors
    /// When the engine is absent, refuses or takes too long, or the container could not reach the daemon.
    pub fn launch(
        &self,
        order: LaunchOrder,
        container: &ContainerSpec,
    ) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (launcher, container) = (self.0.clone(), container.clone());
        Box::pin(async move {
            let launched = launcher.launch(order, &container).await;
            if launched.is_err() {
                launcher.networks.forget(container.network.as_deref());
            }
            launched
        })
    }
}

impl Launcher {
    pub(super) fn new(engine: Engine, callback: SocketAddr, state: &State, peers: FunctionPeers, log: &Logger) -> Self {
        let engine = Rc::new(engine);
        Self {
            networks: Networks::new(engine.clone(), peers),
            watcher: ExitWatcher::new(engine.clone(), log.clone()),
            reaper: ContainerReaper::start(engine.clone(), log.clone()),
            engine,
            callback,
            owner: Owner { daemon: state.identity(), run_id: state.run_id() },
            journal: state.journal.clone(),
            log: log.clone(),
        }
    }

    async fn launch(&self, order: LaunchOrder, container: &ContainerSpec) -> Result<Launched, LaunchError> {
        let gateway = self.networks.gateway(container.network.as_deref()).await?;
        let callback = self.callback_from(gateway, &order, container)?;
        let name = request::name(&order);
        let resource = Resource::Container { engine: self.engine.host().to_owned(), name: name.clone() };
        let entry = self.journal.record(resource).await?;
        order.clock.mark(Phase::Resources);
        let session = self.engine.session();
        let id = match self.create(&name, &order, container, callback).await {
            Ok(id) => id,
            Err(NotCreated { error, maybe_created }) => {
                if maybe_created {
                    let _ = time::timeout(CLEANUP_TIMEOUT, self.reaper.remove_if_created(&name, entry)).await;
                } else {
                    entry.remove();
                }
                return Err(error);
            }
        };
        order.clock.mark(Phase::Created);
        match self.start(&order, container, &id, session, gateway).await {
            Ok(started) => {
                order.clock.mark(Phase::Started);
                Ok(self.launched(&order, container, name, started, entry))
            }
            Err(error) => {
                // The removal goes on in the background if the engine is slow.
                let _ = time::timeout(CLEANUP_TIMEOUT, self.reaper.remove(&id, Some(session), Some(entry))).await;
                Err(error)
            }
        }
    }

    /// Returns the callback listener as seen from the container, if it is reached there.
    fn callback_from(
        &self,
        gateway: IpAddr,
        order: &LaunchOrder,
        container: &ContainerSpec,
    ) -> Result<Option<SocketAddr>, LaunchError> {
        let found = request::callback(self.callback, gateway);
        if found.is_none() && request::needs_callback(&order.spec, container) {
            return Err(LaunchError::Missing(format!(
                "containers cannot reach the callback listener at {}: start the daemon with --callback-listen \
                 0.0.0.0:{port} or {gateway}:{port}, or give the function another `readiness` and no `%callback`",
                self.callback,
                port = self.callback.port(),
            )));
        }
        Ok(found)
    }

    /// Starts a created container, and inspects it.
    async fn start(
        &self,
        order: &LaunchOrder,
        spec: &ContainerSpec,
        id: &str,
        session: Session,
        gateway: IpAddr,
    ) -> Result<Started, LaunchError> {
        let exit = self.watcher.exit_of(id, order.output.clone(), order.log.clone());
        let limit = order.spec.boot_timeout.saturating_sub(START_TIMEOUT_MARGIN).max(MIN_START_TIMEOUT);
        let oom_kills = cgroup::host_oom_kills();
        let start = async |docker: Docker| docker.start_container(id, None).await;
        if let Err(error) = self.engine.ask("start", limit, start).await {
            return Err(self.explain_start(error, order, spec, id).await);
        }
        let container = Container {
            engine: self.engine.clone(),
            id: id.to_owned(),
            session,
            killed: Rc::new(Cell::new(false)),
            host_oom_kills: oom_kills,
            log: order.log.clone(),
        };
        let output = task::spawn_local(container.clone().pump_output(order.output.clone()));
        let inspection = self.inspect(id).await?;
        let counted = inspection.pid.map(|pid| cgroup::ran_out_of_memory(pid, id.to_owned()));
        let out_of_memory = task::spawn_local(OptionFuture::from(counted).map(Option::flatten));
        if inspection.gateway.is_some_and(|actual| actual != gateway) {
            // The container has a callback URL at an address that this host no longer has.
            return Err(LaunchError::Refused(format!("the gateway of its network has just changed from {gateway}")));
        }
        let (reported, of) = (inspection.pid, id.to_owned());
        let look = move || reported.map(|pid| (cgroup::memory_usage_of(pid, &of), first_process::find(pid, &of)));
        let (memory_usage, first) = task::spawn_blocking(look).await.ok().flatten().unwrap_or_default();
        let pid = first.and_then(|first| u32::try_from(first.pid).ok());
        let pauser = Pauser::new(self.engine.clone(), id.to_owned(), first, memory_usage.clone());
        self.watcher.set_running(id, inspection.address, pauser.clone());
        Ok(Started { container, pauser, inspection, pid, memory_usage, output, exit, out_of_memory })
    }

    /// Says what to change if an image without an entry point was given the callback URL as its program.
    async fn explain_start(
        &self,
        error: EngineError,
        order: &LaunchOrder,
        spec: &ContainerSpec,
        id: &str,
    ) -> LaunchError {
        if matches!(error, EngineError::Refused { .. }) && request::is_callback_the_command(&order.spec, spec) {
            let inspect = async |docker: Docker| docker.inspect_container(id, None).await;
            let found = self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await;
            if found.is_ok_and(|found| !Inspection::of(&found).has_entry_point) {
                let image = &spec.image;
                return LaunchError::Refused(format!(
                    "image {image:?} has no entry point, so the callback URL was executed as its program: set \
                     `readiness = \"tcp\"` to run the command of the image, or give a `command` in [container]: {error}"
                ));
            }
        }
        error.into()
    }

    fn launched(
        &self,
        order: &LaunchOrder,
        spec: &ContainerSpec,
        name: String,
        started: Started,
        entry: JournalEntry,
    ) -> Launched {
        let Started { container, pauser, inspection, pid, memory_usage, output, exit, out_of_memory } = started;
        debug!(order.log, "container started"; "container" => &name, "address" => ?inspection.address);
        let hint = request::is_callback_the_command(&order.spec, spec).then(|| order.output.clone());
        let exited = container.clone().exited(exit, out_of_memory, output, spec.memory, hint);
        Launched {
            restored: false,
            // Without an address it has exited, which the watcher reports.
            network: inspection.address.map(|address| network(order, address, &inspection)),
            pid,
            engine_id: Some(container.id.clone()),
            resources: vec![format!("container {name}")],
            memory_usage,
            exited: Box::pin(exited),
            sandbox: Box::new(ContainerHandle {
                container,
                pauser,
                reaper: self.reaper.clone(),
                stop_signal: inspection.stop_signal.unwrap_or_else(|| "SIGTERM".to_owned()),
                entry: Some(entry),
            }),
        }
    }
}

/// A container that was started.
struct Started {
    container: Container,
    pauser: Rc<Pauser>,
    inspection: Inspection,
    /// Its first process, as this host numbers it.
    pid: Option<u32>,
    memory_usage: Option<MemoryUsage>,
    output: task::JoinHandle<()>,
    exit: ExpectedExit,
    out_of_memory: task::JoinHandle<Option<bool>>,
}

fn network(order: &LaunchOrder, address: IpAddr, inspection: &Inspection) -> InstanceNetwork {
    let listens_at = SocketAddr::new(address, order.spec.port);
    let target = Target {
        route: listens_at.into(),
        alternative: None,
        readiness: order.spec.readiness.clone(),
        place: Place::Container { exposed: inspection.exposed.clone() },
        sockets: Sockets::OfContainer { instance: order.instance, pid: inspection.pid, address },
    };
    InstanceNetwork { address: listens_at, callback_source: address, prober: Probe::new(target) }
}
