//! Watches for the exits of containers: one stream of the engine's events for all of them.
//!
//! A container that is taken out of its network counts as ended, as no request can reach it.
//!
//! While the engine is away no exit is concluded: the containers may live on. Once it is back, each container is
//! inspected, since the events of the meantime are lost. What counts as an exit is in `exit.rs`.

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
        let waiting = Waiting { exit: Some(exit), out_of_memory, address: None, output, log };
        self.waiting.borrow_mut().retain(|_, waiting| waiting.is_expected());
        self.waiting.borrow_mut().insert(id.to_owned(), waiting);
        if !self.running.replace(true) {
            task::spawn_local(self.clone().run());
        }
        ExpectedExit { exit: exited, out_of_memory: noticed }
    }

    /// Sets the address without which the container counts as cut off.
    pub fn set_address(&self, id: &str, address: IpAddr) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(id) {
            waiting.address = Some(address);
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
            Some("destroy" | "remove") => self.report(&id, ContainerExit::Removed),
            Some(action) if is_unhealthy(action, &attributes) => {
                if let Some(waiting) = self.waiting.borrow().get(&id) {
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use slog::{Discard, Drain, Level, Never, OwnedKVList, Record, o};

    use super::*;

    fn watcher() -> Rc<ExitWatcher> {
        watcher_with_log(Logger::root(Discard, o!()))
    }

    fn watcher_with_log(log: Logger) -> Rc<ExitWatcher> {
        ExitWatcher::new(Rc::new(Engine::at("unix:///nowhere/docker.sock".to_owned())), log)
    }

    /// Counts warnings.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicUsize>);

    impl Drain for Warnings {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            self.0.fetch_add(usize::from(record.level() == Level::Warning), Ordering::Relaxed);
            Ok(())
        }
    }

    fn event(action: &str, id: &str, attributes: &str) -> EventMessage {
        let text = format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Returns the exit of container `c` that these events report, after all of them.
    async fn told(events: &[EventMessage]) -> Option<ContainerExit> {
        let events = events.to_vec();
        let local = task::LocalSet::new();
        let told = local.run_until(async move {
            let watcher = watcher();
            let mut told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
            for event in events {
                assert_eq!(watcher.apply(event), None);
            }
            let out_of_memory = *told.out_of_memory.borrow();
            match told.exit.try_recv().ok() {
                Some(ContainerExit::Died { code, .. }) => Some(ContainerExit::Died { code, out_of_memory }),
                exit => exit,
            }
        });
        told.await
    }

    #[tokio::test]
    async fn reports_exit_code_of_death() {
        let end = told(&[event("die", "other", r#""exitCode":"1""#), event("die", "c", r#""exitCode":"137""#)]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: Some(137), out_of_memory: false }));
    }

    #[tokio::test]
    async fn reports_out_of_memory_before_and_after_the_death() {
        assert_eq!(told(&[event("oom", "c", "")]).await, None);
        let (oom, died) = (event("oom", "c", ""), event("die", "c", r#""exitCode":"137""#));
        for events in [[oom.clone(), died.clone()], [died.clone(), oom]] {
            assert_eq!(told(&events).await, Some(ContainerExit::Died { code: Some(137), out_of_memory: true }));
        }
        assert_eq!(
            told(&[died, event("oom", "other", "")]).await,
            Some(ContainerExit::Died { code: Some(137), out_of_memory: false })
        );
    }

    #[tokio::test]
    async fn reports_removal_without_death_and_each_exit_once() {
        assert_eq!(told(&[event("destroy", "c", "")]).await, Some(ContainerExit::Removed));
        let end = told(&[event("die", "c", r#""exitCode":"0""#), event("destroy", "c", "")]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: Some(0), out_of_memory: false }));
        assert_eq!(told(&[event("start", "c", ""), event("exec_die", "c", r#""exitCode":"1""#)]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn absent_engine_ends_no_container_and_is_logged_once() {
        task::LocalSet::new()
            .run_until(async {
                let warnings = Warnings::default();
                let watcher = watcher_with_log(Logger::root(warnings.clone(), o!()));
                let mut told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
                time::sleep(Duration::from_secs(60)).await;
                assert!(told.exit.try_recv().is_err() && watcher.running.get());
                assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
                drop(told);
                time::sleep(Duration::from_secs(60)).await;
                assert!(!watcher.running.get(), "no exit is waited for");
            })
            .await;
    }

    #[tokio::test]
    async fn inspects_container_after_disconnect() {
        let disconnected = |action: &str, id: &str| -> EventMessage {
            let text = format!(
                r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"n","Attributes":{{"container":"{id}"}}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let looks = async {
            let watcher = watcher();
            let _told = watcher.exit_of("c", OutputLog::default(), Logger::root(Discard, o!()));
            let events = [("disconnect", "c"), ("connect", "c"), ("disconnect", "other")];
            events.map(|(action, id)| watcher.apply(disconnected(action, id)))
        };
        assert_eq!(task::LocalSet::new().run_until(looks).await, [Some("c".to_owned()), None, None]);
    }
}
