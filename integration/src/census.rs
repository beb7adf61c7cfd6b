//! Resources that a daemon holds, counted from outside.

use std::{fmt, fs};

/// Counts of resources that must not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Resident memory, KiB.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Children, including zombies.
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
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let tasks = list(format!("/proc/{pid}/task")).flatten();
        let children: usize = tasks.map(|task| children(task).split_whitespace().count()).sum();
        Self {
            memory: number("VmRSS:"),
            threads: number("Threads:"),
            descriptors: list(format!("/proc/{pid}/fd")).count() as u64,
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
