//! The cgroup of one instance, with a directory in each hierarchy.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    task,
    time::{self, Instant},
};

/// How often one call looks for processes to kill, where the kernel cannot kill a whole cgroup.
const KILL_ROUNDS: usize = 8;
/// The longest wait for killed processes before a directory is removed.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A cgroup is clean if it uses at most this fraction of its memory limit: the kernel counts in batches.
const CLEAN_FRACTION: u64 = 32;
/// The first and the longest pause between attempts to remove a directory.
const RETRY_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The resource limits of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// In MiB.
    pub memory: u64,
    /// Processes and threads at once.
    pub pids: u32,
}

/// The kind of a hierarchy, which decides the control files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    V1Memory,
    V1Pids,
    V2,
}

impl Controls {
    pub(super) fn name(self) -> &'static str {
        match self {
            Controls::V1Memory => "memory",
            Controls::V1Pids => "pids",
            Controls::V2 => "unified",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Controls::V1Memory, Controls::V1Pids, Controls::V2].into_iter().find(|controls| controls.name() == name)
    }
}

/// The directory of a group in one hierarchy.
#[derive(Debug)]
pub(super) struct ControllerDir {
    pub(super) controls: Controls,
    pub(super) path: PathBuf,
    pub(super) label: String,
}

/// The directories of one instance. Dropping it kills the processes inside, and removes the directories if possible.
#[derive(Debug)]
pub struct Group {
    directories: Vec<ControllerDir>,
    limits: ResourceLimits,
    /// Whether its processes run as another user than the daemon, and so cannot change it.
    other_user: bool,
    usage: Cell<Usage>,
    /// The last seen number of OOM kills.
    oom_kills: Cell<u64>,
}

/// How the processes of a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// They may still run.
    Unknown,
    /// By themselves.
    Exited,
    /// At least one was killed, for which control files may have been changed.
    Killed,
}

impl Group {
    /// Creates the directories and sets the limits. Leaves nothing after an error.
    pub(super) fn create(
        directories: impl Iterator<Item = ControllerDir>,
        limits: ResourceLimits,
        other_user: bool,
    ) -> io::Result<Self> {
        let mut group = Self::of(Vec::new(), limits).for_user(other_user);
        for directory in directories {
            fs::create_dir(&directory.path)?;
            let limited = directory.limit(limits);
            group.directories.push(directory);
            limited?;
        }
        Ok(group)
    }

    /// Takes over a directory of an earlier daemon.
    pub(super) fn adopt(controls: Controls, path: PathBuf) -> Self {
        Self::of(vec![ControllerDir { controls, path, label: String::new() }], ResourceLimits { memory: 0, pids: 0 })
    }

    fn of(directories: Vec<ControllerDir>, limits: ResourceLimits) -> Self {
        Self { directories, limits, other_user: false, usage: Cell::new(Usage::Unknown), oom_kills: Cell::new(0) }
    }

    /// Returns the limits it was created with.
    pub(super) fn limits(&self) -> ResourceLimits {
        self.limits
    }

    /// Returns the group for a new instance, which runs as another user than the daemon if `other_user`.
    pub(super) fn for_user(mut self, other_user: bool) -> Self {
        self.other_user = other_user;
        self.usage.set(Usage::Unknown);
        self
    }

    /// Returns whether it is as good as a new one.
    pub(super) fn is_clean(&self) -> bool {
        let exited = self.usage.get() == Usage::Exited;
        self.other_user && exited && self.directories.iter().all(|directory| directory.is_memory_released(self.limits))
    }

    /// Returns the files by which a process joins: it writes `0` to each before it executes its program.
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.directories.iter().map(ControllerDir::join_file).collect()
    }

    /// Returns hierarchy and path of each directory, for display.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(|directory| directory.label.as_str())
    }

    /// Returns whether the OOM killer ended a process since the last call.
    pub fn ran_out_of_memory(&self) -> bool {
        let count = |directory: &ControllerDir| {
            let file = match directory.controls {
                Controls::V1Memory => "memory.oom_control",
                Controls::V2 => "memory.events",
                Controls::V1Pids => return 0,
            };
            fs::read_to_string(directory.path.join(file)).map_or(0, |text| oom_kills(&text))
        };
        let count = self.directories.iter().map(count).sum();
        self.oom_kills.replace(count) < count
    }

    /// Kills every process inside, without waiting. Returns their ids. A process that is being forked can escape one call,
    /// but not all repetitions.
    pub fn kill(&self) -> HashSet<i32> {
        let mut killed = HashSet::new();
        for directory in self.directories.iter().filter(|directory| !directory.is_empty()) {
            self.usage.set(Usage::Killed);
            killed.extend(directory.kill());
        }
        if self.usage.get() == Usage::Unknown {
            self.usage.set(Usage::Exited);
        }
        killed
    }

    /// Kills the processes inside until the directories can be removed. Returns the ids of the killed ones. Works on a
    /// blocking thread, as the kernel serialises the removal of cgroups.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn remove(mut self) -> io::Result<HashSet<i32>> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = RETRY_INTERVALS.0;
        let mut killed = HashSet::new();
        loop {
            let attempt = move || {
                let removed = self.try_remove().map_err(|error| (error, self.kill()));
                (self, removed)
            };
            let removed;
            (self, removed) = task::spawn_blocking(attempt).await?;
            match removed {
                Ok(()) => return Ok(killed),
                Err((error, _)) if Instant::now() > deadline => return Err(error),
                Err((_, processes)) => killed.extend(processes),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_INTERVALS.1);
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        let mut all = self.directories.iter().flat_map(|directory| tree(&directory.path));
        all.try_for_each(|directory| match fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.try_remove().is_err() {
            self.kill();
            let _ = self.try_remove();
        }
    }
}

