//! The processes of this host, as `/proc` shows them, and the end of those of an instance. Blocks: a look takes
//! milliseconds where there are hundreds of them.

use std::{collections::HashSet, fs, io, thread, time::Duration};

use nix::{
    sys::{
        signal::{self, Signal},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
    unistd::{self, SysconfVar, sysconf},
};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};

use super::{
    process_tree::{Condition, MARK, Process, members},
    resource::ProcessTree,
};

/// Between two looks: the first pause and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How long killed processes may take to end: long only when they hang in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Now, in clock ticks since the host was started: the clock by which the kernel says when a process was.
pub fn boot_clock() -> u64 {
    // Cannot fail: both are on every Linux.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(TimeSpec::new(0, 0));
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100, |ticks| ticks as u64);
    now.tv_sec() as u64 * ticks + now.tv_nsec() as u64 * ticks / 1_000_000_000
}

/// Kills every process of these trees, until there is none. Who has ended by that, and an error when some have not.
pub fn kill_process_trees(trees: &[ProcessTree]) -> (HashSet<i32>, io::Result<()>) {
    let own = unistd::getpid().as_raw();
    let mut killed = HashSet::new();
    let (mut pause, mut waited) = (PAUSES.0, Duration::ZERO);
    loop {
        let processes = processes();
        let left = members(&processes, trees, own);
        if left.is_empty() {
            return (killed, Ok(()));
        }
        if waited > PATIENCE {
            let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
            killed.retain(|pid| !pids.contains(pid));
            let error = format!("still there {} s after SIGKILL: {pids:?}", PATIENCE.as_secs());
            return (killed, Err(io::Error::other(error)));
        }
        killed.extend(left.into_iter().filter(|process| kill(process)).map(|process| process.pid));
        #[expect(clippy::disallowed_methods, reason = "nobody else is on this thread")]
        thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Kills it, and nobody who has its number by now. Whether it was still there.
fn kill(process: &Process) -> bool {
    let still = || read(process.pid).is_some_and(|now| now.started == process.started);
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // From here on the descriptor means this very process.
        Ok(handle) => still() && pidfd_send_signal(handle, rustix::process::Signal::KILL).is_ok(),
        // Before Linux 5.3, or where a filter forbids it.
        Err(Errno::NOSYS | Errno::PERM) => {
            still() && signal::kill(unistd::Pid::from_raw(process.pid), Signal::SIGKILL).is_ok()
        }
        Err(_) => false,
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Whether a signal has stopped it.
pub fn is_stopped(pid: i32) -> bool {
    look(pid).is_some_and(|process| process.condition == Condition::Stopped)
}

/// What there is to know of it but for its mark, which takes longer.
fn look(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn read(pid: i32) -> Option<Process> {
    let process = look(pid)?;
    // Those of others cannot be read, and are not ours.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    Some(Process { instance: instance(&environment), ..process })
}

/// Reads `/proc/PID/stat`. The name in its brackets can be anything, brackets included.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The third field is the first behind the name.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        pid,
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
        condition: match field(3)? {
            "Z" | "X" | "x" => Condition::Dead,
            "T" => Condition::Stopped,
            _ => Condition::Alive,
        },
        instance: None,
    })
}

fn instance(environment: &[u8]) -> Option<String> {
    let value = |variable: &[u8]| {
        let value = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    environment.split(|byte| *byte == 0).find_map(value)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use nix::sys::wait::{WaitPidFlag, waitpid};

    use super::{super::resource::SessionLeader, *};

    /// A shell in a session of its own. It runs until its standard input is closed, and prints what its script does.
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

    fn alive(pid: i32) -> bool {
        look(pid).is_some_and(|process| process.condition != Condition::Dead)
    }

    #[test]
    fn a_process_is_read_behind_its_name() {
        let stat = "42 (a) Z (b) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2";
        let condition = Condition::Alive;
        let expected = Process { pid: 42, parent: 7, session: 40, started: 123_456, condition, instance: None };
        assert_eq!(parse(42, stat), Some(expected));
        assert_eq!(parse(42, "42 (a) S 7"), None);
        assert_eq!(parse(42, ""), None);
    }

    #[test]
    fn a_process_is_alive_stopped_or_dead() {
        use Condition::{Alive, Dead, Stopped};
        for (letter, condition) in [("R", Alive), ("D", Alive), ("t", Alive), ("T", Stopped), ("Z", Dead), ("X", Dead)]
        {
            let stat = format!("42 (T) Z) {letter} 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5");
            assert_eq!(parse(42, &stat).unwrap().condition, condition, "{letter}");
        }
    }

    #[test]
    fn whether_a_process_is_stopped_is_seen() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = unistd::Pid::from_raw(child.id() as i32);
        assert!(!is_stopped(pid.as_raw()));
        for (told, stopped) in [(Signal::SIGSTOP, true), (Signal::SIGCONT, false)] {
            signal::kill(pid, told).unwrap();
            waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED)).unwrap();
            assert_eq!(is_stopped(pid.as_raw()), stopped);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(pid.as_raw()), "it is gone");
    }

    #[test]
    fn the_mark_is_a_whole_variable() {
        assert_eq!(instance(b"A=b\0INSTANCE_ID=ab\0C=d\0").as_deref(), Some("ab"));
        assert_eq!(instance(b"XINSTANCE_ID=ab\0INSTANCE_IDS=ab\0INSTANCE_ID\0"), None);
    }

    #[test]
    fn the_clock_is_that_of_the_process_table() {
        let after = boot_clock();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let before = boot_clock();
        let started = read(child.id() as i32).unwrap().started;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((after..=before).contains(&started), "{after} {started} {before}");
    }

    #[test]
    fn a_family_ends_with_those_who_left_its_session_and_nobody_else_does() {
        // The second one has cleared its environment and is found by its session, the third by its mark alone.
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

        // As after the death of a daemon, which takes the leader along.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ended(&tree("of-the-first", Some(leader))), pids.iter().copied().collect());
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
        assert!(others.iter().all(|pid| alive(*pid)) && alive(other.id() as i32));
        assert!(ended(&tree("of-the-second", None)).is_superset(&others.into_iter().collect()));
        other.wait().unwrap();
    }
}
