//! The process table, read from `/proc`.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// Returns the processes with `token` among their arguments. Zombies have no arguments and are not found.
pub fn with_token(token: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| arguments(*pid).iter().any(|argument| argument == token)).collect()
}

/// Returns the arguments of a process; empty if it does not exist or is a zombie.
pub fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Returns whether a process exists. Zombies do.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Returns the children of a process, zombies included.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().expect("a PID")).collect::<Vec<u32>>())
        .collect()
}

/// Returns the spawner process of a daemon, the parent of its other processes.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn spawner_of(daemon: u32) -> u32 {
    let is_spawner = |pid: &u32| arguments(*pid).get(1).is_some_and(|argument| argument == "spawner");
    children(daemon).into_iter().find(is_spawner).expect("the daemon has a spawner process")
}

/// Returns the zombie children of a daemon and of its spawner process.
pub fn zombies_of(daemon: u32) -> Vec<u32> {
    let is_zombie = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().next()) == Some("Z")
    };
    let all = children(daemon).into_iter().chain(children(spawner_of(daemon)));
    all.filter(is_zombie).collect()
}

/// Returns whether a process is dead, reaped or not.
fn is_dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// Kills a process and waits for its death, not for its reaping.
///
/// # Panics
/// When it does not exist, or does not die.
pub async fn kill(pid: u32) {
    assert!(signal(pid, Signal::SIGKILL), "there is no process {pid}");
    dead(pid).await;
}

/// Waits for the death of a killed process: freeing much memory takes the kernel some time.
///
/// # Panics
/// When it does not die.
pub async fn dead(pid: u32) {
    let dead = async {
        while !is_dead(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), dead).await.expect("it dies");
}

/// Returns the peak resident memory of a process, in KiB.
///
/// # Panics
/// When it does not exist.
#[track_caller]
pub fn peak_memory_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

#[track_caller]
fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number of KiB")
}

/// Returns the number of open descriptors of a process.
///
/// # Panics
/// When it does not exist.
#[track_caller]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

/// Returns the resident memory of a process, in KiB.
///
/// # Panics
/// When it does not exist.
#[track_caller]
pub fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// Sends a signal to a process; returns whether it existed.
pub fn signal(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).is_ok_and(|pid| signal::kill(Pid::from_raw(pid), signal).is_ok())
}
