//! The cgroup of one instance: one directory in every hierarchy that limits it.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
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

/// Rounds of killing in one call, where the kernel cannot kill a cgroup as a whole.
const KILL_ROUNDS: usize = 8;
/// How long dying processes may keep a directory from being removed.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A cgroup is clean when at most one part in so many of its memory is taken: the kernel counts in batches.
const FORGIVEN: u64 = 32;
/// Between attempts to remove a directory: the first and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// In MiB.
    pub memory: u64,
    /// Processes and threads at once.
    pub pids: u32,
}

/// Which files a directory has.
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

#[derive(Debug)]
pub(super) struct ControllerDir {
    pub(super) controls: Controls,
    pub(super) directory: PathBuf,
    pub(super) label: String,
}

/// The directories of one instance. Dropping it kills what is inside and removes what can be removed at once.
#[derive(Debug)]
pub struct Group {
    members: Vec<ControllerDir>,
    limits: ResourceLimits,
    /// Whoever runs in it is another user than the daemon, and so has no way to change it.
    foreign: bool,
    usage: Cell<Usage>,
    /// Members that the kernel had killed for want of memory, as far as it was asked.
    oom_kills: Cell<u64>,
}

/// How the members of a group have left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// Nobody has looked whether they have.
    Open,
    /// By themselves, so that nobody can be in it any more.
    Left,
    /// Somebody had to be killed, for which the group was changed.
    Evicted,
}

impl Group {
    /// Makes the directories and sets the limits; on an error nothing is left.
    pub(super) fn create(
        members: impl Iterator<Item = ControllerDir>,
        limits: ResourceLimits,
        foreign: bool,
    ) -> io::Result<Self> {
        let mut group = Self::of(Vec::new(), limits).for_user(foreign);
        for member in members {
            fs::create_dir(&member.directory)?;
            let limited = member.limit(limits);
            group.members.push(member);
            limited?;
        }
        Ok(group)
    }

    /// Takes over a directory that somebody else has left.
    pub(super) fn adopt(controls: Controls, directory: PathBuf) -> Self {
        Self::of(
            vec![ControllerDir { controls, directory, label: String::new() }],
            ResourceLimits { memory: 0, pids: 0 },
        )
    }

    fn of(members: Vec<ControllerDir>, limits: ResourceLimits) -> Self {
        Self { members, limits, foreign: false, usage: Cell::new(Usage::Open), oom_kills: Cell::new(0) }
    }

    /// What it was made for.
    pub(super) fn limits(&self) -> ResourceLimits {
        self.limits
    }

    /// Whoever runs in it from now on is another user than the daemon, or not.
    pub(super) fn for_user(mut self, foreign: bool) -> Self {
        self.foreign = foreign;
        self.usage.set(Usage::Open);
        self
    }

    /// Whether it is as if nobody had ever been in it.
    pub(super) fn is_clean(&self) -> bool {
        let left = self.usage.get() == Usage::Left;
        self.foreign && left && self.members.iter().all(|member| member.is_memory_released(self.limits))
    }

