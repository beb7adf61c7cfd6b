//! Control groups: the limit on what an instance uses, and the certainty that none of its processes survives it.
//!
//! A daemon has one parent directory per hierarchy, below its own cgroup where it can (so that limits set on the daemon
//! hold for its instances too), and in it one directory per instance (`group.rs`), which the next one may get (`pool.rs`).
//! The parent is what is written down in the state directory: whatever is in there is an instance's. What engines see of
//! it is `limits.rs`. Which hierarchies there are is read in `locate.rs`, what limits the daemon itself in `ceiling.rs`;
//! whether version 2 lets us pass controllers on is settled in `delegation.rs`.

mod allocator;
mod delegation;
mod group;
mod locate;
mod memory_limit;
mod pool;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

pub use allocator::CgroupAllocator;
use futures::{StreamExt, stream};
use group::{ControllerDir, Controls};
pub use group::{Group, ResourceLimits};
use locate::{CgroupDir, Layout};
pub use memory_limit::memory_limit;

use crate::state::{JournalEntry, Resource, State};

/// How the names of all parents begin.
const PREFIX: &str = "unifaas-";

/// Directories of an earlier daemon that are removed at once: each attempt takes a thread.
const AT_ONCE: usize = 32;

/// The daemon's own directories.
#[derive(Debug)]
pub struct DaemonCgroups {
    hierarchies: Vec<Hierarchy>,
    /// How the directories of the next instance are called.
    next: AtomicU64,
}

#[derive(Debug)]
struct Hierarchy {
    controls: Controls,
    mount: PathBuf,
    parent: PathBuf,
    entry: Option<JournalEntry>,
}

impl DaemonCgroups {
    /// Makes the daemon's directories. The error says why this host cannot limit memory.
    pub fn set_up(state: &State) -> io::Result<Self> {
        let layout =
            locate::locate(&fs::read_to_string("/proc/self/cgroup")?, &fs::read_to_string("/proc/self/mountinfo")?);
        let name = format!("{PREFIX}{}-{}", state.identity(), state.run_id());
        let make = |controls, home: &Path, place: &CgroupDir| Hierarchy::new(controls, home.join(&name), place, state);
        let hierarchies = match layout {
            Some(Layout::V1 { memory, pids }) => {
                let memory = make(Controls::V1Memory, &memory.own, &memory)?;
                let pids = pids.and_then(|pids| make(Controls::V1Pids, &pids.own, &pids).ok());
                [Some(memory), pids].into_iter().flatten().collect()
            }
            Some(Layout::V2(place)) => {
                let mut made = Err(no_controller());
                for home in delegation::homes(&place) {
                    made = make(Controls::V2, &home, &place);
                    if made.is_ok() {
                        break;
                    }
                }
                vec![made?]
            }
            None => return Err(no_controller()),
        };
        Ok(Self { hierarchies, next: AtomicU64::new(0) })
    }

    /// Whether the number of an instance's processes can be limited.
    pub fn counts_processes(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::counts_processes)
    }

    /// Makes the directories of one instance.
    pub fn group(&self, limits: ResourceLimits, foreign: bool) -> io::Result<Group> {
        let name = &self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let members = self.hierarchies.iter().map(|hierarchy| ControllerDir {
            controls: hierarchy.controls,
            directory: hierarchy.parent.join(name),
            label: hierarchy.label(name),
        });
        Group::create(members, limits, foreign)
    }

    /// The directories of earlier daemons of the state directory, beside this one's. None of them runs: this one has its lock.
    pub fn orphans(&self) -> Vec<Resource> {
        self.hierarchies.iter().flat_map(Hierarchy::orphans).collect()
    }

    /// The directories that hold those of the instances.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.parent.as_path())
    }
}

impl Hierarchy {
    fn new(controls: Controls, parent: PathBuf, place: &CgroupDir, state: &State) -> io::Result<Self> {
        let (hierarchy, path) = (controls.name().to_owned(), parent.to_str().ok_or(io::ErrorKind::InvalidFilename)?);
        let resource = Resource::Cgroups { hierarchy, path: path.to_owned() };
        let entry = Some(state.journal.record_blocking(resource).map_err(io::Error::other)?);
        let hierarchy = Self { controls, mount: place.mount.clone(), parent, entry };
        // What follows an error is removed by the destructor.
        fs::create_dir(&hierarchy.parent)?;
        if controls == Controls::V2 {
            delegation::enable_controllers(&hierarchy.parent)?;
        }
        Ok(hierarchy)
    }

