//! Removes the leftovers of earlier daemons of the state directory, and their journal entries.
//!
//! Start-up waits for processes and the network, because new instances would conflict with them. Files and containers are
//! removed in the background, since a container engine may be down. What cannot be removed stays in the journal.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future;
use rustix::thread::CapabilitySet;
use slog::{Logger, info, warn};
use tokio::{task, time};

use super::{
    cgroup::{self, Removed},
    container::Containers,
    leftovers_log,
};
use crate::{
    host::privileges::Privileges,
    net::{self, Mark, Subnet},
    spawner::Spawner,
    state::{self, Damage, JournalEntry, ProcessTree, Recovered, Resource, State},
};

/// The longest delay of the start-up by processes that hang in the kernel.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The leftovers by kind.
#[derive(Default)]
struct ByKind {
    trees: Vec<(JournalEntry, ProcessTree)>,
    cgroups: Vec<(JournalEntry, String, String)>,
    containers: Vec<(JournalEntry, String, String)>,
    network: Vec<JournalEntry>,
    network_leftovers: net::Leftovers,
}

impl ByKind {
    fn of(resources: Vec<(JournalEntry, Resource)>) -> Self {
        let mut by_kind = Self::default();
        for (entry, resource) in resources {
            match resource {
                Resource::Process(tree) => by_kind.trees.push((entry, tree)),
                Resource::Cgroups { hierarchy, path } => by_kind.cgroups.push((entry, hierarchy, path)),
                Resource::Container { engine, name } => by_kind.containers.push((entry, engine, name)),
                Resource::Network { mark, subnet } => {
                    by_kind.network.push(entry);
                    by_kind.network_leftovers.marks.push(Mark::new(mark));
                    by_kind.network_leftovers.subnets.extend(subnet.parse::<Subnet>());
                }
                Resource::Forwarding { interface } => {
                    by_kind.network.push(entry);
                    by_kind.network_leftovers.uplinks.push(interface);
                }
            }
        }
        by_kind
    }
}

/// Removes all leftovers. `state` is their directory.
///
/// # Panics
/// Outside of a `LocalSet`.
pub async fn run(
    left: Recovered,
    containers: &Containers,
    spawner: &Spawner,
    state: &State,
    subnet: Subnet,
    log: &Logger,
) {
    let mark = Mark::new(state.mark());
    let Recovered { resources, directories, lost, damages, foreign } = left;
    let ByKind { trees, cgroups, containers: left, network, mut network_leftovers } = ByKind::of(resources);
    if lost > 0 {
        info!(log, "some leftovers of an earlier daemon vanished with its boot or its namespace"; "count" => lost);
    }
    let mut network_suspected = !network.is_empty();
    for path in foreign {
        warn!(log, "a file in the state directory is no record of the daemon and is left alone"; "path" => %path.display());
    }
    for Damage { reason, .. } in &damages {
        warn!(log, "the journal of an earlier daemon is damaged: marked leftovers are searched for"; "reason" => reason);
    }
    if !damages.is_empty() {
        network_suspected |= Privileges::own().has(CapabilitySet::NET_ADMIN);
        network_leftovers.marks.push(mark);
        network_leftovers.subnets.push(subnet);
    }

    containers.recover(left, state);
    task::spawn_local(remove_directories(directories, log.clone()));
    let ended = time::timeout(EXIT_TIMEOUT, task::spawn_local(end(trees, cgroups, log.clone())));
    let cleaned = async {
        if network_suspected {
            clean_network(network, network_leftovers, spawner, log).await;
        }
    };
    let _ = future::join(ended, cleaned).await;
    // The next daemon must not search again.
    damages.into_iter().filter_map(|damage| damage.entry).for_each(JournalEntry::remove);
}

/// Kills the journaled process trees, and all processes in the journaled cgroups.
async fn end(trees: Vec<(JournalEntry, ProcessTree)>, cgroups: Vec<(JournalEntry, String, String)>, log: Logger) {
    let (ended, killed) = future::join(end_processes(trees, &log), remove_cgroups(cgroups, &log)).await;
    // Both can find the same process.
    leftovers_log::removed(&log, "processes", ended.union(&killed).count());
}

async fn end_processes(left: Vec<(JournalEntry, ProcessTree)>, log: &Logger) -> HashSet<i32> {
    if left.is_empty() {
        return HashSet::new();
    }
    let (entries, trees): (Vec<JournalEntry>, Vec<ProcessTree>) = left.into_iter().unzip();
    let killed = task::spawn_blocking(move || state::kill_process_trees(&trees)).await;
    let (ended, result) = killed.unwrap_or_else(|error| (HashSet::new(), Err(io::Error::other(error))));
    match result {
        Ok(()) => entries.into_iter().for_each(JournalEntry::remove),
        Err(error) => leftovers_log::not_removed(log, "processes", &error),
    }
    ended
}

/// Returns the ids of the processes killed in them.
async fn remove_cgroups(left: Vec<(JournalEntry, String, String)>, log: &Logger) -> HashSet<i32> {
    let mut removed = Removed::default();
    // A process that is frozen under version 1 ends once it is thawed, and the other cgroups wait for its end.
    let (frozen, others): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|(_, hierarchy, _)| hierarchy == cgroup::V1_FREEZER);
    for (entry, hierarchy, path) in frozen.into_iter().chain(others) {
        match cgroup::remove(&hierarchy, &path, &mut removed).await {
            Ok(()) => entry.remove(),
            Err(error) => leftovers_log::not_removed(log, &format!("cgroup {path}"), &error),
        }
    }
    leftovers_log::removed(log, "cgroups", removed.directories);
    removed.processes
}

async fn clean_network(entries: Vec<JournalEntry>, leftovers: net::Leftovers, spawner: &Spawner, log: &Logger) {
    match net::clean_up(leftovers, spawner.clone(), log.clone()).await {
        Ok(cleaned) => {
            if cleaned.complete {
                leftovers_log::removed(log, "networks", entries.len());
                entries.into_iter().for_each(JournalEntry::remove);
            }
            leftovers_log::removed(log, "taps", cleaned.taps);
        }
        Err(error) => leftovers_log::not_removed(log, "network", &error),
    }
}

async fn remove_directories(left: Vec<PathBuf>, log: Logger) {
    let removal =
        task::spawn_blocking(move || -> Vec<_> { left.into_iter().map(|path| (remove(&path), path)).collect() });
    let Ok(results) = removal.await else { return };
    leftovers_log::removed(&log, "directories", results.iter().filter(|(result, _)| result.is_ok()).count());
    for (result, path) in results {
        if let Err(error) = result {
            leftovers_log::not_removed(&log, &format!("directory {}", path.display()), &error);
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
