//! Resources that a daemon holds, counted from outside.

use std::{fmt, fs};

use crate::processes;

/// Counts of resources that must not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Resident memory, KiB.
    pub memory: u64,
    /// Open descriptors, with those of the spawner process.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Children, with those of the spawner process, including zombies.
    pub children: u64,
}

impl Census {
    /// Counts the resources of a process.
    ///
    /// # Panics
    /// When there is no such process.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel lists it");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        let list = |path: String| fs::read_dir(path).expect("the process is there");
        let spawner = processes::spawner_of(pid);
        let children = processes::children(pid).len() + processes::children(spawner).len();
        Self {
            memory: number("VmRSS:"),
            threads: number("Threads:"),
            descriptors: [pid, spawner].map(|pid| list(format!("/proc/{pid}/fd")).count() as u64).iter().sum(),
            children: children as u64,
        }
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, descriptors, threads, children } = self;
        write!(f, "{memory} KiB, {descriptors} descriptors, {threads} threads, {children} children")
    }
}
