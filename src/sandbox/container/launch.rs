//! Cold starts of containers: create, start, inspect, each step undone when a later one fails.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use bollard::{
    Docker,
    query_parameters::{CreateContainerOptionsBuilder, CreateImageOptionsBuilder},
};
use futures::{StreamExt, future::LocalBoxFuture};
use slog::{Logger, debug, info};
use tokio::{sync::oneshot, task, time};
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder, Launched},
    spec::{ContainerSpec, Pull, Readiness},
};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    engine_error::EngineError,
    exit::ContainerExit,
    exit_watcher::ExitWatcher,
    handle::{Container, ContainerHandle},
    inspection::Inspection,
    networks::Networks,
    reaper::ContainerReaper,
    recovery,
    request::{self, Owner},
};
use crate::{
    host::function_peers::FunctionPeers,
    state::{Journal, JournalEntry, Resource, State},
};

/// For the creation: the engine unpacks nothing, but it may be busy with other calls.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// The least that a start may take.
const MIN_START_TIMEOUT: Duration = Duration::from_secs(5);
/// A start times out by so much before the boot timeout, so that the engine is blamed and not the instance.
const START_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);
/// How long a failed launch waits for the removal of its container, which then goes on in the background.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts containers.
#[derive(Clone)]
pub struct Containers(Rc<Launcher>);

struct Launcher {
    engine: Rc<Engine>,
    networks: Networks,
    watcher: Rc<ExitWatcher>,
    reaper: ContainerReaper,
    /// The bound address of the callback listener.
    callback: SocketAddr,
    /// In the labels of the containers.
    owner: Owner,
    journal: Journal,
    log: Logger,
}

