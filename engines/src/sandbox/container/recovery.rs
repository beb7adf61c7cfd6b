//! Removes the containers of earlier daemons of the state directory, as soon as their engine can be reached.
//!
//! Containers in the engine are known by their labels. A container that is only in the journal may still appear: the
//! engine may have read the request of a daemon that was killed.

use std::{collections::HashMap, rc::Rc, time::Duration};

use bollard::{
    Docker,
    models::{ContainerSummary, ContainerSummaryStateEnum},
    query_parameters::{ListContainersOptions, ListContainersOptionsBuilder},
};
use futures::future;
use slog::{Logger, warn};
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    engine_error::EngineError,
    pause,
    reaper::ContainerReaper,
    request::{DAEMON_LABEL, Owner, RUN_LABEL},
};
use crate::{sandbox::leftovers_log, state::JournalEntry};

/// Between two lists: at first, and at most while the engine is away.
const MIN_LIST_DELAY: Duration = Duration::from_millis(100);
const MAX_LIST_DELAY: Duration = Duration::from_secs(1);
/// How long a container that an earlier daemon requested may take to appear.
const APPEAR_TIMEOUT: Duration = Duration::from_millis(500);
/// Before further lists, in case that it took longer.
const LATE_LIST_DELAYS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Removes the containers in the background. `left` are journal entries with an engine and a name. `engine` is asked
/// even if no entry names it.
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
            let Some(recovery) = Recovery::run(engine, owner, log, left).await else { return };
            for delay in LATE_LIST_DELAYS.into_iter().filter(|_| maybe_created) {
                time::sleep(delay).await;
                let _ = recovery.remove_listed(&mut HashMap::new()).await;
            }
        });
    }
}

/// The removal from one engine.
struct Recovery {
    engine: Rc<Engine>,
    owner: Owner,
    reaper: ContainerReaper,
}

impl Recovery {
    /// Removes all containers, however long the engine is away. Returns `None` if it is away and no entry names it.
    async fn run(
        engine: Rc<Engine>,
        owner: Owner,
        log: Logger,
        mut left: HashMap<String, JournalEntry>,
    ) -> Option<Self> {
        let recovery = Self { reaper: ContainerReaper::start(engine.clone(), log.clone()), engine, owner };
        let appear_timeout = if left.is_empty() { Duration::ZERO } else { APPEAR_TIMEOUT };
        let (mut removed, mut delay, mut warned) = (0, MIN_LIST_DELAY, false);
        let mut answered = None;
        loop {
            match recovery.remove_listed(&mut left).await {
                Ok(0) if answered.get_or_insert_with(Instant::now).elapsed() >= appear_timeout => break,
                Ok(count) => {
                    answered.get_or_insert_with(Instant::now);
                    removed += count;
                    delay = MIN_LIST_DELAY;
                }
                Err(_) if left.is_empty() && removed == 0 => return None,
                Err(error) => {
                    if !warned {
                        warn!(log, "containers of an earlier daemon cannot be removed yet"; "containers" => left.len(),
                            "error" => %error);
                        warned = true;
                    }
                    delay = (delay * 2).min(MAX_LIST_DELAY);
                }
            }
            time::sleep(delay).await;
        }
        left.into_values().for_each(JournalEntry::remove);
        leftovers_log::removed(&log, "containers", removed);
        Some(recovery)
    }

    /// Lists the containers of other runs, removes them, and waits for that. Returns how many there were.
    async fn remove_listed(&self, left: &mut HashMap<String, JournalEntry>) -> Result<usize, EngineError> {
        let label = format!("{DAEMON_LABEL}={}", self.owner.daemon);
        let options =
            ListContainersOptionsBuilder::new().all(true).filters(&HashMap::from([("label", vec![label])])).build();
        let list = async |docker: Docker| docker.list_containers(Some::<ListContainersOptions>(options)).await;
        let mut found = self.engine.ask("list", QUICK_CALL_TIMEOUT, list).await?;
        found.retain(|container| !self.is_of_this_run(container));
        future::join_all(found.iter().filter_map(|container| {
            let names = container.names.iter().flatten();
            let entry = names.filter_map(|name| left.remove(name.trim_start_matches('/'))).last();
            let id = container.id.as_deref()?;
            Some(async move {
                if has_processes(container) {
                    pause::resume_leftover(&self.engine, id).await;
                }
                self.reaper.remove(id, None, entry).await;
            })
        }))
        .await;
        Ok(found.len())
    }

