//! The directory of a group in one hierarchy: its control files, by version and controller.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use unifaas_actors::MemoryUsage;

use super::freezer::Freezer;

/// The files with the memory that a cgroup uses, in bytes.
const V1_USAGE: &str = "memory.usage_in_bytes";
const V2_USAGE: &str = "memory.current";
/// The files with the most memory that a cgroup has used, in bytes.
const V1_PEAK: &str = "memory.max_usage_in_bytes";
const V2_PEAK: &str = "memory.peak";
/// The files with the number of its processes that the OOM killer has ended.
const V1_OOM_KILLS: &str = "memory.oom_control";
const V2_OOM_KILLS: &str = "memory.events";
/// The hierarchy of version 1 that freezes processes.
pub const V1_FREEZER: &str = "freezer";
/// How often one call looks for processes to kill, where the kernel cannot kill a whole cgroup.
const KILL_ROUNDS: usize = 8;
/// A cgroup is clean if it uses at most this fraction of its memory limit: the kernel counts in batches.
const CLEAN_FRACTION: u64 = 32;

/// The period of processor time, in microseconds: the kernel's default.
const CPU_PERIOD: u32 = 100_000;

/// Returns the time in each period of so many processors.
pub fn cpu_quota(cpus: f64) -> u32 {
    (cpus * f64::from(CPU_PERIOD)).round() as u32
}

/// The resource limits of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// In MiB.
    pub memory: u64,
    /// Processes and threads at once.
    pub pids: u32,
    /// Processor time in microseconds of each [`CPU_PERIOD`]. `None`: not limited.
    pub cpu_quota: Option<u32>,
    /// Whether its processes can be frozen.
    pub freezable: bool,
}

/// The kind of a hierarchy, which decides the control files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    V1Memory,
    V1Pids,
    V1Cpu,
    V1Freezer,
    V2,
}

impl Controls {
    pub(super) fn name(self) -> &'static str {
        match self {
            Controls::V1Memory => "memory",
            Controls::V1Pids => "pids",
            Controls::V1Cpu => "cpu",
            Controls::V1Freezer => V1_FREEZER,
            Controls::V2 => "unified",
        }
    }

    /// Returns the files with the memory that is used now, and was used at most.
    pub(super) fn memory_files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Controls::V1Memory => Some((V1_USAGE, V1_PEAK)),
            Controls::V2 => Some((V2_USAGE, V2_PEAK)),
            Controls::V1Pids | Controls::V1Cpu | Controls::V1Freezer => None,
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Controls::V1Memory, Controls::V1Pids, Controls::V1Cpu, Controls::V1Freezer, Controls::V2];
        all.into_iter().find(|controls| controls.name() == name)
    }

    /// Returns whether an instance with these limits has a directory in the hierarchy.
    pub(super) fn is_used(self, limits: ResourceLimits) -> bool {
        match self {
            Controls::V1Memory | Controls::V1Pids | Controls::V2 => true,
            Controls::V1Cpu => limits.cpu_quota.is_some(),
            // Nothing in it is ever frozen unless the instance may be paused.
            Controls::V1Freezer => limits.freezable,
        }
    }
}

/// The directory of a group in one hierarchy.
#[derive(Debug)]
pub(super) struct ControllerDir {
    pub(super) controls: Controls,
    pub(super) path: PathBuf,
    pub(super) label: String,
}

