//! Control groups: the limit on what an instance uses, and the certainty that none of its processes survives it.
//!
//! A daemon has one parent directory per hierarchy, below its own cgroup where it can (so that limits set on the daemon
//! hold for its instances too), and in it one directory per instance (`group.rs`). What engines see of it is `limits.rs`. Which hierarchies there are is read
//! in `locate.rs`; whether version 2 lets us pass controllers on is settled in `delegation.rs`.
//!
//! The parent is kept locked as long as the daemon lives, so that a later daemon can tell what was left behind.

mod delegation;
mod group;
mod limits;
mod locate;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

pub use group::{Allowance, Group};
use group::{Controls, Member};
pub use limits::Limits;
use locate::{Layout, Place};

/// The daemon's own directories.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    controls: Controls,
    mount: PathBuf,
    parent: PathBuf,
    _lock: File,
}

impl Cgroups {
    /// Makes the daemon's directories. The error says why this host cannot limit memory.
    pub fn set_up() -> io::Result<Self> {
        let layout =
            locate::locate(&fs::read_to_string("/proc/self/cgroup")?, &fs::read_to_string("/proc/self/mountinfo")?);
        let name = format!("unifaas-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let hierarchies = match layout {
            Some(Layout::V1 { memory, pids }) => {
                let memory = Hierarchy::new(Controls::V1Memory, &memory.own, &memory, &name)?;
                let pids = pids.and_then(|pids| Hierarchy::new(Controls::V1Pids, &pids.own, &pids, &name).ok());
                [Some(memory), pids].into_iter().flatten().collect()
            }
            Some(Layout::V2(place)) => {
                let mut made = Err(no_controller());
                for home in delegation::homes(&place) {
                    made = Hierarchy::new(Controls::V2, &home, &place, &name);
                    if made.is_ok() {
                        break;
                    }
                }
                vec![made?]
            }
            None => return Err(no_controller()),
        };
        Ok(Self { hierarchies })
    }

    /// Whether the number of an instance's processes can be limited.
    pub fn counts_processes(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::counts_processes)
    }

    /// Makes the directories of one instance.
    pub fn group(&self, name: &str, allowance: Allowance) -> io::Result<Group> {
        let members = self.hierarchies.iter().map(|hierarchy| Member {
            controls: hierarchy.controls,
            directory: hierarchy.parent.join(name),
            label: hierarchy.label(name),
        });
        Group::create(members, allowance)
    }

    /// The directories that hold those of the instances.
    #[cfg(test)]
    pub fn parents(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.parent.as_path())
    }

    /// What daemons that are no more have left beside our directories: each a group to remove, members first.
    pub fn leftovers(&self) -> Vec<Group> {
        self.hierarchies.iter().flat_map(Hierarchy::leftovers).collect()
    }
}

impl Hierarchy {
    fn new(controls: Controls, home: &Path, place: &Place, name: &str) -> io::Result<Self> {
        let parent = home.join(name);
        fs::create_dir(&parent)?;
        let prepare = || {
            let lock = File::open(&parent)?;
            lock.try_lock()?;
            if controls == Controls::V2 {
                delegation::pass_on(&parent)?;
            }
            Ok(lock)
        };
        match prepare() {
            Ok(lock) => Ok(Self { controls, mount: place.mount.clone(), parent, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir(&parent);
                Err(error)
            }
        }
    }

    fn counts_processes(&self) -> bool {
        match self.controls {
            Controls::V1Pids => true,
            Controls::V1Memory => false,
            Controls::V2 => delegation::passes_on(&self.parent, "pids"),
        }
    }

    /// The directory of an instance as `/proc/<pid>/cgroup` shows it, hierarchy first.
    fn label(&self, name: &str) -> String {
        let below = self.parent.strip_prefix(&self.mount).unwrap_or(&self.parent);
        format!("{}:/{}/{name}", self.controls.name(), below.display())
    }

    fn leftovers(&self) -> Vec<Group> {
        let siblings = self.parent.parent().map(directories).unwrap_or_default();
        let abandoned = siblings.into_iter().filter(|sibling| is_abandoned(sibling));
        abandoned
            .flat_map(|parent| directories(&parent).into_iter().chain([parent]))
            .map(|directory| Group::adopt(self.controls, directory))
            .collect()
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        for instance in directories(&self.parent) {
            let _ = fs::remove_dir(instance);
        }
        let _ = fs::remove_dir(&self.parent);
    }
}

fn no_controller() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there is no memory controller in reach")
}

/// Whether this is the directory of a daemon that lives no more.
fn is_abandoned(directory: &Path) -> bool {
    let owner = directory.file_name().and_then(|name| owner(name.to_str()?));
    // The lock is proof, also for a daemon whose pid is of another namespace; the pid covers the moment before it locks.
    owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        && File::open(directory).is_ok_and(|lock| lock.try_lock().is_ok())
}

/// The pid in the name of a daemon's directory.
fn owner(name: &str) -> Option<u32> {
    let (pid, random) = name.strip_prefix("unifaas-")?.split_once('-')?;
    (random.len() == 8 && u32::from_str_radix(random, 16).is_ok()).then(|| pid.parse().ok())?
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_daemons_are_ever_removed() {
        assert_eq!(owner("unifaas-123-0badcafe"), Some(123));
        for other in
            ["unifaas-prod.service", "unifaas-123", "unifaas-x-0badcafe", "unifaas-1-0badcafe.scope", "system.slice"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_is_abandoned_when_its_daemon_is_gone_and_nobody_holds_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let make = |pid: u32| {
            let path = home.path().join(format!("unifaas-{pid}-00000000"));
            fs::create_dir(&path).unwrap();
            path
        };
        let (gone, own) = (make(u32::MAX), make(std::process::id()));
        assert!(is_abandoned(&gone));
        assert!(!is_abandoned(&own));
        let lock = File::open(&gone).unwrap();
        lock.try_lock().unwrap();
        assert!(!is_abandoned(&gone));
    }
}
