//! Watches for the exits of containers, and for what other programs do with paused ones: one stream of the engine's events
//! for all of them.
//!
//! A container that is taken out of its network counts as ended, as no request can reach it.
//!
//! A paused container that another program signals is thawed, so that the signal reaches it. So are all when the engine is
//! away: when it starts it ends the containers that it finds, and would wait for them.
//!
//! While the engine is away no exit is concluded: the containers may live on. Once it is back, each container is
//! inspected, since the events of the meantime are lost. What counts as an exit is in `exit.rs`.

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    Docker,
    models::{EventMessage, EventMessageTypeEnum},
    query_parameters::EventsOptionsBuilder,
};
use futures::StreamExt;
use slog::{Logger, debug, warn};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task, time,
};
use unifaas_actors::OutputLog;

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    engine_error::EngineError,
    exit::{ContainerExit, exit_in},
    inspection::is_paused,
    pause::Pauser,
};

/// Before attempts to reach an engine that is away.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How far back a new stream begins, so that no event is missed between the inspections and the first event.
const EVENT_OVERLAP: Duration = Duration::from_secs(2);

/// Reports the exits of containers. It follows the engine's events while an exit is waited for.
#[derive(Debug)]
pub struct ExitWatcher {
    engine: Rc<Engine>,
    /// By the container's id.
    waiting: RefCell<HashMap<String, Waiting>>,
    running: Cell<bool>,
    /// Whether the engine's absence has been logged: once for any number of attempts.
    warned: Cell<bool>,
    log: Logger,
}

/// The exit of one container, as it will be reported.
#[derive(Debug)]
pub struct ExpectedExit {
    pub exit: oneshot::Receiver<ContainerExit>,
    /// Whether memory has run out in the container, which alone does not end it. Under load, the engine reports it after
    /// the exit.
    pub out_of_memory: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Waiting {
    /// `None` once the exit was reported.
    exit: Option<oneshot::Sender<ContainerExit>>,
    out_of_memory: watch::Sender<bool>,
    /// The container's address, once that is known.
    address: Option<IpAddr>,
    /// From the time on when it runs.
    pauser: Option<Rc<Pauser>>,
    output: OutputLog,
    log: Logger,
}

impl ExitWatcher {
    /// Returns an idle watcher.
    pub fn new(engine: Rc<Engine>, log: Logger) -> Rc<Self> {
        let (waiting, running, warned) = Default::default();
        Rc::new(Self { engine, waiting, running, warned, log })
    }

    /// Returns the exit of a container, whose output and log get what else is noticed. To be called before it is started.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn exit_of(self: &Rc<Self>, id: &str, output: OutputLog, log: Logger) -> ExpectedExit {
        let (exit, exited) = oneshot::channel();
        let (out_of_memory, noticed) = watch::channel(false);
        let waiting = Waiting { exit: Some(exit), out_of_memory, address: None, pauser: None, output, log };
        self.waiting.borrow_mut().retain(|_, waiting| waiting.is_expected());
        self.waiting.borrow_mut().insert(id.to_owned(), waiting);
        if !self.running.replace(true) {
            task::spawn_local(self.clone().run());
        }
        ExpectedExit { exit: exited, out_of_memory: noticed }
    }

