//! What a daemon holds of its host, counted from outside.

use std::{fmt, fs};

/// A count of everything that must not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Resident memory, KiB.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Children, dead ones that nobody has reaped included.
    pub children: u64,
}

impl Census {
    /// Of the process with this id.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is told of every process");
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