    fn is_of_this_run(&self, container: &ContainerSummary) -> bool {
        container.labels.as_ref().and_then(|labels| labels.get(RUN_LABEL)) == Some(&self.owner.run_id)
    }
}

/// Returns whether a container has processes, which may be paused.
fn has_processes(container: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{PAUSED, RUNNING};
    matches!(container.state, Some(RUNNING | PAUSED))
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

    /// Recovers entries with these names from an engine with these answers. Returns the requests, whether all entries
    /// were removed, and the time it took.
    async fn recovered(answers: &'static [&'static str], names: &[&str]) -> (Vec<String>, bool, Duration) {
        let recovery = async {
            let (_directory, engine, asked) = mock_engine(answers);
            let home = tempfile::tempdir().unwrap();
            let (state, _) = State::open(home.path()).unwrap();
            let resource = |name: &str| Resource::Container { engine: "e".to_owned(), name: name.to_owned() };
            let record = |name: &&str| ((*name).to_owned(), state.journal.record_blocking(resource(name)).unwrap());
            let owner = Owner { daemon: "d".to_owned(), run_id: "now".to_owned() };
            let left = names.iter().map(record).collect();
            let since = Instant::now();
            Recovery::run(Rc::new(engine), owner, Logger::root(Discard, o!()), left).await;
            drop(state);
            let removed_entries = State::open(home.path()).unwrap().1.resources.is_empty();
            let asked = asked.borrow();
            let asked = asked.iter().filter_map(|line| line.split_once("/containers/"));
            let asked = asked.map(|(method, rest)| format!("{} {rest}", method.split(' ').next().unwrap())).collect();
            (asked, removed_entries, since.elapsed())
        };
        LocalSet::new().run_until(recovery).await
    }

    #[tokio::test]
    async fn removes_labelled_containers_of_other_runs() {
        let (asked, removed_entries, _) = recovered(&[OLD, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert!(asked[0].starts_with("GET json?") && asked[0].contains("unifaas.daemon%3Dd"), "{asked:?}");
        let mut removed: Vec<_> =
            asked.iter().filter_map(|line| line.strip_prefix("DELETE ")?.split('?').next()).collect();
        removed.sort_unstable();
        assert_eq!(removed, ["old", "unknown"]);
        assert!(removed_entries);
    }

    #[tokio::test]
    async fn resumes_paused_containers_before_it_removes_them() {
        const ONE: &str = r#"200 [{"Id":"old","Names":["/unifaas-f-1"],"State":"paused"}]"#;
        const PAUSED: &str = r#"200 {"State":{"Paused":true}}"#;
        let (asked, removed_entries, _) = recovered(&[OLD, ONE, PAUSED, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert!(asked[1].starts_with("GET old/json") && asked[2].starts_with("POST old/unpause"), "{asked:?}");
        assert!(asked[3].starts_with("DELETE old?") && removed_entries, "{asked:?}");
    }

    #[tokio::test]
    async fn waits_for_container_that_may_still_appear() {
        let (asked, removed_entries, took) =
            recovered(&[OLD, NONE, NONE, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 2, "{asked:?}");
        assert!(removed_entries && took >= APPEAR_TIMEOUT, "{took:?}");
    }

    #[tokio::test]
    async fn asks_absent_engine_until_it_is_back_if_entries_name_it() {
        let (asked, removed_entries, _) = recovered(&["", "", OLD, SOME, "204 ", "204 ", NONE], &["unifaas-f-1"]).await;
        assert_eq!(asked.iter().filter(|line| line.starts_with("DELETE")).count(), 2, "{asked:?}");
        assert!(removed_entries);
        let (asked, _, took) = recovered(&[""], &[]).await;
        assert!(asked.is_empty() && took < APPEAR_TIMEOUT, "{took:?}");
    }

    #[tokio::test]
    async fn lists_once_without_entries() {
        let (asked, _, took) = recovered(&[OLD, NONE], &[]).await;
        assert_eq!((asked.len(), took < APPEAR_TIMEOUT), (1, true));
    }
}
