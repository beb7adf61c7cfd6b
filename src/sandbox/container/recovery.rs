//! Containers that an earlier daemon of the state directory has left, removed when their engine can be reached: at once,
//! or whenever that will be.
//!
//! What the engine has is known by its labels. What was written down, and is not there, may still be about to come: the
//! engine can have read a request whose sender is no more.

use std::{collections::HashMap, rc::Rc, time::Duration};

use bollard::{
    Docker,
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, ListContainersOptionsBuilder},
};
use futures::future;
use slog::{Logger, warn};
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    engine::{Engine, EngineError, QUICK},
    reaper::ContainerReaper,
    request::{DAEMON_LABEL, Owner, RUN_LABEL},
};
use crate::{sandbox::reclaim, state::JournalEntry};

/// Between two looks: at first, and at most to an engine that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one that was about to be made may take to be there.
const DOUBT: Duration = Duration::from_millis(500);
/// Before further looks, in case that it took longer.
const SECOND_THOUGHTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Removes them in the background. `left` are entries with an engine and a name; `engine` is asked also without any.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn remove(engine: &Rc<Engine>, left: Vec<(JournalEntry, String, String)>, owner: &Owner, log: &Logger) {
    let mut by_engine = HashMap::from([(engine.host().to_owned(), HashMap::new())]);
    for (entry, host, name) in left {
        by_engine.entry(host).or_default().insert(name, entry);
    }
    for (host, left) in by_engine {
        let engine = if host == engine.host() { engine.clone() } else { Rc::new(Engine::at(host)) };
        let (owner, log) = (owner.clone(), log.clone());
        task::spawn_local(async move {
            let maybe_created = !left.is_empty();
            let Some(sweep) = Sweep::of(engine, owner, log, left).await else { return };
            for pause in SECOND_THOUGHTS.into_iter().filter(|_| maybe_created) {
                time::sleep(pause).await;
                let _ = sweep.look(&mut HashMap::new()).await;
            }
        });
    }
}

struct Sweep {
    engine: Rc<Engine>,
    owner: Owner,
    reaper: ContainerReaper,
}

