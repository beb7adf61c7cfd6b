//! How containers end, told at once: one stream of the engine's events for all of them.
//!
//! One that is taken out of its network has ended for all who could ask it for anything, so that is an end, too.
//!
//! While the engine is away nothing is known and nothing is concluded: containers may well live on. Once it is back, each
//! one is looked at, since what happened meanwhile was told to nobody.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    models::{ContainerInspectResponse, ContainerStateStatusEnum, EventMessage, EventMessageTypeEnum},
    query_parameters::EventsOptionsBuilder,
};
use futures::StreamExt;
use slog::{Logger, debug, warn};
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use super::{
    engine::{Engine, EngineError, QUICK},
    inspection::addresses,
};

/// Before the first and between further attempts to reach an engine that has gone.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How far back a new stream begins, so that nothing falls between a look at the containers and its first event.
const OVERLAP: Duration = Duration::from_secs(2);

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerExit {
    /// With this exit code, and perhaps because memory ran out.
    Died { code: i64, out_of_memory: bool },
    /// The engine does not know it any more.
    Removed,
    /// It runs, but not at its address.
    CutOff,
}

/// Everybody who waits for the end of a container.
#[derive(Debug)]
pub struct ExitWatcher {
    engine: Rc<Engine>,
    waiting: RefCell<HashMap<String, Waiting>>,
    listening: Cell<bool>,
    /// Whether it has been told that the engine is away. There may be any number of attempts.
    warned: Cell<bool>,
    log: Logger,
}

#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<ContainerExit>,
    /// Where it is, once that is known.
    address: Option<IpAddr>,
    /// Memory has run out in it, which alone does not end it.
    out_of_memory: bool,
}

impl ExitWatcher {
    /// Watches nothing yet.
    pub fn new(engine: Rc<Engine>, log: Logger) -> Rc<Self> {
        let (waiting, listening, warned) = Default::default();
        Rc::new(Self { engine, waiting, listening, warned, log })
    }

