//! Removes containers, and does not give up: an engine that is away has them still when it comes back. Only at the end of
//! the daemon they are left to the next one, which reads of them in the journal.

use std::{rc::Rc, time::Duration};

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use slog::{Logger, debug, warn};
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use super::engine::{Engine, EngineError};
use crate::state::JournalEntry;

/// One attempt: the engine kills a running container, waits for its end and frees its network.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a container that was perhaps created may take to appear in an engine that answers again.
const DOUBT: Duration = Duration::from_secs(3);

/// Where to send containers that are to go. Works from anywhere, destructors included.
#[derive(Debug, Clone)]
pub struct ContainerReaper {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
struct Order {
    container: String,
    /// To be struck out when it is gone, if it was written down.
    entry: Option<JournalEntry>,
    maybe_created: bool,
    done: Option<oneshot::Sender<()>>,
}

impl ContainerReaper {
    /// Starts to work.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn start(engine: Rc<Engine>, log: Logger) -> Self {
        let (orders, mut ordered) = mpsc::unbounded_channel();
        task::spawn_local(async move {
            while let Some(order) = ordered.recv().await {
                task::spawn_local(carry_out(engine.clone(), order, log.clone()));
            }
        });
        Self { orders }
    }

    /// Ends and removes a container with its anonymous volumes. Resolves when it is gone; goes on when it is dropped.
    pub async fn remove(&self, container: &str, entry: Option<JournalEntry>) {
        self.order(container, entry, false).await;
    }

    /// As [`remove`](Self::remove), for one that may not exist yet: a call to create it was given up on.
    pub async fn remove_if_created(&self, container: &str, entry: JournalEntry) {
        self.order(container, Some(entry), true).await;
    }

    /// As [`remove`](Self::remove), without a wait.
    pub fn discard(&self, container: &str, entry: JournalEntry) {
        // Nobody is there to do it only when the daemon has ended.
        let order = Order { container: container.to_owned(), entry: Some(entry), maybe_created: false, done: None };
        let _ = self.orders.send(order);
    }

    /// Takes effect at the call; the future is the wait.
    fn order(
        &self,
        container: &str,
        entry: Option<JournalEntry>,
        maybe_created: bool,
    ) -> impl Future<Output = ()> + use<> {
        let (done, gone) = oneshot::channel();
        let _ = self.orders.send(Order { container: container.to_owned(), entry, maybe_created, done: Some(done) });
        async move {
            let _ = gone.await;
        }
    }
}

async fn carry_out(engine: Rc<Engine>, order: Order, log: Logger) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let mut pause = FIRST_PAUSE;
    let mut doubt = if order.maybe_created { DOUBT } else { Duration::ZERO };
    let mut warned = false;
    loop {
        let remove =
            async |docker: bollard::Docker| docker.remove_container(&order.container, Some(options.clone())).await;
        match engine.ask("remove", ATTEMPT, remove).await {
            Ok(()) => break,
            Err(error) if error.is_not_found() => {
                if doubt.is_zero() {
                    break;
                }
                time::sleep(FIRST_PAUSE).await;
                doubt = doubt.saturating_sub(FIRST_PAUSE);
                continue;
            }
            // Somebody else is removing it: it is gone when the engine does not know it any more.
            Err(error) if error.is_conflict() => {}
            Err(_) if engine.is_given_up() => {
                warn!(log, "a container is left for the next daemon to remove"; "container" => &order.container);
                return;
            }
            Err(error) => {
                if !warned {
                    warn!(log, "a container cannot be removed yet"; "container" => &order.container, "error" => %error);
                    warned = true;
                }
                pause = next(pause, &error);
            }
        }
        time::sleep(pause).await;
    }
    if warned {
        debug!(log, "container removed at last"; "container" => &order.container);
    }
    order.entry.into_iter().for_each(JournalEntry::remove);
    if let Some(done) = order.done {
        let _ = done.send(());
    }
}

/// An engine that restarts is asked often, one that refuses ever less.
fn next(pause: Duration, error: &EngineError) -> Duration {
    let longest = if matches!(error, EngineError::Absent { .. }) { LONGEST_PAUSE / 10 } else { LONGEST_PAUSE };
    (pause * 2).min(longest)
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
                reaper.remove("c", Some(entry)).await;
            }
            drop(state);
            assert!(State::open(directory.path()).unwrap().1.resources.is_empty(), "it was not struck out");
            let asked = asked.borrow()[1..].to_vec();
            (asked, since.elapsed())
        };
        LocalSet::new().run_until(removal).await
    }

    #[tokio::test]
    async fn a_container_goes_by_force_and_with_its_volumes() {
        let (asked, _) = removed(&[OLD, "204 "], false).await;
        assert_eq!(asked.len(), 1);
        assert!(asked[0].starts_with("DELETE /v1.41/containers/c?"), "{asked:?}");
        assert!(asked[0].contains("force=true") && asked[0].contains("v=true"), "{asked:?}");
    }

    #[tokio::test]
    async fn what_is_gone_or_is_being_removed_by_somebody_else_is_waited_for() {
        const BUSY: &str = "409 {\"message\":\"removal of container c is already in progress\"}";
        assert_eq!(removed(&[OLD, GONE], false).await.0.len(), 1);
        assert_eq!(removed(&[OLD, BUSY, BUSY, GONE], false).await.0.len(), 3);
    }

    #[tokio::test]
    async fn an_engine_that_is_away_or_refuses_is_asked_again() {
        const REFUSAL: &str = "500 {\"message\":\"device or resource busy\"}";
        // After a hang-up the version is asked for again.
        let (asked, took) = removed(&[OLD, "", OLD, REFUSAL, "204 "], false).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 3, "{asked:?}");
        assert!(took >= FIRST_PAUSE * 2, "{took:?}");
    }

    #[tokio::test]
    async fn one_that_may_still_come_to_be_is_looked_for_a_while() {
        let (asked, _) = removed(&[OLD, GONE, GONE, "204 "], true).await;
        assert_eq!(asked.len(), 3);
        let (asked, took) = removed(&[OLD, GONE], true).await;
        assert!(asked.len() > 10 && took >= DOUBT, "{took:?}");
    }

    #[tokio::test]
    async fn one_whose_engine_is_given_up_on_stays_written_down() {
        let removal = async {
            let engine = Rc::new(Engine::at("unix:///nowhere/docker.sock".to_owned()));
            let reaper = ContainerReaper::start(engine.clone(), Logger::root(Discard, o!()));
            let (state, entry, directory) = entry();
            futures::join!(reaper.remove("c", Some(entry)), engine.give_up_if_lost());
            drop(state);
            assert_eq!(State::open(directory.path()).unwrap().1.resources.len(), 1, "it was struck out");
        };
        LocalSet::new().run_until(removal).await;
    }

    #[tokio::test]
    async fn a_removal_goes_on_when_nobody_waits_for_it() {
        let removal = async {
            let (_directory, engine, asked) = mock_engine(&[OLD, "", OLD, "204 "]);
            let reaper = ContainerReaper::start(Rc::new(engine), Logger::root(Discard, o!()));
            assert!(time::timeout(Duration::from_millis(20), reaper.remove("c", None)).await.is_err());
            reaper.discard("d", entry().1);
            time::sleep(Duration::from_secs(1)).await;
            let asked = asked.borrow();
            for container in ["/c?", "/d?"] {
                assert!(asked.iter().any(|line| line.contains(container)), "{asked:?}");
            }
        };
        LocalSet::new().run_until(removal).await;
    }
}