    /// Files by which a process joins when it writes `0`. For the child itself, before it executes its program.
    pub fn join_fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.members.iter().map(|member| Ok(member.open_join_fd()?.into())).collect()
    }

    /// Names for people: hierarchy and path.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.label.as_str())
    }

    /// Whether the kernel has killed a member for want of memory, since the last time it was asked.
    pub fn ran_out_of_memory(&self) -> bool {
        let count = |member: &ControllerDir| {
            let file = match member.controls {
                Controls::V1Memory => "memory.oom_control",
                Controls::V2 => "memory.events",
                Controls::V1Pids => return 0,
            };
            fs::read_to_string(member.directory.join(file)).map_or(0, |text| oom_kills(&text))
        };
        let count = self.members.iter().map(count).sum();
        self.oom_kills.replace(count) < count
    }

    /// Kills every process inside; which ones. Never waits; processes that are being born can escape one call, not all of
    /// them.
    pub fn kill(&self) -> HashSet<i32> {
        let mut killed = HashSet::new();
        for member in self.members.iter().filter(|member| !member.is_empty()) {
            self.usage.set(Usage::Evicted);
            killed.extend(member.kill());
        }
        if self.usage.get() == Usage::Open {
            self.usage.set(Usage::Left);
        }
        killed
    }

    /// Kills what is inside until the directories can be removed. Who was killed. The kernel removes cgroups one at a time,
    /// and may be busy with others: not for the actors' thread.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn remove(mut self) -> io::Result<HashSet<i32>> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = PAUSES.0;
        let mut killed = HashSet::new();
        loop {
            let attempt = move || {
                let found = self.try_remove().map_err(|error| (error, self.kill()));
                (self, found)
            };
            let found;
            (self, found) = task::spawn_blocking(attempt).await?;
            match found {
                Ok(()) => return Ok(killed),
                Err((error, _)) if Instant::now() > deadline => return Err(error),
                Err((_, found)) => killed.extend(found),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        let mut directories = self.members.iter().flat_map(|member| tree(&member.directory));
        directories.try_for_each(|directory| match fs::remove_dir(directory) {
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
        let set = |file: &str, value: u64| write(&self.directory.join(file), &value.to_string());
        let bytes = memory.saturating_mul(1 << 20);
        // Swap accounting and group-wide OOM kills are not in every kernel; the limit itself must hold.
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

    fn open_join_fd(&self) -> io::Result<File> {
        // Moving a thread is some hundred times faster than moving a process, for which the kernel waits for an RCU
        // grace period; before it executes its program both are the same. Version 2 knows threads only inside one domain.
        let join_fd = match self.controls {
            Controls::V1Memory | Controls::V1Pids => "tasks",
            Controls::V2 => "cgroup.procs",
        };
        OpenOptions::new().write(true).open(self.directory.join(join_fd))
    }

    /// Whether next to nothing of what it allows is taken. What the dead have left in files in memory, or as long as
    /// nobody has reaped them, would be missing to others.
    fn is_memory_released(&self, limits: ResourceLimits) -> bool {
        let charged = |file: &str| fs::read_to_string(self.directory.join(file)).ok()?.trim().parse::<u64>().ok();
        let little = |bytes: Option<u64>| bytes.is_some_and(|bytes| bytes <= (limits.memory << 20) / FORGIVEN);
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
        tree(&self.directory).into_iter().all(is_empty)
    }

    /// Kills everybody; whom.
    fn kill(&self) -> HashSet<i32> {
        match self.controls {
            Controls::V2 => {
                let inside = self.processes();
                // Since Linux 5.14.
                if write(&self.directory.join("cgroup.kill"), "1").is_ok() {
                    return inside;
                }
            }
            Controls::V1Pids => {
                let _ = write(&self.directory.join("pids.max"), "0");
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
        tree(&self.directory).into_iter().flat_map(|directory| pids(&procs(directory)).collect::<Vec<_>>()).collect()
    }
}

/// A directory and those that its members have made in it, which takes the daemon's own user. The innermost come first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    // What cgroups are in has a link to itself for each of them, besides the usual two.
    let alone = directory.metadata().is_ok_and(|metadata| metadata.nlink() == 2);
    let inside = if alone { Vec::new() } else { super::directories(directory) };
    inside.iter().flat_map(|inside| tree(inside)).chain([directory.to_owned()]).collect()
}

/// The members that can be signalled: `0` stands for a process of a foreign pid namespace.
fn pids(procs: &str) -> impl Iterator<Item = i32> {
    procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0)
}

fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Writes to a control file, which is never created.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 1\n"), 1);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }

    #[test]
    fn processes_of_foreign_namespaces_are_never_signalled() {
        assert_eq!(pids("0\n12\n0\n7\n").collect::<Vec<_>>(), [12, 7]);
    }

    #[test]
    fn limits_are_those_of_version_2_where_that_is_used() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["memory.max", "memory.swap.max", "pids.max"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let member =
            ControllerDir { controls: Controls::V2, directory: directory.path().to_owned(), label: String::new() };
        member.limit(ResourceLimits { memory: 64, pids: 20 }).unwrap();
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("67108864".to_owned(), "0".to_owned()));
        assert_eq!(read("pids.max"), "20");
    }
}
