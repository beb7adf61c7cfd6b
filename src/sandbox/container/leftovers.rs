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
    remover::Remover,
    request::{DAEMON_LABEL, LIFE_LABEL, Owner},
};
use crate::{sandbox::reclaim, state::Entry};

/// Between two looks: at first, and at most to an engine that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one that was about to be made may take to be there.
const DOUBT: Duration = Duration::from_secs(1);
/// When a last look is taken, in case that it took longer.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// Removes them in the background. `left` are entries with an engine and a name; `engine` is asked also without any.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn remove(engine: &Rc<Engine>, left: Vec<(Entry, String, String)>, owner: &Owner, log: &Logger) {
    let mut by_engine = HashMap::from([(engine.host().to_owned(), HashMap::new())]);
    for (entry, host, name) in left {
        by_engine.entry(host).or_default().insert(name, entry);
    }
    for (host, left) in by_engine {
        let engine = if host == engine.host() { engine.clone() } else { Rc::new(Engine::at(host)) };
        let (owner, log) = (owner.clone(), log.clone());
        task::spawn_local(async move {
            let doubtful = !left.is_empty();
            let Some(sweep) = Sweep::of(engine, owner, log, left).await else { return };
            if doubtful {
                time::sleep(LAST_LOOK).await;
                let _ = sweep.look(&mut HashMap::new()).await;
            }
        });
    }
}

struct Sweep {
    engine: Rc<Engine>,
    owner: Owner,
    remover: Remover,
}

impl Sweep {
    /// Removes everything, however long the engine is away. `None`: it is away, and nothing is known to be there.
    async fn of(engine: Rc<Engine>, owner: Owner, log: Logger, mut left: HashMap<String, Entry>) -> Option<Self> {
        let sweep = Self { remover: Remover::start(engine.clone(), log.clone()), engine, owner };
        let doubt = if left.is_empty() { Duration::ZERO } else { DOUBT };
        let (mut removed, mut pause, mut complained) = (0, FIRST_PAUSE, false);
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
                    if !complained {
                        warn!(log, "containers of an earlier daemon cannot be removed yet"; "containers" => left.len(),
                            "error" => %error);
                        complained = true;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            time::sleep(pause).await;
        }
        left.into_values().for_each(Entry::strike);
        reclaim::report(&log, "containers", removed);
        Some(sweep)
    }

    /// Removes those that are there, and waits for that. How many there were.
    async fn look(&self, left: &mut HashMap<String, Entry>) -> Result<usize, EngineError> {
        let label = format!("{DAEMON_LABEL}={}", self.owner.daemon);
        let options =
            ListContainersOptionsBuilder::new().all(true).filters(&HashMap::from([("label", vec![label])])).build();
        let list = async |docker: Docker| docker.list_containers(Some::<ListContainersOptions>(options)).await;
        let mut found = self.engine.ask("list", QUICK, list).await?;
        found.retain(|container| !self.is_of_this_life(container));
        future::join_all(found.iter().filter_map(|container| {
            let names = container.names.iter().flatten();
            let entry = names.filter_map(|name| left.remove(name.trim_start_matches('/'))).last();
            Some(self.remover.remove(container.id.as_deref()?, entry))
        }))
        .await;
        Ok(found.len())
    }

    fn is_of_this_life(&self, container: &ContainerSummary) -> bool {
        container.labels.as_ref().and_then(|labels| labels.get(LIFE_LABEL)) == Some(&self.owner.life)
    }
}
