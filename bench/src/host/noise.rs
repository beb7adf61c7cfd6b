//! What else the machine does while samples are taken: stolen time, and processor time of foreign processes.

use std::collections::{HashMap, HashSet};

use procfs::{CurrentSI as _, KernelStats, process};

use crate::clock;

/// Programs that work for the measured sandboxes, although they are no children of the daemon.
const ENGINES: [&str; 9] =
    ["dockerd", "containerd", "containerd-shim", "runc", "runsc", "runsc-sandbox", "runsc-gofer", "conmon", "podman"];
/// Flag of kernel threads in the flags of /proc/PID/stat.
const PF_KTHREAD: u32 = 0x0020_0000;
/// Share of stolen time, of all processors, that disturbs a round.
const MAX_STEAL: f64 = 0.01;
/// Share of one processor that foreign processes may use.
const MAX_FOREIGN: f64 = 0.05;

/// What happened since the look before.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Noise {
    /// Stolen time of all processors, in milliseconds.
    pub steal_ms: f64,
    /// Processor time of foreign processes, in milliseconds.
    pub foreign_ms: f64,
    /// Wall-clock time, in milliseconds.
    pub window_ms: f64,
}

impl Noise {
    /// Returns both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            steal_ms: self.steal_ms + other.steal_ms,
            foreign_ms: self.foreign_ms + other.foreign_ms,
            window_ms: self.window_ms + other.window_ms,
        }
    }

    /// Returns whether it disturbs what was measured meanwhile. Clock ticks are 10 ms, so a single one never does.
    pub fn is_disturbing(self, processors: usize) -> bool {
        const TICK_MS: f64 = 10.0;
        let exceeds = |time: f64, share: f64| time > (share * self.window_ms).max(TICK_MS);
        exceeds(self.steal_ms, MAX_STEAL * processors as f64) || exceeds(self.foreign_ms, MAX_FOREIGN)
    }
}

/// A process, as far as this file is interested.
#[derive(Debug, Clone)]
struct Process {
    parent: i32,
    name: String,
    is_kernel: bool,
    ticks: u64,
}

/// Compares the machine with how it was at the look before.
#[derive(Debug)]
pub struct NoiseMeter {
    own: i32,
    steal: u64,
    foreign: HashMap<i32, u64>,
    at: u64,
}

impl NoiseMeter {
    /// Begins to look.
    pub fn new() -> Self {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        Self { own, steal: steal(), foreign: foreign(&processes(), own), at: clock::now() }
    }

    /// Returns what happened since the look before. Takes some milliseconds, so it is called between samples.
    pub fn look(&mut self) -> Noise {
        let (steal, foreign, at) = (steal(), foreign(&processes(), self.own), clock::now());
        let per_tick = 1000.0 / procfs::ticks_per_second() as f64;
        let used: u64 =
            foreign.iter().map(|(pid, ticks)| ticks - self.foreign.get(pid).copied().unwrap_or(0).min(*ticks)).sum();
        let noise = Noise {
            steal_ms: steal.saturating_sub(self.steal) as f64 * per_tick,
            foreign_ms: used as f64 * per_tick,
            window_ms: at.saturating_sub(self.at) as f64 / 1e6,
        };
        (self.steal, self.foreign, self.at) = (steal, foreign, at);
        noise
    }
}

fn steal() -> u64 {
    KernelStats::current().ok().and_then(|stats| stats.total.steal).unwrap_or(0)
}

fn processes() -> HashMap<i32, Process> {
    let all = process::all_processes().into_iter().flatten().flatten();
    let stats = all.filter_map(|process| process.stat().ok());
    let entry = |stat: process::Stat| {
        let ticks = stat.utime + stat.stime;
        let is_kernel = stat.flags & PF_KTHREAD != 0;
        (stat.pid, Process { parent: stat.ppid, name: stat.comm, is_kernel, ticks })
    };
    stats.map(entry).collect()
}

/// Returns the ticks of the processes that belong neither to this run, nor to engines, nor to the kernel. A process that is
/// seen for the first time counts from its start, as it has begun since the look before.
fn foreign(processes: &HashMap<i32, Process>, own: i32) -> HashMap<i32, u64> {
    let is_ours = |pid: i32| {
        let (mut pid, mut seen) = (pid, HashSet::new());
        while let Some(process) = processes.get(&pid).filter(|_| seen.insert(pid)) {
            if pid == own || is_engine(&process.name) {
                return true;
            }
            pid = process.parent;
        }
        false
    };
    let foreign = processes.iter().filter(|(pid, process)| !process.is_kernel && !is_ours(**pid));
    foreign.map(|(pid, process)| (*pid, process.ticks)).collect()
}

fn is_engine(name: &str) -> bool {
    // The kernel cuts names to 15 bytes.
    ENGINES.iter().any(|engine| name == *engine || name.len() == 15 && engine.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(parent: i32, name: &str, ticks: u64) -> Process {
        Process { parent, name: name.to_owned(), is_kernel: name.starts_with('k'), ticks }
    }

    #[test]
    fn children_engines_and_the_kernel_are_not_foreign() {
        let processes = HashMap::from([
            (1, process(0, "init", 5)),
            (2, process(0, "kthreadd", 100)),
            (10, process(1, "unifaas", 7)),
            (11, process(10, "function", 8)),
            (12, process(11, "worker", 9)),
            (20, process(1, "containerd-shim", 9)),
            (21, process(20, "hello", 9)),
            (30, process(1, "compiler", 50)),
        ]);
        let found = foreign(&processes, 10);
        assert_eq!(found, HashMap::from([(1, 5), (30, 50)]));
    }

    #[test]
    fn rounds_are_disturbed_by_shares_of_their_time() {
        let noise = |steal_ms, foreign_ms| Noise { steal_ms, foreign_ms, window_ms: 1000.0 };
        assert!(!noise(0.0, 50.0).is_disturbing(2) && noise(0.0, 60.0).is_disturbing(2));
        assert!(!noise(20.0, 0.0).is_disturbing(2) && noise(30.0, 0.0).is_disturbing(2));
        let short = Noise { steal_ms: 10.0, foreign_ms: 10.0, window_ms: 10.0 };
        assert!(!short.is_disturbing(1), "a single tick");
        assert!(short.plus(short).is_disturbing(1));
    }

    #[test]
    fn looks_see_this_machine() {
        let mut meter = NoiseMeter::new();
        let noise = meter.look();
        assert!(noise.window_ms > 0.0 && noise.foreign_ms >= 0.0, "{noise:?}");
    }
}
