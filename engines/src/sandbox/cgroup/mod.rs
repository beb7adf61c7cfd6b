//! Control groups: they limit the resources of instances and ensure that no process survives its instance.
//!
//! A daemon has one parent directory per hierarchy, below its own cgroup if possible, so that the daemon's limits hold for
//! its instances too. Each instance has a directory in it (`group.rs`, `controller.rs`), which a later one may reuse (`pool.rs`). Only
//! the parents are journaled: all processes below them belong to instances.
//!
//! `allocator.rs` is the interface for engines, `locate.rs` finds the hierarchies, `delegation.rs` enables controllers of
//! version 2, `freezer.rs` pauses what is in a group, `memory_limit.rs` reads the daemon's own limit, and `oom_watch.rs` watches the cgroups of containers.

mod allocator;
mod controller;
mod delegation;
mod freezer;
mod group;
mod locate;
mod memory_limit;
mod oom_watch;
mod pool;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

pub use allocator::CgroupAllocator;
use controller::{ControllerDir, Controls};
pub use controller::{ResourceLimits, V1_FREEZER, cpu_quota};
pub use freezer::Freezer;
use futures::{StreamExt, stream};
pub use group::Group;
use locate::{CgroupDir, Layout};
pub use memory_limit::memory_limit;
pub use oom_watch::{host_oom_kills, ran_out_of_memory};
use unifaas_actors::MemoryUsage;

use crate::state::{JournalEntry, Resource, State};

/// The prefix of the names of all parents.
const PREFIX: &str = "unifaas-";

/// How many directories of an earlier daemon are removed concurrently, each on a thread.
const MAX_REMOVALS: usize = 32;

/// The parent directories of this daemon.
#[derive(Debug)]
pub struct DaemonCgroups {
    hierarchies: Vec<Hierarchy>,
    /// The name of the next instance's directories.
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
    /// Creates the parent directories.
    ///
    /// # Errors
    /// Says why this host cannot limit memory.
    pub fn set_up(state: &State) -> io::Result<Self> {
        let layout = Layout::of_this_process().map_err(io::Error::other)?;
        let name = format!("{PREFIX}{}-{}", state.identity(), state.run_id());
        let make = |controls, above: &Path, own: &CgroupDir| Hierarchy::new(controls, above.join(&name), own, state);
        let hierarchies = match layout {
            Some(Layout::V1 { memory, pids, cpu, freezer }) => {
                let memory = make(Controls::V1Memory, &memory.path, &memory)?;
                let others = [(Controls::V1Pids, pids), (Controls::V1Cpu, cpu), (Controls::V1Freezer, freezer)];
                let others = others.into_iter().filter_map(|(controls, own)| {
                    let own = own?;
                    make(controls, &own.path, &own).ok()
                });
                [memory].into_iter().chain(others).collect()
            }
            Some(Layout::V2(own)) => {
                let mut made = Err(no_controller());
                for candidate in delegation::parent_candidates(&own) {
                    made = make(Controls::V2, &candidate, &own);
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

    /// Returns whether the number of an instance's processes can be limited.
    pub fn counts_processes(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::counts_processes)
    }

    /// Creates the directories of one instance.
    pub fn group(&self, limits: ResourceLimits, other_user: bool) -> io::Result<Group> {
        let name = &self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let used = self.hierarchies.iter().filter(|hierarchy| hierarchy.controls.is_used(limits));
        let directories = used.map(|hierarchy| ControllerDir {
            controls: hierarchy.controls,
            path: hierarchy.parent.join(name),
            label: hierarchy.label(name),
        });
        Group::create(directories, limits, other_user)
    }

    /// Prepares limits of processor time. Under version 2 the controller is enabled by the first function that needs it, as
    /// it makes the scheduler slower for all.
    ///
    /// # Errors
    /// Says why this host cannot limit it.
    pub(super) fn enable_cpu(&self) -> io::Result<()> {
        let mut hierarchies = self.hierarchies.iter();
        match hierarchies.find(|hierarchy| matches!(hierarchy.controls, Controls::V1Cpu | Controls::V2)) {
            Some(hierarchy) if hierarchy.controls == Controls::V2 => delegation::enable_cpu(&hierarchy.parent),
            Some(_) => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "no cpu controller is available")),
        }
    }

    /// Returns the parents of earlier daemons of the state directory. None of those runs, as this one holds the lock.
    pub fn orphans(&self, identity: &str) -> Vec<Resource> {
        self.hierarchies.iter().flat_map(|hierarchy| hierarchy.orphans(identity)).collect()
    }

    /// Returns the parent directories that every instance has a directory in.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &Path> {
        let is_used = |hierarchy: &&Hierarchy| !matches!(hierarchy.controls, Controls::V1Cpu | Controls::V1Freezer);
        self.hierarchies.iter().filter(is_used).map(|hierarchy| hierarchy.parent.as_path())
    }
}

impl Hierarchy {
    fn new(controls: Controls, parent: PathBuf, own: &CgroupDir, state: &State) -> io::Result<Self> {
        let (hierarchy, path) = (controls.name().to_owned(), parent.to_str().ok_or(io::ErrorKind::InvalidFilename)?);
        let resource = Resource::Cgroups { hierarchy, path: path.to_owned() };
        let entry = Some(state.journal.record_blocking(resource).map_err(io::Error::other)?);
        let hierarchy = Self { controls, mount: own.mount.clone(), parent, entry };
        // After an error the destructor removes the directory.
        fs::create_dir(&hierarchy.parent)?;
        if controls == Controls::V2 {
            delegation::enable_controllers(&hierarchy.parent)?;
        }
        Ok(hierarchy)
    }

