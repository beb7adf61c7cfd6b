//! The cgroup of one instance, with a directory in each hierarchy (`controller.rs`).

use std::{
    cell::Cell, collections::HashSet, ffi::CString, fs, io, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration,
};

use tokio::{
    task,
    time::{self, Instant},
};
use unifaas_actors::MemoryUsage;

use super::{
    controller::{ControllerDir, Controls, ResourceLimits, tree},
    freezer::Freezer,
};

/// The longest wait for killed processes before a directory is removed.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first and the longest pause between attempts to remove a directory.
const RETRY_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

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
    /// The peak of its memory before its present instance.
    peak_before: u64,
    /// Reads the memory of its present instance.
    memory: Option<MemoryUsage>,
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
        Self::of(
            vec![ControllerDir { controls, path, label: String::new() }],
            ResourceLimits { memory: 0, pids: 0, cpu_quota: None, freezable: false },
        )
    }

    fn of(directories: Vec<ControllerDir>, limits: ResourceLimits) -> Self {
        let (usage, oom_kills) = (Cell::new(Usage::Unknown), Cell::new(0));
        Self { directories, limits, other_user: false, usage, oom_kills, peak_before: 0, memory: None }
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
    pub fn join_files(&self) -> Vec<CString> {
        // Paths of the file system have no zero bytes.
        let path = |directory: &ControllerDir| CString::new(directory.join_file().into_os_string().into_vec()).ok();
        self.directories.iter().filter_map(path).collect()
    }

    /// Returns what reads the memory that its instance uses, until that has ended.
    pub fn memory_usage(&mut self) -> Option<MemoryUsage> {
        self.memory = self.directories.iter().find_map(|directory| directory.memory_usage(self.peak_before));
        self.memory.clone()
    }

    /// Notes that its instance has ended: nothing reads the memory of the next one as that of this one.
    pub(super) fn end_instance(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.end();
            self.peak_before = self.directories.iter().map(ControllerDir::clear_peak).max().unwrap_or_default();
        }
    }

    /// Returns what freezes its processes, if it was created for that and the kernel can.
    pub fn freezer(&self) -> Option<Freezer> {
        let find = |directory: &ControllerDir| Freezer::of(directory.controls, &directory.path);
        self.directories.iter().filter(|_| self.limits.freezable).find_map(find)
    }

    /// Returns hierarchy and path of each directory, for display.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(|directory| directory.label.as_str())
    }

    /// Returns whether the OOM killer ended a process since the last call.
    pub fn ran_out_of_memory(&self) -> bool {
        let count = self.directories.iter().map(ControllerDir::oom_kills).sum();
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
