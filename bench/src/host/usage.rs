//! What processes use: processor time, context switches, memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use procfs::process::Process;

/// The processes below these, and these.
pub fn with_descendants(roots: &[u32]) -> BTreeSet<i32> {
    let parents: BTreeMap<i32, i32> = procfs::process::all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| process.ok()?.stat().ok())
        .map(|stat| (stat.pid, stat.ppid))
        .collect();
    let roots: BTreeSet<i32> = roots.iter().filter_map(|pid| i32::try_from(*pid).ok()).collect();
    let is_below = |pid: &i32| {
        let (mut pid, mut steps) = (*pid, 0);
        // Process ids may be reused between two reads, so a loop is possible.
        while !roots.contains(&pid) && steps < parents.len() {
            let Some(parent) = parents.get(&pid) else { return false };
            (pid, steps) = (*parent, steps + 1);
        }
        roots.contains(&pid)
    };
    parents.keys().copied().filter(is_below).collect()
}

/// What processes have used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on processors, in nanoseconds.
    pub cpu_ns: u64,
    /// Context switches.
    pub switches: u64,
}

impl Usage {
    /// Returns that of these processes. Context switches are those of the threads that there are.
    pub fn of(pids: &BTreeSet<i32>) -> Self {
        let mut usage = Self::default();
        for pid in pids {
            // The clock of a process includes threads that have ended.
            usage.cpu_ns += clock_getcpuclockid(Pid::from_raw(*pid)).map_or(0, nanoseconds);
            let threads = Process::new(*pid).and_then(|process| process.tasks());
            let threads = threads.into_iter().flatten().flatten();
            usage.switches +=
                threads.map(|thread| switches(&format!("/proc/{pid}/task/{}/status", thread.tid))).sum::<u64>();
        }
        usage
    }

    /// Returns what was used since an earlier look.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

fn switches(status: &str) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains("ctxt_switches:"));
    lines.filter_map(|line| line.rsplit('\t').next()?.trim().parse::<u64>().ok()).sum()
}

/// Returns the processor time of this process, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map(std::time::Duration::from);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns the proportional set size of processes in MiB: pages that several share count in parts. `None`: none can be read.
pub fn proportional_mib(pids: &BTreeSet<i32>) -> Option<f64> {
    let size = |pid: &i32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        rollup.lines().find_map(|line| kib(line.strip_prefix("Pss:")?))
    };
    pids.iter().filter_map(size).reduce(|sum, size| sum + size).map(|kib| kib / 1024.0)
}

/// Returns the memory in the cgroups of processes, in MiB; each cgroup counts once. `None`: a process is in the cgroup of
/// this one, or there is no controller.
pub fn cgroup_mib(pids: &[u32]) -> Option<f64> {
    let own = memory_cgroup("self")?;
    let cgroups: Option<BTreeSet<String>> = pids.iter().map(|pid| memory_cgroup(&pid.to_string())).collect();
    let cgroups = cgroups.filter(|cgroups| !cgroups.is_empty() && !cgroups.contains(&own))?;
    let used = |directory: &String| {
        let read = |file: &str| fs::read_to_string(format!("{directory}/{file}")).ok();
        read("memory.current").or_else(|| read("memory.usage_in_bytes"))?.trim().parse::<f64>().ok()
    };
    cgroups.iter().map(used).sum::<Option<f64>>().map(|bytes| bytes / f64::from(1 << 20))
}

/// Returns the directory that counts the memory of a process.
fn memory_cgroup(pid: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = |names: &str| text.lines().find_map(|line| line.split_once(names)).map(|(_, path)| path.to_owned());
    path(":memory:").map(|path| format!("/sys/fs/cgroup/memory{path}")).or_else(|| {
        // Version 2 has one hierarchy without a name.
        path("0::").map(|path| format!("/sys/fs/cgroup{path}"))
    })
}

/// Returns the memory that is available without swapping, and all memory, in MiB.
pub fn available_mib() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| text.lines().find_map(|line| kib(line.strip_prefix(name)?));
    Some((of("MemAvailable:")? / 1024.0, of("MemTotal:")? / 1024.0))
}

fn kib(text: &str) -> Option<f64> {
    text.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let own = BTreeSet::from([i32::try_from(std::process::id()).unwrap()]);
        assert!(with_descendants(&[std::process::id()]).is_superset(&own));
        let before = (Usage::of(&own), own_cpu_ns());
        while own_cpu_ns() - before.1 < 30_000_000 {
            std::hint::black_box(1);
        }
        let used = Usage::of(&own).since(before.0);
        assert!(used.cpu_ns > 10_000_000, "{used:?}");
        assert!(proportional_mib(&own).unwrap() > 0.5);
        let (available, all) = available_mib().unwrap();
        assert!(available > 0.0 && available <= all);
    }
}