impl Sweep {
    /// Removes everything, however long the engine is away. `None`: it is away, and nothing is known to be there.
    async fn of(
        engine: Rc<Engine>,
        owner: Owner,
        log: Logger,
        mut left: HashMap<String, JournalEntry>,
    ) -> Option<Self> {
        let sweep = Self { reaper: ContainerReaper::start(engine.clone(), log.clone()), engine, owner };
        let doubt = if left.is_empty() { Duration::ZERO } else { DOUBT };
        let (mut removed, mut pause, mut warned) = (0, FIRST_PAUSE, false);
        let mut answered = None;
        loop {
            match sweep.look(&mut left).await {
                Ok(0) if answered.get_or_insert_with(Instant::now).elapsed() >= doubt => break,
                Ok(count) => {
                    answered.get_or_insert_with(Instant::now);
                    removed += count;
                    pause = FIRST_PAUSE;
                }
                Err(_) if left.is_empty() && removed == 0 => return None,
                Err(error) => {
                    if !warned {
                        warn!(log, "containers of an earlier daemon cannot be removed yet"; "containers" => left.len(),
                            "error" => %error);
                        warned = true;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            time::sleep(pause).await;
        }
        left.into_values().for_each(JournalEntry::remove);
        reclaim::report(&log, "containers", removed);
        Some(sweep)
    }

    /// Removes those that are there, and waits for that. How many there were.
    async fn look(&self, left: &mut HashMap<String, JournalEntry>) -> Result<usize, EngineError> {
        let label = format!("{DAEMON_LABEL}={}", self.owner.daemon);
        let options =
            ListContainersOptionsBuilder::new().all(true).filters(&HashMap::from([("label", vec![label])])).build();
        let list = async |docker: Docker| docker.list_containers(Some::<ListContainersOptions>(options)).await;
        let mut found = self.engine.ask("list", QUICK, list).await?;
        found.retain(|container| !self.is_of_this_run(container));
        future::join_all(found.iter().filter_map(|container| {
            let names = container.names.iter().flatten();
            let entry = names.filter_map(|name| left.remove(name.trim_start_matches('/'))).last();
            Some(self.reaper.remove(container.id.as_deref()?, entry))
        }))
        .await;
        Ok(found.len())
    }

    fn is_of_this_run(&self, container: &ContainerSummary) -> bool {
        container.labels.as_ref().and_then(|labels| labels.get(RUN_LABEL)) == Some(&self.owner.run_id)
    }
}

#[cfg(test)]
mod tests {
    use slog::{Discard, o};
    use tokio::task::LocalSet;

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };
    use crate::state::{Resource, State};

    const NONE: &str = "200 []";
    const SOME: &str = r#"200 [
        {"Id":"old","Names":["/unifaas-f-1"],"Labels":{"unifaas.daemon":"d","unifaas.run":"before"}},
        {"Id":"unknown","Names":["/unifaas-f-2"],"Labels":{"unifaas.daemon":"d"}},
        {"Id":"new","Names":["/unifaas-f-3"],"Labels":{"unifaas.daemon":"d","unifaas.run":"now"}}]"#;

    /// Removes what is written down as `names` from an engine with these answers; what it was asked, whether all of it was
    /// struck out, and how long it took.
    async fn swept(answers: &'static [&'static str], names: &[&str]) -> (Vec<String>, bool, Duration) {
        let sweep = async {
            let (_directory, engine, asked) = mock_engine(answers);
            let home = tempfile::tempdir().unwrap();
            let (state, _) = State::open(home.path()).unwrap();
            let resource = |name: &str| Resource::Container { engine: "e".to_owned(), name: name.to_owned() };
            let enter = |name: &&str| ((*name).to_owned(), state.journal.record_blocking(resource(name)).unwrap());
            let owner = Owner { daemon: "d".to_owned(), run_id: "now".to_owned() };
            let left = names.iter().map(enter).collect();
            let since = Instant::now();
            Sweep::of(Rc::new(engine), owner, Logger::root(Discard, o!()), left).await;
            drop(state);
            let struck = State::open(home.path()).unwrap().1.resources.is_empty();
            let asked = asked.borrow();
            let asked = asked.iter().filter_map(|line| line.split_once("/containers/"));
            let asked = asked.map(|(method, rest)| format!("{} {rest}", method.split(' ').next().unwrap())).collect();
            (asked, struck, since.elapsed())
        };
        LocalSet::new().run_until(sweep).await
    }

    #[tokio::test]
    async fn what_has_the_label_and_is_not_of_this_life_is_removed() {
        let (asked, struck, _) = swept(&[OLD, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert!(asked[0].starts_with("GET json?") && asked[0].contains("unifaas.daemon%3Dd"), "{asked:?}");
        let mut removed: Vec<_> =
            asked.iter().filter_map(|line| line.strip_prefix("DELETE ")?.split('?').next()).collect();
        removed.sort_unstable();
        assert_eq!(removed, ["old", "unknown"]);
        assert!(struck);
    }

    #[tokio::test]
    async fn one_that_was_about_to_be_made_is_waited_for() {
        let (asked, struck, took) = swept(&[OLD, NONE, NONE, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 2, "{asked:?}");
        assert!(struck && took >= DOUBT, "{took:?}");
    }

    #[tokio::test]
    async fn an_engine_that_is_away_is_asked_until_it_is_back_if_it_has_something() {
        let (asked, struck, _) = swept(&["", "", OLD, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 2, "{asked:?}");
        assert!(struck);
        let (asked, _, took) = swept(&[""], &[]).await;
        assert!(asked.is_empty() && took < DOUBT, "{took:?}");
    }

    #[tokio::test]
    async fn without_anything_written_down_one_look_is_enough() {
        let (asked, _, took) = swept(&[OLD, NONE], &[]).await;
        assert_eq!((asked.len(), took < DOUBT), (1, true));
    }
}
