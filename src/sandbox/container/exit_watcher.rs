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
    sync::{mpsc, oneshot},
    task, time,
};

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

#[derive(Debug)]
struct Waiting {
    exit: oneshot::Sender<ContainerExit>,
    /// The container's address, once that is known.
    address: Option<IpAddr>,
    /// Memory has run out in it, which alone does not end it.
    out_of_memory: bool,
}

impl ExitWatcher {
    /// Returns an idle watcher.
    pub fn new(engine: Rc<Engine>, log: Logger) -> Rc<Self> {
        let (waiting, running, warned) = Default::default();
        Rc::new(Self { engine, waiting, running, warned, log })
    }

    /// Returns the exit of a container. To be called before the container is started.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn exit_of(self: &Rc<Self>, id: &str) -> oneshot::Receiver<ContainerExit> {
        let (exit, exited) = oneshot::channel();
        self.waiting.borrow_mut().insert(id.to_owned(), Waiting { exit, address: None, out_of_memory: false });
        if !self.running.replace(true) {
            task::spawn_local(self.clone().run());
        }
        exited
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
            self.waiting.borrow_mut().retain(|_, waiting| !waiting.exit.is_closed());
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
        self.waiting.borrow().keys().for_each(|id| drop(suspect.send(id.clone())));
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
                if let Some(waiting) = self.waiting.borrow_mut().get_mut(&id) {
                    waiting.out_of_memory = true;
                }
            }
            Some("die" | "died") => {
                let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
                self.report(&id, ContainerExit::Died { code: code.unwrap_or(-1), out_of_memory: false });
            }
            Some("destroy" | "remove") => self.report(&id, ContainerExit::Removed),
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

    fn report(&self, id: &str, mut exit: ContainerExit) {
        let Some(waiting) = self.waiting.borrow_mut().remove(id) else { return };
        if let ContainerExit::Died { out_of_memory, .. } = &mut exit {
            *out_of_memory |= waiting.out_of_memory;
        }
        // The receiver may be dropped by now.
        let _ = waiting.exit.send(exit);
    }
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

    /// Returns the exit of container `c` that these events report.
    async fn told(events: &[EventMessage]) -> Option<ContainerExit> {
        let events = events.to_vec();
        let local = task::LocalSet::new();
        let told = local.run_until(async move {
            let watcher = watcher();
            let mut told = watcher.exit_of("c");
            for event in events {
                assert_eq!(watcher.apply(event), None);
            }
            told.try_recv().ok()
        });
        told.await
    }

    #[tokio::test]
    async fn reports_exit_code_of_death() {
        let end = told(&[event("die", "other", r#""exitCode":"1""#), event("die", "c", r#""exitCode":"137""#)]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 137, out_of_memory: false }));
    }

    #[tokio::test]
    async fn reports_out_of_memory_with_the_death_that_follows() {
        assert_eq!(told(&[event("oom", "c", "")]).await, None);
        let end = told(&[event("oom", "c", ""), event("die", "c", r#""exitCode":"137""#)]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 137, out_of_memory: true }));
    }

    #[tokio::test]
    async fn reports_removal_without_death_and_each_exit_once() {
        assert_eq!(told(&[event("destroy", "c", "")]).await, Some(ContainerExit::Removed));
        let end = told(&[event("die", "c", r#""exitCode":"0""#), event("destroy", "c", "")]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 0, out_of_memory: false }));
        assert_eq!(told(&[event("start", "c", ""), event("exec_die", "c", r#""exitCode":"1""#)]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn absent_engine_ends_no_container_and_is_logged_once() {
        task::LocalSet::new()
            .run_until(async {
                let warnings = Warnings::default();
                let watcher = watcher_with_log(Logger::root(warnings.clone(), o!()));
                let mut told = watcher.exit_of("c");
                time::sleep(Duration::from_secs(60)).await;
                assert!(told.try_recv().is_err() && watcher.running.get());
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
            let _told = watcher.exit_of("c");
            let events = [("disconnect", "c"), ("connect", "c"), ("disconnect", "other")];
            events.map(|(action, id)| watcher.apply(disconnected(action, id)))
        };
        assert_eq!(task::LocalSet::new().run_until(looks).await, [Some("c".to_owned()), None, None]);
    }
}
