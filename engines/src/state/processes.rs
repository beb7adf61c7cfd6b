//! The processes of this host, read from `/proc`, signals to them, and the end of process trees. Blocks: a scan of hundreds
//! of processes takes milliseconds.

use std::{collections::HashSet, ffi::OsStr, io, thread, time::Duration};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
    unistd,
};
use procfs::{
    ProcError, ProcessCGroups,
    process::{self, Stat},
};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

use super::{
    process_tree::{Condition, MARK, Process, members},
    resource::ProcessTree,
};

/// Between two scans.
const MIN_SCAN_DELAY: Duration = Duration::from_millis(1);
const MAX_SCAN_DELAY: Duration = Duration::from_millis(50);
/// How long killed processes may take to exit: that is long only if they hang in the kernel.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A process, whose PID may be reused once it has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// The PID.
    pub pid: i32,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// Returns the id of a process. `None`: it is gone.
    pub fn of(process: &process::Process) -> Option<Self> {
        process.stat().ok().map(|stat| Self { pid: stat.pid, started: stat.starttime })
    }
}

/// Returns the time since boot in clock ticks, as the kernel gives the start times of processes.
pub fn boot_clock() -> u64 {
    // Cannot fail: the clock is on every Linux.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(TimeSpec::new(0, 0));
    let ticks = procfs::ticks_per_second();
    now.tv_sec() as u64 * ticks + now.tv_nsec() as u64 * ticks / 1_000_000_000
}

/// Kills the processes of these trees until none is left. Returns the PIDs that have exited, and an error if some have
/// not.
pub fn kill_process_trees(trees: &[ProcessTree]) -> (HashSet<i32>, io::Result<()>) {
    let own = unistd::getpid().as_raw();
    kill_until_none_is_left(|| members(&processes(), trees, own).into_iter().cloned().collect())
}

/// Kills the processes in the cgroups that an engine has named after a container, as [`kill_process_trees`] does. None is
/// found if `id` is not the whole id of a container.
pub fn kill_container_processes(id: &str) -> (HashSet<i32>, io::Result<()>) {
    if !is_container_id(id) {
        return (HashSet::new(), Ok(()));
    }
    kill_until_none_is_left(|| {
        let all = process::all_processes().into_iter().flatten().flatten();
        let inside = all.filter(|process| process.cgroups().is_ok_and(|cgroups| is_in_container(&cgroups, id)));
        let inside = inside.filter_map(|process| of(&process));
        inside.filter(|process| process.condition != Condition::Dead).collect()
    })
}

/// Returns whether a text is an id that engines give to containers.
fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_in_container(cgroups: &ProcessCGroups, id: &str) -> bool {
    cgroups.0.iter().any(|cgroup| cgroup.pathname.contains(id))
}

fn kill_until_none_is_left(find: impl Fn() -> Vec<Process>) -> (HashSet<i32>, io::Result<()>) {
    let mut killed = HashSet::new();
    let (mut delay, mut waited) = (MIN_SCAN_DELAY, Duration::ZERO);
    loop {
        let left = find();
        if left.is_empty() {
            return (killed, Ok(()));
        }
        if waited > EXIT_TIMEOUT {
            let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
            killed.retain(|pid| !pids.contains(pid));
            let error = format!("still there {} s after SIGKILL: {pids:?}", EXIT_TIMEOUT.as_secs());
            return (killed, Err(io::Error::other(error)));
        }
        killed.extend(left.into_iter().filter(kill).map(|process| process.pid));
        #[expect(clippy::disallowed_methods, reason = "no actor is on this thread")]
        thread::sleep(delay);
        waited += delay;
        delay = (delay * 2).min(MAX_SCAN_DELAY);
    }
}

/// Kills the process. Returns whether it was still there.
fn kill(process: &Process) -> bool {
    let id = ProcessId { pid: process.pid, started: process.started };
    send_signal(id, Signal::KILL).is_ok_and(|was_there| was_there)
}

