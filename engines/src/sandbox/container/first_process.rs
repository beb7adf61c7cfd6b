//! Finds the first process of a container on this host.
//!
//! The engine may number processes otherwise: it can be on another host, or in a PID namespace of its own. So a process
//! counts only if its cgroup, or its arguments or those of its parent, name the container. Blocks, as it may read all of
//! `/proc`.

use procfs::{
    ProcessCGroups,
    process::{self, Process},
};

use crate::state::ProcessId;

/// Returns the process that the engine numbers `reported`, the first one of a container. `None`: it is not of this host, or
/// has exited.
pub fn find(reported: u32, container: &str) -> Option<ProcessId> {
    let reported = i32::try_from(reported).ok()?;
    let of_container = |process: &Process| is_of(process, container);
    if let Some(found) = Process::new(reported).ok().filter(of_container) {
        return ProcessId::of(&found);
    }
    let is_numbered = |process: &Process| {
        let numbers = process.status().ok().and_then(|status| status.nspid);
        numbers.is_some_and(|numbers| numbers.contains(&reported))
    };
    let candidates = process::all_processes().ok()?.flatten().filter(is_numbered).filter(of_container);
    // Another process of the container can have that number in a namespace inside of it. The first one is the oldest.
    candidates.filter_map(|process| ProcessId::of(&process)).min_by_key(|process| process.started)
}

fn is_of(process: &Process, container: &str) -> bool {
    let names = |process: &Process| process.cmdline().is_ok_and(|words| words.iter().any(|word| word == container));
    // The parent is what the engine keeps for each container, such as a shim.
    let parent = || Process::new(process.stat().ok()?.ppid).ok();
    process.cgroups().is_ok_and(|cgroups| is_in_cgroup_of(&cgroups, container))
        || names(process)
        || parent().is_some_and(|parent| names(&parent))
}

fn is_in_cgroup_of(cgroups: &ProcessCGroups, container: &str) -> bool {
    cgroups.0.iter().any(|cgroup| cgroup.pathname.contains(container))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use procfs::FromBufRead;

    use super::*;

    const CONTAINER: &str = "5b0c0ffee5b0c0ffee5b0c0ffee5b0c0ffee5b0c0ffee5b0c0ffee5b0c0ffee0";

    fn started(mut command: Command) -> Child {
        let child = command.spawn().unwrap();
        let program = command.get_program().to_str().unwrap();
        // Until it has executed the program, it is a copy of this process.
        while Process::new(child.id() as i32).unwrap().cmdline().unwrap().first().is_none_or(|word| word != program) {}
        child
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn process_is_of_the_container_that_its_arguments_or_those_of_its_parent_name() {
        let mut named = Command::new("sh");
        named.args(["-c", "sleep 1000; exit", CONTAINER]);
        let named = started(named);
        let pid = named.id();
        let found = find(pid, CONTAINER).unwrap();
        assert_eq!(found.pid as u32, pid);
        let children = || Process::new(pid as i32).unwrap().task_main_thread().unwrap().children().unwrap();
        let child = std::iter::repeat_with(children).find_map(|children| children.first().copied()).unwrap();
        assert_eq!(find(child, CONTAINER).map(|found| found.pid as u32), Some(child));
        assert_eq!(find(pid, "another"), None);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
        end(named);
        assert_eq!(find(pid, CONTAINER), None, "it has exited");
    }

    #[test]
    fn process_is_of_the_container_that_its_cgroup_is_named_after() {
        for (cgroup, is_of) in [
            (format!("6:freezer:/docker/{CONTAINER}\n"), true),
            (format!("0::/system.slice/docker-{CONTAINER}.scope/init\n"), true),
            ("6:freezer:/\n0::/user.slice\n".to_owned(), false),
        ] {
            let cgroups = ProcessCGroups::from_buf_read(cgroup.as_bytes()).unwrap();
            assert_eq!(is_in_cgroup_of(&cgroups, CONTAINER), is_of, "{cgroup}");
        }
    }
}