impl Containers {
    /// Makes the sandbox. It does not connect to the engine: each launch does.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn new(callback: SocketAddr, state: &State, peers: FunctionPeers, log: &Logger) -> Self {
        let engine = Rc::new(Engine::from_environment());
        Self(Rc::new(Launcher {
            networks: Networks::new(engine.clone(), peers),
            watcher: ExitWatcher::new(engine.clone(), log.clone()),
            reaper: ContainerReaper::start(engine.clone(), log.clone()),
            engine,
            callback,
            owner: Owner { daemon: state.identity(), run_id: state.run_id() },
            journal: state.journal.clone(),
            log: log.clone(),
        }))
    }

    /// Removes the containers of earlier daemons of the state directory in the background, as soon as their engines can
    /// be reached. `left` are journal entries with the engine and the name of a container.
    pub fn recover(&self, left: Vec<(JournalEntry, String, String)>) {
        let Launcher { engine, owner, log, .. } = &*self.0;
        recovery::remove(engine, left, owner, log);
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
    async fn launch(&self, order: LaunchOrder, container: &ContainerSpec) -> Result<Launched, LaunchError> {
        let gateway = self.networks.gateway(container.network.as_deref()).await?;
        let callback = self.callback_from(gateway, &order.spec.readiness)?;
        let name = request::name(&order);
        let resource = Resource::Container { engine: self.engine.host().to_owned(), name: name.clone() };
        let entry = self.journal.record(resource).await?;
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
        match self.start(&order, &id, gateway).await {
            Ok(started) => Ok(self.launched(&order, container, name, started, entry)),
            Err(error) => {
                // The removal goes on in the background if the engine is slow.
                let _ = time::timeout(CLEANUP_TIMEOUT, self.reaper.remove(&id, Some(entry))).await;
                Err(error)
            }
        }
    }

    fn callback_from(&self, gateway: IpAddr, readiness: &Readiness) -> Result<SocketAddr, LaunchError> {
        let found = request::callback(self.callback, gateway);
        if found.is_none() && *readiness == Readiness::Callback {
            return Err(LaunchError::Missing(format!(
                "containers cannot reach the callback listener at {}: start the daemon with --callback-listen \
                 0.0.0.0:{port} or {gateway}:{port}, or give the function another `readiness`",
                self.callback,
                port = self.callback.port(),
            )));
        }
        Ok(found.unwrap_or(SocketAddr::new(gateway, self.callback.port())))
    }

    /// Creates the container, and pulls its image if that is missing. Returns the id.
    async fn create(
        &self,
        name: &str,
        order: &LaunchOrder,
        container: &ContainerSpec,
        callback: SocketAddr,
    ) -> Result<String, NotCreated> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = request::body(order, container, callback, &self.owner);
        let create = async || {
            let (options, body) = (options.clone(), body.clone());
            let create = async |docker: Docker| docker.create_container(Some(options), body).await;
            self.engine.ask("create", CREATE_TIMEOUT, create).await
        };
        let created = match create().await {
            Err(error) if error.is_not_found() && container.pull == Pull::Missing => {
                info!(order.log, "image is being pulled"; "image" => &container.image);
                self.pull(&container.image).await?;
                create().await
            }
            created => created,
        };
        created.map(|created| created.id).map_err(|error| {
            // Without a refusal, the engine may still read the request and create it.
            let maybe_created = !matches!(error, EngineError::Refused { .. });
            let error = match error.is_not_found() {
                true => LaunchError::Missing(format!(
                    "image {:?} is not in the local engine (`pull = \"missing\"` would fetch it): {error}",
                    container.image
                )),
                false => error.into(),
            };
            NotCreated { error, maybe_created }
        })
    }

    /// Pulls an image, without a limit: the boot timeout ends the wait of the requests.
    async fn pull(&self, image: &str) -> Result<(), LaunchError> {
        let options = CreateImageOptionsBuilder::new().from_image(&tagged(image)).build();
        let docker = self.engine.client().await?;
        let mut progress = docker.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            step.map_err(|error| {
                let error = self.engine.explain(&error);
                LaunchError::Refused(format!("image {image:?} could not be pulled: {error}"))
            })?;
        }
        Ok(())
    }

    /// Starts a created container, and inspects it.
    async fn start(&self, order: &LaunchOrder, id: &str, gateway: IpAddr) -> Result<Started, LaunchError> {
        let exit = self.watcher.exit_of(id);
        let limit = order.spec.boot_timeout.saturating_sub(START_TIMEOUT_MARGIN).max(MIN_START_TIMEOUT);
        let start = async |docker: Docker| docker.start_container(id, None).await;
        self.engine.ask("start", limit, start).await?;

        let container = Container {
            engine: self.engine.clone(),
            id: id.to_owned(),
            killed: Rc::new(Cell::new(false)),
            log: order.log.clone(),
        };
        let output = task::spawn_local(container.clone().pump_output(order.output.clone()));
        let inspect = async |docker: Docker| docker.inspect_container(id, None).await;
        let inspection = match self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await {
            Ok(found) => Inspection::of(&found),
            Err(error) if error.is_not_found() => Inspection::default(),
            // Podman has states of its own for a container that has just exited. The watcher reports that.
            Err(EngineError::Unexpected(_)) => Inspection::default(),
            Err(error) => return Err(error.into()),
        };
        if inspection.gateway.is_some_and(|actual| actual != gateway) {
            // The container has a callback URL at an address that this host no longer has.
            return Err(LaunchError::Refused(format!("the gateway of its network has just changed from {gateway}")));
        }
        if let Some(address) = inspection.address {
            self.watcher.set_address(id, address);
        }
        Ok(Started { container, inspection, output, exit })
    }

    fn launched(
        &self,
        order: &LaunchOrder,
        spec: &ContainerSpec,
        name: String,
        started: Started,
        entry: JournalEntry,
    ) -> Launched {
        let Started { container, inspection, output, exit } = started;
        debug!(order.log, "container started"; "container" => &name, "address" => ?inspection.address);
        // A container that has exited already has no address. The watcher reports that.
        let address = inspection.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Launched {
            address: SocketAddr::new(address, order.spec.port),
            callback_source: address,
            pid: inspection.pid,
            engine_id: Some(container.id.clone()),
            resources: vec![format!("container {name}")],
            exited: Box::pin(container.clone().exited(exit, output, spec.memory)),
            sandbox: Box::new(ContainerHandle {
                container,
                reaper: self.reaper.clone(),
                stop_signal: inspection.stop_signal.unwrap_or_else(|| "SIGTERM".to_owned()),
                entry: Some(entry),
            }),
        }
    }
}

/// Why there is no container.
struct NotCreated {
    error: LaunchError,
    /// Whether the engine may still create it.
    maybe_created: bool,
}

impl From<LaunchError> for NotCreated {
    fn from(error: LaunchError) -> Self {
        Self { error, maybe_created: false }
    }
}

/// A container that was started.
struct Started {
    container: Container,
    inspection: Inspection,
    output: task::JoinHandle<()>,
    exit: oneshot::Receiver<ContainerExit>,
}

/// Returns the image with a tag: without one, all tags would be pulled.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_without_tag_gets_latest() {
        for (image, expected) in [
            ("hello", "hello:latest"),
            ("hello:1", "hello:1"),
            ("localhost:5000/hello", "localhost:5000/hello:latest"),
            ("localhost:5000/hello:1", "localhost:5000/hello:1"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(tagged(image), expected);
        }
    }
}
