//! The `container` sandbox: an instance is a container of the local engine, Docker or what speaks its protocol, under
//! any runtime that the engine knows.
//!
//! A cold start costs three calls: create with everything in it, start, and a look at the address. All else happens
//! beside or before them. `request.rs` says what is made, `engine.rs` how the engine is spoken to, `inspection.rs` what a look
//! at a container tells, `networks.rs` where this host is in its networks, `exit_watcher.rs` hears of ends, `handle.rs` is the
//! running container, `reaper.rs` sees that nothing is left, and `recovery.rs` that nothing is left of an earlier daemon.

mod engine;
mod exit_watcher;
mod handle;
mod inspection;
#[cfg(test)]
mod mock_engine;
mod networks;
mod reaper;
mod recovery;
mod request;

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

use crate::{
    host::function_peers::FunctionPeers,
    state::{Journal, JournalEntry, Resource, State},
};
use engine::{Engine, EngineError, QUICK};
use exit_watcher::{ContainerExit, ExitWatcher};
use handle::{Container, ContainerHandle};
use inspection::Inspection;
use networks::Networks;
use reaper::ContainerReaper;
use request::Owner;

/// To make a container: the engine unpacks nothing, but it may be busy with others.
const CREATE: Duration = Duration::from_secs(10);
/// The least that a start may take before it is given up.
const START: Duration = Duration::from_secs(5);
/// What is left of the time to boot when a start is given up, so that the engine's silence is told, not the instance's.
const TELLING: Duration = Duration::from_secs(5);
/// How long a failed launch waits for its container to be removed; after that it happens in the background.
const CLEANING: Duration = Duration::from_secs(3);

/// Starts containers.
#[derive(Clone)]
pub struct Containers {
    parts: Rc<Parts>,
}

struct Parts {
    engine: Rc<Engine>,
    networks: Networks,
    watch: Rc<ExitWatcher>,
    reaper: ContainerReaper,
    /// The bound address of the callback listener.
    callback: SocketAddr,
    /// On the labels of what this daemon makes.
    owner: Owner,
    journal: Journal,
    log: Logger,
}

impl Containers {
    /// Does not look for an engine: each launch does.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn new(callback: SocketAddr, state: &State, peers: FunctionPeers, log: &Logger) -> Self {
        let engine = Rc::new(Engine::from_environment());
        let owner = Owner { daemon: state.identity(), run_id: state.run_id() };
        let parts = Parts {
            networks: Networks::new(engine.clone(), peers),
            watch: ExitWatcher::new(engine.clone(), log.clone()),
            reaper: ContainerReaper::start(engine.clone(), log.clone()),
            engine,
            callback,
            owner,
            journal: state.journal.clone(),
            log: log.clone(),
        };
        Self { parts: Rc::new(parts) }
    }

    /// Removes what earlier daemons of the state directory have left, as soon as their engines can be reached: `left` are
    /// entries with the engine and the name of a container. Goes on in the background.
    pub fn remove_leftovers(&self, left: Vec<(JournalEntry, String, String)>) {
        let Parts { engine, owner, log, .. } = &*self.parts;
        recovery::remove(engine, left, owner, log);
    }

    /// To be called when the daemon ends: an engine that is not there any more is not waited for.
    pub fn shutdown(&self) {
        let engine = self.parts.engine.clone();
        task::spawn_local(async move { engine.give_up_if_lost().await });
    }

    /// Starts one.
    pub fn launch(
        &self,
        order: LaunchOrder,
        container: &ContainerSpec,
    ) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let parts = self.parts.clone();
        let container = container.clone();
        Box::pin(async move {
            let launched = parts.launch(order, &container).await;
            if launched.is_err() {
                parts.networks.forget(container.network.as_deref());
            }
            launched
        })
    }
}

impl Parts {
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
                    let _ = time::timeout(CLEANING, self.reaper.remove_if_created(&name, entry)).await;
                } else {
                    entry.remove();
                }
                return Err(error);
            }
        };
        match self.start(&order, &id, gateway).await {
            Ok(started) => Ok(self.launched(&order, container, name, started, entry)),
            Err(error) => {
                // Goes on in the background when the engine takes its time.
                let _ = time::timeout(CLEANING, self.reaper.remove(&id, Some(entry))).await;
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

    /// Makes the container; its id.
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
            self.engine.ask("create", CREATE, create).await
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
            // It may come to be all the same, once the engine has read the request.
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

    /// Fetches an image. As long as it takes: the boot timeout lets those who wait go.
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

    /// Starts a container that was made, and learns what there is to know about it.
    async fn start(&self, order: &LaunchOrder, id: &str, gateway: IpAddr) -> Result<Started, LaunchError> {
        let end = self.watch.end_of(id);
        let limit = order.spec.boot_timeout.saturating_sub(TELLING).max(START);
        let start = async |docker: Docker| docker.start_container(id, None).await;
        self.engine.ask("start", limit, start).await?;

        let container = Container {
            engine: self.engine.clone(),
            id: id.to_owned(),
            killed: Rc::new(Cell::new(false)),
            log: order.log.clone(),
        };
        let output = task::spawn_local(container.clone().collect(order.output.clone()));
        let inspect = async |docker: Docker| docker.inspect_container(id, None).await;
        let inspection = match self.engine.ask("inspect", QUICK, inspect).await {
            Ok(found) => Inspection::of(&found),
            Err(error) if error.is_not_found() => Inspection::default(),
            // Podman has states of its own for one that has just ended. Its end is about to be told.
            Err(EngineError::Unexpected(_)) => Inspection::default(),
            Err(error) => return Err(error.into()),
        };
        if inspection.gateway.is_some_and(|actual| actual != gateway) {
            // It was told to call back where this host no longer is.
            return Err(LaunchError::Refused(format!("the gateway of its network has just changed from {gateway}")));
        }
        if let Some(address) = inspection.address {
            self.watch.is_at(id, address);
        }
        Ok(Started { container, inspection, output, end })
    }

    fn launched(
        &self,
        order: &LaunchOrder,
        spec: &ContainerSpec,
        name: String,
        started: Started,
        entry: JournalEntry,
    ) -> Launched {
        let Started { container, inspection, output, end } = started;
        debug!(order.log, "container started"; "container" => &name, "address" => ?inspection.address);
        // One that has ended already has no address: its end is about to be told.
        let address = inspection.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Launched {
            address: SocketAddr::new(address, order.spec.port),
            callback_source: address,
            pid: inspection.pid,
            engine_id: Some(container.id.clone()),
            resources: vec![format!("container {name}")],
            exited: Box::pin(container.clone().exited(end, output, spec.memory)),
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
    /// Whether there may yet be one.
    maybe_created: bool,
}

impl From<LaunchError> for NotCreated {
    fn from(error: LaunchError) -> Self {
        Self { error, maybe_created: false }
    }
}

/// A container that runs, or did.
struct Started {
    container: Container,
    inspection: Inspection,
    output: task::JoinHandle<()>,
    end: oneshot::Receiver<ContainerExit>,
}

/// The image with a tag: without one, all tags would be pulled.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
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
