//! What earlier daemons of the state directory have left is removed before anything new is started, and struck out.
//!
//! Processes and the network are waited for, since new instances would meet them. Files, and containers whose engine may
//! be away, go in the background. What cannot be removed stays written down for the next daemon.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future;
use nix::unistd::geteuid;
use slog::{Logger, info, warn};
use tokio::{task, time};

use super::{
    cgroup::{self, Removed},
    container::Containers,
};
use crate::{
    net::{self, Mark, Subnet},
    state::{self, JournalEntry, ProcessTree, Recovered, Resource},
};

/// How long processes that hang in the kernel may keep the daemon from serving.
const PATIENCE: Duration = Duration::from_secs(2);

/// What leftovers there are, by kind.
#[derive(Default)]
struct Kinds {
    trees: Vec<(JournalEntry, ProcessTree)>,
    cgroups: Vec<(JournalEntry, String, String)>,
    containers: Vec<(JournalEntry, String, String)>,
    network: Vec<JournalEntry>,
    network_leftovers: net::Leftovers,
}

impl Kinds {
    fn of(resources: Vec<(JournalEntry, Resource)>) -> Self {
        let mut kinds = Self::default();
        for (entry, resource) in resources {
            match resource {
                Resource::Process(tree) => kinds.trees.push((entry, tree)),
                Resource::Cgroups { hierarchy, path } => kinds.cgroups.push((entry, hierarchy, path)),
                Resource::Container { engine, name } => kinds.containers.push((entry, engine, name)),
                Resource::Network { mark, subnet } => {
                    kinds.network.push(entry);
                    kinds.network_leftovers.marks.push(Mark::new(mark));
                    kinds.network_leftovers.subnets.extend(subnet.parse::<Subnet>());
                }
                Resource::Forwarding { interface } => {
                    kinds.network.push(entry);
                    kinds.network_leftovers.uplinks.push(interface);
                }
            }
        }
        kinds
    }
}

/// Removes all of it. `mark` and `subnet` are those of this daemon.
///
/// # Panics
/// Outside of a `LocalSet`.
pub async fn run(left: Recovered, containers: &Containers, mark: Mark, subnet: Subnet, log: &Logger) {
    let Recovered { resources, directories, lost, damaged } = left;
    let Kinds { trees, cgroups, containers: left, network, mut network_leftovers } = Kinds::of(resources);
    if lost > 0 {
        info!(log, "of what an earlier daemon had, some went with the host or the namespace it ran in"; "count" => lost);
    }
    let mut suspected = !network.is_empty();
    if damaged > 0 {
        warn!(log, "the journal of an earlier daemon is damaged: what has a mark is looked for"; "lines" => damaged);
        suspected |= geteuid().is_root();
        network_leftovers.marks.push(mark);
        network_leftovers.subnets.push(subnet);
    }

    containers.remove_leftovers(left);
    task::spawn_local(remove_directories(directories, log.clone()));
    let ended = time::timeout(PATIENCE, task::spawn_local(end(trees, cgroups, log.clone())));
    let cleaned = async {
        if suspected {
            clean_network(network, network_leftovers, log).await;
        }
    };
    let _ = future::join(ended, cleaned).await;
}

/// One line for each kind of resource that was there.
pub fn report(log: &Logger, kind: &'static str, count: usize) {
    if count > 0 {
        info!(log, "removed what an earlier daemon left"; "kind" => kind, "count" => count);
    }
}

fn complain(log: &Logger, what: &str, error: &io::Error) {
    warn!(log, "what an earlier daemon left could not be removed"; "what" => what, "error" => %error);
}

/// Ends processes that are known, and those that are in cgroups that are known.
async fn end(trees: Vec<(JournalEntry, ProcessTree)>, cgroups: Vec<(JournalEntry, String, String)>, log: Logger) {
    let (ended, killed) = future::join(end_processes(trees, &log), remove_cgroups(cgroups, &log)).await;
    // With a cgroup it is a matter of chance by which of them a process is found first; by both, as often as not.
    report(&log, "processes", ended.union(&killed).count());
}

async fn end_processes(left: Vec<(JournalEntry, ProcessTree)>, log: &Logger) -> HashSet<i32> {
    if left.is_empty() {
        return HashSet::new();
    }
    let (entries, trees): (Vec<JournalEntry>, Vec<ProcessTree>) = left.into_iter().unzip();
    let looked = task::spawn_blocking(move || state::kill_process_trees(&trees)).await;
    let (ended, result) = looked.unwrap_or_else(|error| (HashSet::new(), Err(io::Error::other(error))));
    match result {
        Ok(()) => entries.into_iter().for_each(JournalEntry::remove),
        Err(error) => complain(log, "processes", &error),
    }
    ended
}

/// Whoever was killed in them.
async fn remove_cgroups(left: Vec<(JournalEntry, String, String)>, log: &Logger) -> HashSet<i32> {
    let mut removed = Removed::default();
    for (entry, hierarchy, path) in left {
        match cgroup::remove(&hierarchy, &path, &mut removed).await {
            Ok(()) => entry.remove(),
            Err(error) => complain(log, &format!("cgroup {path}"), &error),
        }
    }
    report(log, "cgroups", removed.directories);
    removed.processes
}

async fn clean_network(entries: Vec<JournalEntry>, leftovers: net::Leftovers, log: &Logger) {
    match net::clean_up(leftovers, log.clone()).await {
        Ok(cleaned) => {
            if cleaned.complete {
                report(log, "networks", entries.len());
                entries.into_iter().for_each(JournalEntry::remove);
            }
            report(log, "taps", cleaned.taps);
        }
        Err(error) => complain(log, "network", &error),
    }
}

async fn remove_directories(left: Vec<PathBuf>, log: Logger) {
    let removal =
        task::spawn_blocking(move || -> Vec<_> { left.into_iter().map(|path| (remove(&path), path)).collect() });
    let Ok(results) = removal.await else { return };
    report(&log, "directories", results.iter().filter(|(result, _)| result.is_ok()).count());
    for (result, path) in results {
        if let Err(error) = result {
            complain(&log, &format!("directory {}", path.display()), &error);
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