/// Sends a signal to a process. Returns whether it was still there.
///
/// # Errors
/// When the signal is not permitted.
pub fn send_signal(id: ProcessId, signal: Signal) -> io::Result<bool> {
    let is_same = || stat(id.pid).is_some_and(|now| now.starttime == id.started);
    let Some(pid) = Pid::from_raw(id.pid) else { return Ok(false) };
    let sent = match pidfd_open(pid, PidfdFlags::empty()) {
        // From here on the descriptor means this very process.
        Ok(handle) if is_same() => pidfd_send_signal(handle, signal),
        // Before Linux 5.3, or where a filter forbids it.
        Err(Errno::NOSYS | Errno::PERM) if is_same() => kill_process(pid, signal),
        Ok(_) | Err(_) => return Ok(false),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a process has exited, or will as soon as it runs, as it was killed while it was frozen.
pub fn is_killed(pid: i32) -> bool {
    let pending = |signals: u64| signals & (1 << (Signal::KILL.as_raw() - 1)) != 0;
    match process::Process::new(pid).and_then(|process| process.status()) {
        Ok(status) => status.state.starts_with(['Z', 'X']) || pending(status.sigpnd) || pending(status.shdpnd),
        Err(error) => matches!(error, ProcError::NotFound(_)),
    }
}

/// Returns the PIDs of the processes with the mark of an instance, and of those in its session, if it has one.
pub fn pids_of(instance: &str, session: Option<u32>) -> Vec<i32> {
    let is_member = |process: &Process| {
        let is_in = |session| u32::try_from(process.session) == Ok(session);
        process.instance.as_deref() == Some(instance) || session.is_some_and(is_in)
    };
    processes().into_iter().filter(is_member).map(|process| process.pid).collect()
}

fn processes() -> Vec<Process> {
    let all = process::all_processes().into_iter().flatten().flatten();
    all.filter_map(|process| of(&process)).collect()
}

fn of(process: &process::Process) -> Option<Process> {
    let stat = process.stat().ok()?;
    // Those of other users cannot be read, and are not ours.
    let environment = process.environ().unwrap_or_default();
    let mark = environment.get(OsStr::new(MARK));
    Some(Process {
        pid: stat.pid,
        parent: stat.ppid,
        session: stat.session,
        started: stat.starttime,
        condition: condition(stat.state),
        instance: mark.map(|mark| mark.to_string_lossy().into_owned()),
    })
}

fn stat(pid: i32) -> Option<Stat> {
    process::Process::new(pid).ok()?.stat().ok()
}

fn condition(state: char) -> Condition {
    match state {
        'Z' | 'X' | 'x' => Condition::Dead,
        _ => Condition::Alive,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::{super::resource::SessionLeader, *};

    /// Starts a shell in a session of its own. Returns the PIDs that its script prints.
    fn shell(instance: &str, script: &str) -> (Child, SessionLeader, Vec<i32>) {
        let after = boot_clock();
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", &format!("{script}; echo; exec sleep 1000")]).env(MARK, instance);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let leader = SessionLeader { pid: child.id() as i32, after, before: boot_clock() };
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let pids = lines.take_while(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect();
        (child, leader, pids)
    }

    fn read(pid: i32) -> Option<Process> {
        of(&process::Process::new(pid).ok()?)
    }

    fn alive(pid: i32) -> bool {
        read(pid).is_some_and(|process| process.condition != Condition::Dead)
    }

    #[test]
    fn reads_parent_session_and_mark() {
        let child = Command::new("setsid").args(["sleep", "1000"]).env(MARK, "ab").env("XINSTANCE_ID", "no").spawn();
        let mut child = child.unwrap();
        let pid = child.id() as i32;
        // It is a copy of this process until it has executed `sleep`.
        let executed = |process: &Process| process.session == pid && process.instance.is_some();
        let found = std::iter::repeat_with(|| read(pid).unwrap()).find(executed).unwrap();
        child.kill().unwrap();
        let dead = std::iter::repeat_with(|| read(pid).unwrap()).find(|process| process.condition == Condition::Dead);
        child.wait().unwrap();
        let own = unistd::getpid().as_raw();
        assert_eq!((found.pid, found.parent, found.instance.as_deref()), (pid, own, Some("ab")));
        assert_eq!((found.condition, dead.unwrap().instance), (Condition::Alive, None));
        assert_eq!(read(pid), None);
    }

    #[test]
    fn process_of_a_container_has_the_whole_id_in_a_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        assert!(is_container_id(&id));
        for text in ["", "c", "unifaas-f-0123456789abcdef", &id[1..], &id.replace('f', "/")] {
            assert!(!is_container_id(text), "{text}");
            assert_eq!(kill_container_processes(text).0, HashSet::new());
        }
        let inside = |text: &str| is_in_container(&procfs::FromBufRead::from_buf_read(text.as_bytes()).unwrap(), &id);
        assert!(inside(&format!("9:pids:/\n4:memory:/docker/{id}\n")));
        assert!(inside(&format!("0::/system.slice/docker-{id}.scope\n")));
        assert!(!inside(&format!("4:memory:/docker/{}\n0::/\n", id.replace('f', "e"))));
    }

    #[test]
    fn clock_is_that_of_the_process_table() {
        let after = boot_clock();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let before = boot_clock();
        let started = read(child.id() as i32).unwrap().started;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((after..=before).contains(&started), "{after} {started} {before}");
    }

    #[test]
    fn kills_tree_with_those_outside_of_its_session_and_no_other() {
        // The first process has cleared its environment and is found by its session, the second by its mark.
        let script = "env -i sleep 1000 & echo $!; (setsid sh -c 'sleep 1000 & echo $!' & wait)";
        let (mut child, leader, pids) = shell("of-the-first", script);
        let (mut other, _, others) = shell("of-the-second", script);
        assert_eq!(pids.len(), 2);
        let mistaken = SessionLeader { after: leader.before + 1, before: leader.before + 2, ..leader };
        let tree = |instance: &str, leader| [ProcessTree { instance: instance.to_owned(), leader }];
        let ended = |trees: &[ProcessTree]| {
            let (ended, result) = kill_process_trees(trees);
            result.unwrap();
            ended
        };
        assert_eq!(ended(&tree("nobody", Some(mistaken))), HashSet::new());
        assert!(alive(leader.pid));

        // As after a crash of the daemon, with which the leader is killed.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ended(&tree("of-the-first", Some(leader))), pids.iter().copied().collect());
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
        assert!(others.iter().all(|pid| alive(*pid)) && alive(other.id() as i32));
        assert!(ended(&tree("of-the-second", None)).is_superset(&others.into_iter().collect()));
        other.wait().unwrap();
    }
}
