//! Removes containers and does not give up: an engine that is away still has them when it comes back. Those that are
//! left when the daemon ends stay in the journal, and the next daemon removes them.
//!
//! An engine that is killed during a start may not know afterwards that the container runs. It then removes the container
//! and leaves its processes, which are killed here.

use std::{collections::HashSet, io, rc::Rc, time::Duration};

use bollard::{Docker, query_parameters::RemoveContainerOptionsBuilder};
use slog::{Logger, debug, warn};
use tokio::{sync::oneshot, task, time};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT, Session},
    engine_error::EngineError,
};
use crate::{
    state::{self, JournalEntry},
    worker::{Requests, Worker},
};

/// One attempt: the engine kills a running container, waits for its exit and releases its network.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between attempts.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// How long a container whose creation timed out may take to appear in an engine that answers again.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(3);

/// Queues containers for removal. Clones share the queue. It works in destructors, too.
#[derive(Debug, Clone)]
pub struct ContainerReaper(Rc<Worker<Removal>>);

#[derive(Debug)]
struct Removal {
    container: String,
    /// Removed with the container, if there is one.
    entry: Option<JournalEntry>,
    maybe_created: bool,
    /// The engine's session in which it was created; `None` if by an earlier daemon.
    session: Option<Session>,
    done: oneshot::Sender<()>,
}

impl ContainerReaper {
    /// Starts the background task.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn start(engine: Rc<Engine>, log: Logger) -> Self {
        let work = async move |removals: Requests<Removal>| {
            while let Ok(removal) = removals.recv().await {
                task::spawn_local(carry_out(engine.clone(), removal, log.clone()));
            }
        };
        Self(Rc::new(Worker::on_local_set(work)))
    }

    /// Kills and removes a container with its anonymous volumes. `session` is the engine's in which it was created, if this
    /// daemon has. Resolves when it is gone. The removal goes on when the future is dropped.
    pub async fn remove(&self, container: &str, session: Option<Session>, entry: Option<JournalEntry>) {
        let _ = self.queue(container, session, entry, false).await;
    }

    /// As [`remove`](Self::remove), for a container that may not exist yet, as the call to create it timed out.
    pub async fn remove_if_created(&self, container: &str, entry: JournalEntry) {
        let _ = self.queue(container, None, Some(entry), true).await;
    }

    /// As [`remove`](Self::remove), without a wait.
    pub fn discard(&self, container: &str, session: Session, entry: JournalEntry) {
        drop(self.queue(container, Some(session), Some(entry), false));
    }

    /// Queues the removal. The receiver fails when the daemon ends first: the next one finds the entry.
    fn queue(
        &self,
        container: &str,
        session: Option<Session>,
        entry: Option<JournalEntry>,
        maybe_created: bool,
    ) -> oneshot::Receiver<()> {
        let container = container.to_owned();
        self.0.handle().call(|done| Removal { container, entry, maybe_created, session, done })
    }
}

async fn carry_out(engine: Rc<Engine>, removal: Removal, log: Logger) {
    let Removal { container, entry, maybe_created, session, done } = removal;
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let mut delay = MIN_RETRY_DELAY;
    let mut may_appear_for = if maybe_created { APPEAR_TIMEOUT } else { Duration::ZERO };
    let mut warned = false;
    loop {
        let remove = async |docker: Docker| docker.remove_container(&container, Some(options.clone())).await;
        match engine.ask("remove", REMOVE_TIMEOUT, remove).await {
            Ok(()) => break,
            Err(error) if error.is_not_found() => {
                if may_appear_for.is_zero() {
                    break;
                }
                time::sleep(MIN_RETRY_DELAY).await;
                may_appear_for = may_appear_for.saturating_sub(MIN_RETRY_DELAY);
                continue;
            }
            // Another removal is in progress. The container is gone when the engine no longer knows it.
            Err(error) if error.is_conflict() => {}
            Err(_) if engine.is_given_up() => {
                warn!(log, "a container is left for the next daemon to remove"; "container" => &container);
                return;
            }
            Err(error) => {
                if matches!(error, EngineError::Refused { .. }) {
                    // gVisor's runtime refuses while the engine has paused the container.
                    let resume = async |docker: Docker| docker.unpause_container(&container).await;
                    let _ = engine.ask("unpause", QUICK_CALL_TIMEOUT, resume).await;
                }
                if !warned {
                    warn!(log, "a container cannot be removed yet"; "container" => &container, "error" => %error);
                    warned = true;
                }
                delay = next_delay(delay, &error);
            }
        }
        time::sleep(delay).await;
    }
    if warned {
        debug!(log, "container removed after retries"; "container" => &container);
    }
    if session != Some(engine.session()) {
        kill_forgotten_processes(&container, &log).await;
    }
    entry.into_iter().for_each(JournalEntry::remove);
    let _ = done.send(());
}