    /// Tells how the container ends. To be called before it is started.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn end_of(self: &Rc<Self>, id: &str) -> oneshot::Receiver<ContainerExit> {
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(id.to_owned(), Waiting { tell, address: None, out_of_memory: false });
        if !self.listening.replace(true) {
            task::spawn_local(self.clone().listen());
        }
        told
    }

    /// From now on it has ended, too, when it is not at that address any more.
    pub fn is_at(&self, id: &str, address: IpAddr) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(id) {
            waiting.address = Some(address);
        }
    }

    /// Follows the events for as long as there is an engine, or a container to wait for.
    async fn listen(self: Rc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = SystemTime::now();
            match self.follow(since).await {
                Ok(()) => debug!(self.log, "the container engine ended its events"),
                Err(error) if !self.warned.replace(true) => {
                    warn!(self.log, "the container engine tells no more how containers end"; "error" => %error)
                }
                Err(error) => debug!(self.log, "the container engine is still away"; "error" => %error),
            }
            self.waiting.borrow_mut().retain(|_, waiting| !waiting.tell.is_closed());
            if self.waiting.borrow().is_empty() {
                break;
            }
            pause = if since.elapsed().unwrap_or_default() > LONGEST_PAUSE { FIRST_PAUSE } else { pause };
            time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.listening.set(false);
        self.warned.set(false);
    }

    async fn follow(&self, since: SystemTime) -> Result<(), EngineError> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(OVERLAP);
        // Not by the names of events: Podman filters by names of its own, which are not those it sends. Nor by our label:
        // networks do not have it.
        let filters = HashMap::from([("type", ["container", "network"].map(str::to_owned).to_vec())]);
        let options = EventsOptionsBuilder::new().since(&since.as_secs().to_string()).filters(&filters).build();
        let docker = self.engine.client().await?;
        let mut events = docker.events(Some(options));
        // At first all of them: they may have ended while nobody listened.
        let (suspect, suspects) = mpsc::unbounded_channel();
        self.waiting.borrow().keys().for_each(|id| drop(suspect.send(id.clone())));
        let mut looking = std::pin::pin!(self.look_at(suspects));
        loop {
            tokio::select! {
                result = &mut looking => return result,
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        self.warned.set(false);
                        self.take(event).into_iter().for_each(|id| drop(suspect.send(id)));
                    }
                    Some(Err(error)) => return Err(self.engine.explain(&error)),
                    None => return Ok(()),
                }
            }
        }
    }

    /// Takes an event in. A container that it returns is to be looked at.
    fn take(&self, event: EventMessage) -> Option<String> {
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
                self.tell(&id, ContainerExit::Died { code: code.unwrap_or(-1), out_of_memory: false });
            }
            Some("destroy" | "remove") => self.tell(&id, ContainerExit::Removed),
            _ => {}
        }
        None
    }

    /// Finds those of them that have ended.
    async fn look_at(&self, mut suspects: mpsc::UnboundedReceiver<String>) -> Result<(), EngineError> {
        while let Some(id) = suspects.recv().await {
            let inspect = async |docker: bollard::Docker| docker.inspect_container(&id, None).await;
            match self.engine.ask("inspect", QUICK, inspect).await {
                Ok(container) => {
                    self.warned.set(false);
                    let address = self.waiting.borrow().get(&id).and_then(|waiting| waiting.address);
                    if let Some(end) = end_in(&container, address) {
                        self.tell(&id, end);
                    }
                }
                Err(error) if error.is_not_found() => self.tell(&id, ContainerExit::Removed),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tell(&self, id: &str, mut end: ContainerExit) {
        let Some(waiting) = self.waiting.borrow_mut().remove(id) else { return };
        if let ContainerExit::Died { out_of_memory, .. } = &mut end {
            *out_of_memory |= waiting.out_of_memory;
        }
        // Nobody may be interested any more.
        let _ = waiting.tell.send(end);
    }
}

/// How a container ended that the engine still knows, and which was at that address. `None`: it has not ended.
fn end_in(container: &ContainerInspectResponse, address: Option<IpAddr>) -> Option<ContainerExit> {
    use ContainerStateStatusEnum::{DEAD, EXITED, REMOVING};
    let state = container.state.as_ref()?;
    if matches!(state.status, Some(EXITED | DEAD | REMOVING)) {
        let (code, out_of_memory) = (state.exit_code.unwrap_or(-1), state.oom_killed.unwrap_or(false));
        return Some(ContainerExit::Died { code, out_of_memory });
    }
    address.filter(|address| !addresses(container).any(|actual| actual == *address)).map(|_| ContainerExit::CutOff)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use slog::{Discard, Drain, Level, Never, OwnedKVList, Record, o};

    use super::*;

    fn watch() -> Rc<ExitWatcher> {
        watch_and_log(Logger::root(Discard, o!()))
    }

    fn watch_and_log(log: Logger) -> Rc<ExitWatcher> {
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

    /// The end of container `c`, as told by events.
    async fn told(events: &[EventMessage]) -> Option<ContainerExit> {
        let events = events.to_vec();
        let local = task::LocalSet::new();
        let told = local.run_until(async move {
            let watch = watch();
            let mut told = watch.end_of("c");
            for event in events {
                assert_eq!(watch.take(event), None);
            }
            told.try_recv().ok()
        });
        told.await
    }

    #[tokio::test]
    async fn a_death_is_told_with_its_exit_code() {
        let end = told(&[event("die", "other", r#""exitCode":"1""#), event("die", "c", r#""exitCode":"137""#)]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 137, out_of_memory: false }));
    }

    #[tokio::test]
    async fn memory_that_runs_out_is_told_with_the_death_that_follows() {
        assert_eq!(told(&[event("oom", "c", "")]).await, None);
        let end = told(&[event("oom", "c", ""), event("die", "c", r#""exitCode":"137""#)]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 137, out_of_memory: true }));
    }

    #[tokio::test]
    async fn a_removal_without_a_death_is_an_end_too_and_an_end_is_told_once() {
        assert_eq!(told(&[event("destroy", "c", "")]).await, Some(ContainerExit::Removed));
        let end = told(&[event("die", "c", r#""exitCode":"0""#), event("destroy", "c", "")]).await;
        assert_eq!(end, Some(ContainerExit::Died { code: 0, out_of_memory: false }));
        assert_eq!(told(&[event("start", "c", ""), event("exec_die", "c", r#""exitCode":"1""#)]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_ends_nobody_and_that_it_is_away_is_told_once() {
        task::LocalSet::new()
            .run_until(async {
                let warnings = Warnings::default();
                let watch = watch_and_log(Logger::root(warnings.clone(), o!()));
                let mut told = watch.end_of("c");
                time::sleep(Duration::from_secs(60)).await;
                assert!(told.try_recv().is_err() && watch.listening.get());
                assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
                drop(told);
                time::sleep(Duration::from_secs(60)).await;
                assert!(!watch.listening.get(), "nobody waits any more");
            })
            .await;
    }

    #[test]
    fn containers_that_have_not_ended_are_left_alone() {
        let end = |text: &str| {
            let text = format!(r#"{{"State":{text},"NetworkSettings":{{"Networks":{{}}}}}}"#);
            end_in(&serde_json::from_str(&text).unwrap(), None)
        };
        for status in ["created", "running", "paused", "restarting"] {
            assert_eq!(end(&format!(r#"{{"Status":"{status}","ExitCode":0}}"#)), None);
        }
        let died = |code, out_of_memory| Some(ContainerExit::Died { code, out_of_memory });
        assert_eq!(end(r#"{"Status":"exited","ExitCode":3}"#), died(3, false));
        assert_eq!(end(r#"{"Status":"exited","ExitCode":137,"OOMKilled":true}"#), died(137, true));
        assert_eq!(end(r#"{"Status":"dead"}"#), died(-1, false));
    }

    #[test]
    fn one_that_runs_elsewhere_or_nowhere_has_ended_for_us() {
        let end = |status: &str, networks: &str| {
            let text = format!(
                r#"{{"State":{{"Status":"{status}","ExitCode":3}},"NetworkSettings":{{"Networks":{{{networks}}}}}}}"#
            );
            end_in(&serde_json::from_str(&text).unwrap(), Some("10.9.0.2".parse().unwrap()))
        };
        let others = r#""a":{"IPAddress":""},"b":{"IPAddress":"10.8.0.2"}"#;
        for status in ["created", "running", "paused"] {
            assert_eq!(end(status, &format!(r#"{others},"c":{{"IPAddress":"10.9.0.2"}}"#)), None);
            assert_eq!(end(status, others), Some(ContainerExit::CutOff));
            assert_eq!(end(status, ""), Some(ContainerExit::CutOff));
        }
        assert_eq!(end("exited", ""), Some(ContainerExit::Died { code: 3, out_of_memory: false }));
    }

    #[tokio::test]
    async fn one_that_is_taken_out_of_a_network_is_looked_at() {
        let disconnected = |action: &str, id: &str| -> EventMessage {
            let text = format!(
                r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"n","Attributes":{{"container":"{id}"}}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let looks = async {
            let watch = watch();
            let _told = watch.end_of("c");
            let events = [("disconnect", "c"), ("connect", "c"), ("disconnect", "other")];
            events.map(|(action, id)| watch.take(disconnected(action, id)))
        };
        assert_eq!(task::LocalSet::new().run_until(looks).await, [Some("c".to_owned()), None, None]);
    }
}