impl ControllerDir {
    fn limit(&self, ResourceLimits { memory, pids }: ResourceLimits) -> io::Result<()> {
        let set = |file: &str, value: u64| write(&self.path.join(file), &value.to_string());
        let bytes = memory.saturating_mul(1 << 20);
        // Not every kernel has swap accounting and group-wide OOM kills. The limit itself is required.
        match self.controls {
            Controls::V1Memory => {
                set("memory.limit_in_bytes", bytes)?;
                let _ = set("memory.memsw.limit_in_bytes", bytes).or_else(|_| set("memory.swappiness", 0));
            }
            Controls::V1Pids => set("pids.max", pids.into())?,
            Controls::V2 => {
                set("memory.max", bytes)?;
                let _ = set("memory.swap.max", 0);
                let _ = set("memory.oom.group", 1);
                let _ = set("pids.max", pids.into());
            }
        }
        Ok(())
    }

    fn join_file(&self) -> PathBuf {
        // Moving a thread is some hundred times faster than moving a process, for which the kernel waits for an RCU grace
        // period. The child has one thread, so both are the same. Version 2 moves threads only inside one domain.
        let file = match self.controls {
            Controls::V1Memory | Controls::V1Pids => "tasks",
            Controls::V2 => "cgroup.procs",
        };
        self.path.join(file)
    }

    /// Returns whether next to nothing is charged to it. Files in memory and unreaped processes would reduce the limits of
    /// the next instance.
    fn is_memory_released(&self, limits: ResourceLimits) -> bool {
        let charged = |file: &str| fs::read_to_string(self.path.join(file)).ok()?.trim().parse::<u64>().ok();
        let little = |bytes: Option<u64>| bytes.is_some_and(|bytes| bytes <= (limits.memory << 20) / CLEAN_FRACTION);
        let none = |pids: Option<u64>| pids == Some(0);
        match self.controls {
            Controls::V1Memory => little(charged("memory.usage_in_bytes")),
            Controls::V1Pids => none(charged("pids.current")),
            Controls::V2 => little(charged("memory.current")) && none(charged("pids.current").or(Some(0))),
        }
    }

    fn is_empty(&self) -> bool {
        let is_empty =
            |directory: PathBuf| fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty());
        tree(&self.path).into_iter().all(is_empty)
    }

    /// Kills all processes. Returns their ids.
    fn kill(&self) -> HashSet<i32> {
        match self.controls {
            Controls::V2 => {
                let inside = self.processes();
                // Since Linux 5.14.
                if write(&self.path.join("cgroup.kill"), "1").is_ok() {
                    return inside;
                }
            }
            Controls::V1Pids => {
                let _ = write(&self.path.join("pids.max"), "0");
            }
            Controls::V1Memory => {}
        }
        let (mut seen, mut killed) = (HashSet::new(), HashSet::new());
        for _ in 0..KILL_ROUNDS {
            let new: HashSet<i32> = &self.processes() - &seen;
            if new.is_empty() {
                break;
            }
            killed.extend(new.iter().filter(|pid| signal::kill(Pid::from_raw(**pid), Signal::SIGKILL).is_ok()));
            seen.extend(new);
        }
        killed
    }

    fn processes(&self) -> HashSet<i32> {
        let procs = |directory: PathBuf| fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        tree(&self.path).into_iter().flat_map(|directory| pids(&procs(directory)).collect::<Vec<_>>()).collect()
    }
}

/// Returns a directory and all below it, the innermost first. Processes of the daemon's own user can create some.
fn tree(directory: &Path) -> Vec<PathBuf> {
    // Each subdirectory adds a link to the usual two.
    let alone = directory.metadata().is_ok_and(|metadata| metadata.nlink() == 2);
    let inside = if alone { Vec::new() } else { super::directories(directory) };
    inside.iter().flat_map(|inside| tree(inside)).chain([directory.to_owned()]).collect()
}

/// Parses process ids. Skips `0`, which stands for a process of another PID namespace.
fn pids(procs: &str) -> impl Iterator<Item = i32> {
    procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0)
}

fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Writes to an existing control file.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_oom_kills_of_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 1\n"), 1);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }

    #[test]
    fn skips_processes_of_other_namespaces() {
        assert_eq!(pids("0\n12\n0\n7\n").collect::<Vec<_>>(), [12, 7]);
    }

    #[test]
    fn sets_limits_of_version_2() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["memory.max", "memory.swap.max", "pids.max"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let group_dir =
            ControllerDir { controls: Controls::V2, path: directory.path().to_owned(), label: String::new() };
        group_dir.limit(ResourceLimits { memory: 64, pids: 20 }).unwrap();
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("67108864".to_owned(), "0".to_owned()));
        assert_eq!(read("pids.max"), "20");
    }
}