    fn orphans(&self) -> Vec<Resource> {
        let Some((home, name)) = self.parent.parent().zip(self.parent.file_name()) else { return Vec::new() };
        let name = name.to_string_lossy();
        let Some((family, _)) = name.rsplit_once('-') else { return Vec::new() };
        let of_family = |directory: &PathBuf| {
            let other = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            other.strip_prefix(family).is_some_and(|life| life.starts_with('-')) && other != name
        };
        let found = directories(home).into_iter().filter(of_family);
        let path = |directory: PathBuf| directory.to_str().map(str::to_owned);
        found
            .filter_map(path)
            .map(|path| Resource::Cgroups { hierarchy: self.controls.name().to_owned(), path })
            .collect()
    }

    fn counts_processes(&self) -> bool {
        match self.controls {
            Controls::V1Pids => true,
            Controls::V1Memory => false,
            Controls::V2 => delegation::has_controller(&self.parent, "pids"),
        }
    }

    /// The directory of an instance as `/proc/<pid>/cgroup` shows it, hierarchy first.
    fn label(&self, name: &str) -> String {
        let below = self.parent.strip_prefix(&self.mount).unwrap_or(&self.parent);
        format!("{}:/{}/{name}", self.controls.name(), below.display())
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        for instance in directories(&self.parent) {
            let _ = fs::remove_dir(instance);
        }
        let _ = fs::remove_dir(&self.parent);
        if !self.parent.exists() {
            self.entry.take().into_iter().for_each(JournalEntry::remove);
        }
    }
}

/// What was removed of daemons that are no more.
#[derive(Debug, Default)]
pub struct Removed {
    pub directories: usize,
    /// Those that ran in there and were killed.
    pub processes: HashSet<i32>,
}

/// Removes the parent of a daemon that is no more, with all that is in it and whatever runs in there. What can be removed
/// is, and is added to `removed`, even if something else cannot.
pub async fn remove(hierarchy: &str, parent: &str, removed: &mut Removed) -> io::Result<()> {
    let controls = Controls::named(hierarchy).ok_or(io::ErrorKind::Unsupported)?;
    let parent = Path::new(parent);
    let name = parent.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.starts_with(PREFIX) || !parent.exists() {
        return Ok(());
    }
    let groups: Vec<Group> =
        directories(parent).into_iter().map(|directory| Group::adopt(controls, directory)).collect();
    let removals = stream::iter(groups).map(Group::remove).buffer_unordered(AT_ONCE);
    let mut results: Vec<_> = removals.collect().await;
    if results.iter().all(Result::is_ok) {
        results.push(Group::adopt(controls, parent.to_owned()).remove().await);
    }
    let mut whole = Ok(());
    for result in results {
        match result {
            Ok(killed) => {
                removed.directories += 1;
                removed.processes.extend(killed);
            }
            Err(error) => whole = Err(error),
        }
    }
    whole
}

fn no_controller() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there is no memory controller in reach")
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_directories_of_daemons_are_ever_removed() {
        let home = tempfile::tempdir().unwrap();
        let (ours, others) = (home.path().join("unifaas-1-2"), home.path().join("system.slice"));
        for parent in [&ours, &others] {
            fs::create_dir_all(parent.join("instance")).unwrap();
        }
        let removed = async |path: &Path| {
            let mut removed = Removed::default();
            remove("unified", path.to_str().unwrap(), &mut removed).await.unwrap();
            removed.directories
        };
        assert_eq!(removed(&others).await, 0);
        assert!(others.join("instance").exists());
        assert_eq!(removed(&ours).await, 2);
        assert!(!ours.exists());
        assert_eq!(removed(&ours).await, 0, "it is gone");
        assert!(remove("castle", "unifaas-1", &mut Removed::default()).await.is_err());
    }
}