impl ControllerDir {
    pub(super) fn limit(&self, ResourceLimits { memory, pids, cpu_quota, .. }: ResourceLimits) -> io::Result<()> {
        let set = |file: &str, value: u64| write(&self.path.join(file), &value.to_string());
        let bytes = memory.saturating_mul(1 << 20);
        // Not every kernel has swap accounting and group-wide OOM kills. The limit itself is required.
        match self.controls {
            Controls::V1Memory => {
                set("memory.limit_in_bytes", bytes)?;
                let _ = set("memory.memsw.limit_in_bytes", bytes).or_else(|_| set("memory.swappiness", 0));
            }
            Controls::V1Pids => set("pids.max", pids.into())?,
            Controls::V1Cpu => {
                set("cpu.cfs_period_us", CPU_PERIOD.into())?;
                cpu_quota.map_or(Ok(()), |quota| set("cpu.cfs_quota_us", quota.into()))?;
            }
            Controls::V1Freezer => {}
            Controls::V2 => {
                set("memory.max", bytes)?;
                let _ = set("memory.swap.max", 0);
                let _ = set("memory.oom.group", 1);
                let _ = set("pids.max", pids.into());
                if let Some(quota) = cpu_quota {
                    write(&self.path.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn join_file(&self) -> PathBuf {
        // Moving a thread is some hundred times faster than moving a process, for which the kernel waits for an RCU grace
        // period. The child has one thread, so both are the same. Version 2 moves threads only inside one domain.
        let file = match self.controls {
            Controls::V1Memory | Controls::V1Pids | Controls::V1Cpu | Controls::V1Freezer => "tasks",
            Controls::V2 => "cgroup.procs",
        };
        self.path.join(file)
    }

    /// Returns what reads the memory that it uses, if it counts memory. `peak_before` is its peak at this moment.
    pub(super) fn memory_usage(&self, peak_before: u64) -> Option<MemoryUsage> {
        let (used, peak) = self.controls.memory_files()?;
        Some(MemoryUsage::new(self.path.join(used), self.path.join(peak), peak_before))
    }

    /// Clears the peak of its memory where the kernel can, and returns the peak from then on.
    pub(super) fn clear_peak(&self) -> u64 {
        let Some((_, peak)) = self.controls.memory_files() else { return 0 };
        let peak = self.path.join(peak);
        // Version 2 clears it for one descriptor only, since Linux 6.12.
        let _ = write(&peak, "0");
        fs::read_to_string(peak).ok().and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_default()
    }

    /// Returns how many of its processes the OOM killer has ended.
    pub(super) fn oom_kills(&self) -> u64 {
        let text = self.oom_kills_file().and_then(|file| fs::read_to_string(file).ok());
        text.map_or(0, |text| oom_kills(&text))
    }

    /// Returns the file that counts these processes, if there is one.
    pub(super) fn oom_kills_file(&self) -> Option<PathBuf> {
        match self.controls {
            Controls::V1Memory => Some(self.path.join(V1_OOM_KILLS)),
            Controls::V2 => Some(self.path.join(V2_OOM_KILLS)),
            Controls::V1Pids | Controls::V1Cpu | Controls::V1Freezer => None,
        }
    }

    /// Returns whether next to nothing is charged to it. Files in memory and unreaped processes would reduce the limits of
    /// the next instance.
    pub(super) fn is_memory_released(&self, limits: ResourceLimits) -> bool {
        let charged = |file: &str| fs::read_to_string(self.path.join(file)).ok()?.trim().parse::<u64>().ok();
        let little = |bytes: Option<u64>| bytes.is_some_and(|bytes| bytes <= (limits.memory << 20) / CLEAN_FRACTION);
        let none = |pids: Option<u64>| pids == Some(0);
        match self.controls {
            Controls::V1Memory => little(charged(V1_USAGE)),
            Controls::V1Pids => none(charged("pids.current")),
            Controls::V1Cpu | Controls::V1Freezer => true,
            Controls::V2 => little(charged(V2_USAGE)) && none(charged("pids.current").or(Some(0))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let is_empty =
            |directory: PathBuf| fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty());
        tree(&self.path).into_iter().all(is_empty)
    }

    /// Kills all processes. Returns their ids.
    pub(super) fn kill(&self) -> HashSet<i32> {
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
            Controls::V1Memory | Controls::V1Cpu => {}
            // Not even SIGKILL reaches a frozen process.
            Controls::V1Freezer => {
                let _ = Freezer::of(self.controls, &self.path).map(|freezer| freezer.thaw());
            }
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
pub(super) fn tree(directory: &Path) -> Vec<PathBuf> {
    // Each subdirectory adds a link to the usual two.
    let alone = directory.metadata().is_ok_and(|metadata| metadata.nlink() == 2);
    let inside = if alone { Vec::new() } else { super::directories(directory) };
    inside.iter().flat_map(|inside| tree(inside)).chain([directory.to_owned()]).collect()
}

/// Parses process ids. Skips `0`, which stands for a process of another PID namespace.
fn pids(procs: &str) -> impl Iterator<Item = i32> {
    procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0)
}

pub(super) fn oom_kills(text: &str) -> u64 {
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
        for file in ["memory.max", "memory.swap.max", "pids.max", "cpu.max"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let group_dir =
            ControllerDir { controls: Controls::V2, path: directory.path().to_owned(), label: String::new() };
        group_dir
            .limit(ResourceLimits { memory: 64, pids: 20, cpu_quota: Some(cpu_quota(1.5)), freezable: false })
            .unwrap();
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("67108864".to_owned(), "0".to_owned()));
        assert_eq!((read("pids.max"), read("cpu.max")), ("20".to_owned(), "150000 100000".to_owned()));
    }
}