    fn orphans(&self, identity: &str) -> Vec<Resource> {
        let Some((above, name)) = self.parent.parent().zip(self.parent.file_name()) else { return Vec::new() };
        let name = name.to_string_lossy();
        let state_prefix = format!("{PREFIX}{identity}");
        let of_same_state = |directory: &PathBuf| {
            let other = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            other.strip_prefix(&state_prefix).is_some_and(|life| life.starts_with('-')) && other != name
        };
        let found = directories(above).into_iter().filter(of_same_state);
        let path = |directory: PathBuf| directory.to_str().map(str::to_owned);
        found
            .filter_map(path)
            .map(|path| Resource::Cgroups { hierarchy: self.controls.name().to_owned(), path })
            .collect()
    }

    fn counts_processes(&self) -> bool {
        match self.controls {
            Controls::V1Pids => true,
            Controls::V1Memory | Controls::V1Cpu | Controls::V1Freezer => false,
            Controls::V2 => delegation::has_controller(&self.parent, "pids"),
        }
    }

    /// Returns an instance's directory as in `/proc/<pid>/cgroup`, hierarchy first.
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

/// Returns what reads the memory that a container uses. `pid`: its first process.
pub fn memory_usage_of(pid: u32, container: &str) -> Option<MemoryUsage> {
    let layout = Layout::of_process(i32::try_from(pid).ok()?).ok()??;
    container_directory(layout, container)?.memory_usage(0)
}

/// Returns what freezes the processes of a container, whose first process has this PID on this host. `None`: this daemon
/// cannot see or write its cgroup.
pub fn container_freezer(pid: i32, container: &str) -> Option<Freezer> {
    let (controls, cgroup) = match Layout::of_process(pid).ok()?? {
        Layout::V1 { freezer, .. } => (Controls::V1Freezer, freezer?),
        Layout::V2(cgroup) => (Controls::V2, cgroup),
    };
    Freezer::of(controls, named_after(&cgroup.path, container)?).filter(Freezer::is_writable)
}

/// Returns the directory that an engine has named after a container: there can be others in it.
fn named_after<'p>(path: &'p Path, container: &str) -> Option<&'p Path> {
    let is_named = |directory: &&Path| directory.to_str().is_some_and(|path| path.contains(container));
    path.ancestors().take_while(is_named).last()
}

/// Returns the directory of a container that counts its memory, if that is where its first process is. An engine names the
/// cgroup after the container.
fn container_directory(layout: Layout, container: &str) -> Option<ControllerDir> {
    let (cgroup, controls) = match layout {
        Layout::V1 { memory, .. } => (memory, Controls::V1Memory),
        Layout::V2(cgroup) => (cgroup, Controls::V2),
    };
    // The process may have ended and another one have its id, or the engine may number processes otherwise than this host.
    let is_of_container = cgroup.path.to_str().is_some_and(|path| path.contains(container));
    is_of_container.then(|| ControllerDir { controls, path: cgroup.path, label: String::new() })
}

/// Counts what was removed of earlier daemons.
#[derive(Debug, Default)]
pub struct Removed {
    pub directories: usize,
    /// The killed processes.
    pub processes: HashSet<i32>,
}

/// Kills and removes everything in the parent directory of an earlier daemon, and the parent. Adds it to `removed`.
///
/// # Errors
/// Returns the last error, after everything else was removed.
pub async fn remove(hierarchy: &str, parent: &str, removed: &mut Removed) -> io::Result<()> {
    let controls = Controls::named(hierarchy).ok_or(io::ErrorKind::Unsupported)?;
    let parent = Path::new(parent);
    let name = parent.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.starts_with(PREFIX) || !parent.exists() {
        return Ok(());
    }
    let groups: Vec<Group> =
        directories(parent).into_iter().map(|directory| Group::adopt(controls, directory)).collect();
    let removals = stream::iter(groups).map(Group::remove).buffer_unordered(MAX_REMOVALS);
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
    io::Error::new(io::ErrorKind::Unsupported, "no memory controller is available")
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_the_cgroup_that_an_engine_names_after_the_container() {
        let at = |path: &str| CgroupDir { mount: "/sys/fs/cgroup".into(), path: path.into() };
        let found = |layout| container_directory(layout, "c0ffee").map(|found| (found.controls, found.path));
        let path = "/sys/fs/cgroup/system.slice/docker-c0ffee.scope";
        assert_eq!(found(Layout::V2(at(path))), Some((Controls::V2, path.into())));
        assert_eq!(found(Layout::V2(at("/sys/fs/cgroup/user.slice"))), None, "the process id is now another's");
        let path = "/sys/fs/cgroup/memory/docker/c0ffee";
        let v1 = Layout::V1 { memory: at(path), pids: None, cpu: None, freezer: None };
        assert_eq!(found(v1), Some((Controls::V1Memory, path.into())));
    }

    #[test]
    fn a_whole_container_is_frozen() {
        for (path, named) in [
            ("/sys/fs/cgroup/freezer/docker/c0ffee", Some("/sys/fs/cgroup/freezer/docker/c0ffee")),
            (
                "/sys/fs/cgroup/m.slice/libpod-c0ffee.scope/container",
                Some("/sys/fs/cgroup/m.slice/libpod-c0ffee.scope"),
            ),
            ("/sys/fs/cgroup/freezer", None),
        ] {
            assert_eq!(named_after(Path::new(path), "c0ffee"), named.map(Path::new));
        }
    }

    #[tokio::test]
    async fn removes_only_directories_of_daemons() {
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
        assert_eq!(removed(&ours).await, 0, "already removed");
        assert!(remove("castle", "unifaas-1", &mut Removed::default()).await.is_err());
    }
}