/// Kills the processes of a container that its engine no longer knows.
async fn kill_forgotten_processes(container: &str, log: &Logger) {
    let id = container.to_owned();
    let killed = task::spawn_blocking(move || state::kill_container_processes(&id)).await;
    match killed.unwrap_or_else(|error| (HashSet::new(), Err(io::Error::other(error)))) {
        (killed, Ok(())) if killed.is_empty() => {}
        (killed, Ok(())) => {
            warn!(log, "the container engine left processes of a removed container, which were killed";
                "container" => container, "processes" => killed.len());
        }
        (_, Err(error)) => {
            warn!(log, "the container engine left processes of a removed container";
                "container" => container, "error" => %error);
        }
    }
}

/// Returns the delay before the next attempt: often for an engine that restarts, with growing delays for an engine that refuses.
fn next_delay(delay: Duration, error: &EngineError) -> Duration {
    let longest = if matches!(error, EngineError::Absent { .. }) { MAX_RECONNECT_DELAY } else { MAX_RETRY_DELAY };
    (delay * 2).min(longest)
}

#[cfg(test)]
mod tests {
    use slog::{Discard, o};
    use tokio::{task::LocalSet, time::Instant};

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };
    use crate::state::{Resource, State};

    /// An entry, and the journal's directory.
    fn entry() -> (State, JournalEntry, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let (state, _) = State::open(directory.path()).unwrap();
        let resource = Resource::Container { engine: "e".to_owned(), name: "c".to_owned() };
        let entry = state.journal.record_blocking(resource).unwrap();
        (state, entry, directory)
    }

    const GONE: &str = "404 {\"message\":\"No such container: c\"}";

    /// Removes container `c` of an engine with these answers; its requests after the first, and how long it took.
    async fn removed(answers: &'static [&'static str], maybe_created: bool) -> (Vec<String>, Duration) {
        let removal = async {
            let (_directory, engine, asked) = mock_engine(answers);
            let reaper = ContainerReaper::start(Rc::new(engine), Logger::root(Discard, o!()));
            let since = Instant::now();
            let (state, entry, directory) = entry();
            if maybe_created {
                reaper.remove_if_created("c", entry).await;
            } else {
                reaper.remove("c", None, Some(entry)).await;
            }
            drop(state);
            assert!(State::open(directory.path()).unwrap().1.resources.is_empty(), "the entry was not removed");
            let asked = asked.borrow()[1..].to_vec();
            (asked, since.elapsed())
        };
        LocalSet::new().run_until(removal).await
    }

    #[tokio::test]
    async fn removes_container_by_force_with_its_volumes() {
        let (asked, _) = removed(&[OLD, "204 "], false).await;
        assert_eq!(asked.len(), 1);
        assert!(asked[0].starts_with("DELETE /v1.41/containers/c?"), "{asked:?}");
        assert!(asked[0].contains("force=true") && asked[0].contains("v=true"), "{asked:?}");
    }

    #[tokio::test]
    async fn waits_for_removal_in_progress_and_accepts_missing_container() {
        const BUSY: &str = "409 {\"message\":\"removal of container c is already in progress\"}";
        assert_eq!(removed(&[OLD, GONE], false).await.0.len(), 1);
        assert_eq!(removed(&[OLD, BUSY, BUSY, GONE], false).await.0.len(), 3);
    }

    #[tokio::test]
    async fn retries_when_engine_is_away_or_refuses() {
        const REFUSAL: &str = "500 {\"message\":\"device or resource busy\"}";
        // After a hang-up the version is asked for again.
        let (asked, took) = removed(&[OLD, "", OLD, REFUSAL, "204 "], false).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 3, "{asked:?}");
        assert!(took >= MIN_RETRY_DELAY * 2, "{took:?}");
    }

    #[tokio::test]
    async fn looks_for_container_that_may_still_appear() {
        let (asked, _) = removed(&[OLD, GONE, GONE, "204 "], true).await;
        assert_eq!(asked.len(), 3);
        let (asked, took) = removed(&[OLD, GONE], true).await;
        assert!(asked.len() > 10 && took >= APPEAR_TIMEOUT, "{took:?}");
    }

    #[tokio::test]
    async fn entry_stays_when_engine_is_given_up() {
        let removal = async {
            let engine = Rc::new(Engine::at("unix:///nowhere/docker.sock".to_owned()));
            let reaper = ContainerReaper::start(engine.clone(), Logger::root(Discard, o!()));
            let (state, entry, directory) = entry();
            futures::join!(reaper.remove("c", None, Some(entry)), engine.give_up_if_lost());
            drop(state);
            assert_eq!(State::open(directory.path()).unwrap().1.resources.len(), 1, "the entry was removed");
        };
        LocalSet::new().run_until(removal).await;
    }

    #[tokio::test]
    async fn removal_goes_on_after_its_future_is_dropped() {
        let removal = async {
            let (_directory, engine, asked) = mock_engine(&[OLD, "", OLD, "204 "]);
            let session = engine.session();
            let reaper = ContainerReaper::start(Rc::new(engine), Logger::root(Discard, o!()));
            assert!(time::timeout(Duration::from_millis(20), reaper.remove("c", None, None)).await.is_err());
            reaper.discard("d", session, entry().1);
            time::sleep(Duration::from_secs(1)).await;
            let asked = asked.borrow();
            for container in ["/c?", "/d?"] {
                assert!(asked.iter().any(|line| line.contains(container)), "{asked:?}");
            }
        };
        LocalSet::new().run_until(removal).await;
    }
}
