//! What a process and its descendants hold of memory, where no cgroup counts it.

use procfs::process::Process;

/// Descendants that are counted. A process with more is not charged what it holds.
const MAX_PROCESSES: usize = 64;

/// Returns the proportional set size of a process and its descendants, in bytes. `None`: it is not known.
pub fn proportional_set_size(leader: i32) -> Option<u64> {
    let (mut tree, mut sum, mut counted) = (vec![leader], 0, 0);
    while let Some(pid) = tree.pop() {
        counted += 1;
        if counted > MAX_PROCESSES {
            return None;
        }
        let process = Process::new(pid).ok()?;
        let rollup = process.smaps_rollup().ok()?;
        sum += rollup.memory_map_rollup.iter().filter_map(|map| map.extension.map.get("Pss")).sum::<u64>();
        for task in process.tasks().ok()?.flatten() {
            tree.extend(task.children().ok()?.into_iter().filter_map(|child| i32::try_from(child).ok()));
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn descendants_are_counted() {
        let script = "sleep 100 & echo ready; read line; kill $!";
        let mut shell =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = shell.id() as i32;
        let children = Process::new(pid).unwrap().task_main_thread().unwrap().children().unwrap();
        let child = proportional_set_size(children[0] as i32).unwrap();
        let both = proportional_set_size(pid).unwrap();
        assert!(child > 0 && both > child, "{child} of {both} bytes");
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(proportional_set_size(pid), None, "it has ended");
    }
}
