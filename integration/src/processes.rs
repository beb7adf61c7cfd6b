//! The process table, read from `/proc`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use tokio::time::Instant;

use crate::{SOON, eventually};

/// Returns the processes with `token` among their arguments. Zombies have no arguments and are not found.
pub fn with_token(token: &str) -> Vec<u32> {
    all().filter(|pid| arguments(*pid).iter().any(|argument| argument == token)).collect()
}

/// Returns the processes that were started with a variable, as in `NAME=value`.
pub fn with_variable(variable: &str) -> Vec<u32> {
    let has_it = |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|it| it == variable.as_bytes());
    all().filter(|pid| fs::read(format!("/proc/{pid}/environ")).is_ok_and(has_it)).collect()
}

/// Returns the processes whose cgroups have a path that contains `part`.
pub fn in_cgroup(part: &str) -> Vec<u32> {
    let is_inside = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(part));
    all().filter(is_inside).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
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

/// Describes a process and its descendants.
pub fn tree(pid: u32) -> Vec<String> {
    let below = children(pid).into_iter().flat_map(tree);
    std::iter::once(describe(pid)).chain(below).collect()
}

/// Returns a process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    std::iter::once(pid).chain(children(pid).into_iter().flat_map(family)).collect()
}

/// Returns the processes of a container: all that descend from its shim, whatever numbers the engine has for them.
pub fn of_container(id: &str) -> Vec<u32> {
    let is_shim = |pid: &u32| arguments(*pid).first().is_some_and(|program| program.contains("containerd-shim"));
    let shims = with_token(id).into_iter().filter(is_shim);
    shims.flat_map(|shim| family(shim).into_iter().filter(move |pid| *pid != shim)).collect()
}

/// Returns the cgroup of a process in the hierarchy that freezes processes: of version 1, if that is mounted, or of version 2.
/// `None`: it is gone, or in no cgroup of its own.
pub fn freezer(pid: u32) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |hierarchy: &str| cgroups.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(hierarchy));
    let (mount, path) = match of("freezer:") {
        Some(path) => ("/sys/fs/cgroup/freezer", path),
        None => ("/sys/fs/cgroup", of(":")?),
    };
    (path != "/").then(|| PathBuf::from(format!("{mount}{path}")))
}

/// Lets processes run that were frozen or stopped by another program.
pub fn thaw(pids: &[u32]) {
    for pid in pids {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            // Only one of them exists, and the process may have ended.
            let _ = freezer(*pid)
                .map(|directory| directory.join(file))
                .filter(|file| file.exists())
                .map(|file| fs::write(file, value));
        }
        signal(*pid, Signal::SIGCONT);
    }
}

/// Returns the processor time of processes so far. Those that are gone count as zero.
pub fn cpu_time(pids: &[u32]) -> Duration {
    let tasks = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(of_task).sum())
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
    let all = children(daemon).into_iter().chain(children(spawner_of(daemon)));
    all.filter(|pid| state(*pid) == Some('Z')).collect()
}

/// Returns the fields of a process in `/proc/<pid>/stat` that follow its name: state, parent, and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// Returns the state of a process, as the kernel abbreviates it.
fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Returns whether a process is dead, reaped or not.
pub fn is_dead(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Returns a line about a process: its number, state and arguments, then its parent, start and cgroups.
pub fn describe(pid: u32) -> String {
    // In clock ticks since boot, of which there are 100 a second.
    const STARTED: usize = 19;
    let Some(stat) = stat(pid) else { return format!("{pid} gone") };
    let field = |index: usize| stat.get(index).map_or("?", String::as_str);
    let (state, parent, started) = (field(0), field(1), field(STARTED));
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // Version 1 has a line for each controller, most of them alike.
    let cgroups: BTreeSet<&str> = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    format!(
        "{pid} {state} {} [parent {parent} {}, started at tick {started} of {}, cgroups {cgroups:?}]",
        arguments(pid).join(" "),
        name.trim(),
        uptime.split(' ').next().unwrap_or_default().replace('.', ""),
    )
}

/// Waits until a process does not exist, and returns the time.
///
/// # Panics
/// When that does not happen in time.
#[track_caller]
pub fn gone(pid: u32) -> impl Future<Output = Duration> {
    let since = Instant::now();
    let what = format!("process {pid} is gone");
    let described = async move || exists(pid).then(|| describe(pid));
    async move {
        eventually(SOON, what, described, Option::is_none).await;
        since.elapsed()
    }
}

/// Waits for the death of a killed process: freeing much memory takes the kernel some time.
///
/// # Panics
/// When it does not die.
pub async fn dead(pid: u32) {
    let described = async || (!is_dead(pid)).then(|| describe(pid));
    eventually(SOON, format!("process {pid} dies"), described, Option::is_none).await;
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