    /// Notes that the container runs: with the address without which it counts as cut off, and with what pauses it.
    pub fn set_running(&self, id: &str, address: Option<IpAddr>, pauser: Rc<Pauser>) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(id) {
            (waiting.address, waiting.pauser) = (address, Some(pauser));
        }
    }

    /// Follows the events until no exit is waited for.
    async fn run(self: Rc<Self>) {
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let since = SystemTime::now();
            match self.follow(since).await {
                Ok(()) => debug!(self.log, "the container engine ended its events"),
                Err(error) if !self.warned.replace(true) => {
                    warn!(self.log, "the container engine reports no exits of containers"; "error" => %error)
                }
                Err(error) => debug!(self.log, "the container engine is still away"; "error" => %error),
            }
            self.waiting.borrow_mut().retain(|_, waiting| waiting.is_expected());
            self.waiting
                .borrow()
                .values()
                .filter_map(|waiting| waiting.pauser.as_ref())
                .for_each(|pauser| pauser.thaw());
            if self.waiting.borrow().is_empty() {
                break;
            }
            delay = if since.elapsed().unwrap_or_default() > MAX_RETRY_DELAY { MIN_RETRY_DELAY } else { delay };
            time::sleep(delay).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
        self.running.set(false);
        self.warned.set(false);
    }

    async fn follow(&self, since: SystemTime) -> Result<(), EngineError> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(EVENT_OVERLAP);
        // Not filtered by the names of events: Podman's filter knows other names than those it sends. Nor by our label:
        // networks do not have it.
        let filters = HashMap::from([("type", ["container", "network"].map(str::to_owned).to_vec())]);
        let options = EventsOptionsBuilder::new().since(&since.as_secs().to_string()).filters(&filters).build();
        let docker = self.engine.client().await?;
        let mut events = docker.events(Some(options));
        // All containers at first: they may have exited before the stream began.
        let (suspect, suspects) = mpsc::unbounded_channel();
        for (id, _) in self.waiting.borrow().iter().filter(|(_, waiting)| waiting.exit.is_some()) {
            drop(suspect.send(id.clone()));
        }
        let mut inspecting = std::pin::pin!(self.inspect(suspects));
        loop {
            tokio::select! {
                result = &mut inspecting => return result,
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        self.warned.set(false);
                        self.apply(event).into_iter().for_each(|id| drop(suspect.send(id)));
                    }
                    Some(Err(error)) => return Err(self.engine.explain(&error)),
                    None => return Ok(()),
                }
            }
        }
    }

    /// Applies an event. Returns a container that must be inspected after it.
    fn apply(&self, event: EventMessage) -> Option<String> {
        let actor = event.actor?;
        let mut attributes = actor.attributes.unwrap_or_default();
        if event.typ == Some(EventMessageTypeEnum::NETWORK) {
            let container = attributes.remove("container").filter(|_| event.action.as_deref() == Some("disconnect"));
            return container.filter(|id| self.waiting.borrow().contains_key(id));
        }
        let id = actor.id?;
        match event.action.as_deref() {
            Some("oom") => {
                if let Some(waiting) = self.waiting.borrow().get(&id) {
                    waiting.out_of_memory.send_replace(true);
                }
            }
            Some("die" | "died") => {
                let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
                self.report(&id, ContainerExit::Died { code, out_of_memory: false });
            }
            Some(action @ ("pause" | "unpause")) => {
                self.with_pauser(&id, |pauser| pauser.engine_has(action == "pause"))
            }
            Some("kill") => self.with_pauser(&id, Pauser::thaw),
            Some("destroy" | "remove") => self.report(&id, ContainerExit::Removed),
            Some(action) if is_unhealthy(action, &attributes) => {
                // The check of a paused container does not end.
                let is_paused = |waiting: &Waiting| waiting.pauser.as_ref().is_some_and(|pauser| pauser.is_paused());
                if let Some(waiting) = self.waiting.borrow().get(&id).filter(|waiting| !is_paused(waiting)) {
                    warn!(waiting.log, "the health check of the image fails");
                    waiting.output.note("the HEALTHCHECK of the image fails");
                }
            }
            _ => {}
        }
        None
    }

    /// Inspects the suspects, and reports the exits among them.
    async fn inspect(&self, mut suspects: mpsc::UnboundedReceiver<String>) -> Result<(), EngineError> {
        while let Some(id) = suspects.recv().await {
            let inspect = async |docker: Docker| docker.inspect_container(&id, None).await;
            match self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await {
                Ok(container) => {
                    self.warned.set(false);
                    self.with_pauser(&id, |pauser| pauser.engine_has(is_paused(&container)));
                    let address = self.waiting.borrow().get(&id).and_then(|waiting| waiting.address);
                    if let Some(exit) = exit_in(&container, address) {
                        self.report(&id, exit);
                    }
                }
                Err(error) if error.is_not_found() => self.report(&id, ContainerExit::Removed),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn with_pauser(&self, id: &str, act: impl FnOnce(&Pauser)) {
        if let Some(pauser) = self.waiting.borrow().get(id).and_then(|waiting| waiting.pauser.as_ref()) {
            act(pauser);
        }
    }

    fn report(&self, id: &str, exit: ContainerExit) {
        let reported = self.waiting.borrow_mut().get_mut(id).and_then(|waiting| waiting.exit.take());
        // The receiver may be dropped by now.
        reported.into_iter().for_each(|sender| drop(sender.send(exit.clone())));
    }
}

impl Waiting {
    /// Returns whether its exit, or what the engine reports after it, has a receiver.
    fn is_expected(&self) -> bool {
        !self.out_of_memory.is_closed()
    }
}

/// Returns whether an event says that the health check of a container fails: Docker says it in the action, Podman in an
/// attribute.
fn is_unhealthy(action: &str, attributes: &HashMap<String, String>) -> bool {
    let status = action.strip_prefix("health_status");
    let said = status.map(|status| attributes.get("health_status").map_or(status, String::as_str));
    said.is_some_and(|said| said.trim_start_matches([':', ' ']) == "unhealthy")
}
