//! Finds the processes of instances in a process table. Pure.
//!
//! The members of a tree are its leader (by PID *and* start time), the processes with the instance's mark in their
//! environment, those in the leader's session, and all descendants of these. The kernel does not reuse the number of a
//! session before its last process has exited, so it is valid without the leader, too.
//!
//! A process escapes if it has left the session, cleared its environment and outlived its parents. Cgroups, where there
//! are any, hold it all the same.

use std::collections::{HashMap, HashSet};

use super::resource::ProcessTree;

/// The name of the mark in the environment.
pub const MARK: &str = "INSTANCE_ID";

/// A process, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    /// In clock ticks since boot.
    pub started: u64,
    pub condition: Condition,
    /// The value of the mark.
    pub instance: Option<String>,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It runs, waits, or is stopped.
    Alive,
    /// It has exited and is not reaped.
    Dead,
}

/// Returns the processes of `trees` that have not exited. Neither `own` nor its ancestors are ever among them.
pub fn members<'p>(processes: &'p [Process], trees: &[ProcessTree], own: i32) -> Vec<&'p Process> {
    let by_pid: HashMap<i32, &Process> = processes.iter().map(|process| (process.pid, process)).collect();
    let instances: HashSet<&str> = trees.iter().map(|tree| tree.instance.as_str()).collect();
    let leaders = trees.iter().filter_map(|tree| tree.leader);
    // Another process with the PID of a leader has begun a session of that number itself.
    let sessions: HashSet<i32> = leaders
        .filter(|leader| by_pid.get(&leader.pid).is_none_or(|process| leader.is(process)))
        .map(|leader| leader.pid)
        .collect();

    let mut spared = HashSet::from([own]);
    let mut ancestor = own;
    while let Some(process) = by_pid.get(&ancestor).filter(|process| spared.insert(process.parent)) {
        ancestor = process.parent;
    }

    let marked = |process: &Process| process.instance.as_deref().is_some_and(|mark| instances.contains(mark));
    let first = processes.iter().filter(|process| sessions.contains(&process.session) || marked(process));
    let mut found: HashSet<i32> = HashSet::new();
    let mut new: Vec<&Process> = first.collect();
    while let Some(process) = new.pop() {
        if spared.contains(&process.pid) || !found.insert(process.pid) {
            continue;
        }
        // A child is younger than its parent, unless the parent's PID was reused while the table was read.
        new.extend(processes.iter().filter(|one| one.parent == process.pid && one.started >= process.started));
    }
    processes.iter().filter(|process| found.contains(&process.pid) && process.condition != Condition::Dead).collect()
}

impl super::resource::SessionLeader {
    fn is(&self, process: &Process) -> bool {
        self.pid == process.pid && (self.after..=self.before).contains(&process.started)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::resource::SessionLeader, *};

    const OWN: i32 = 50;

    /// Returns a process by PID, parent, session and start time.
    fn process(pid: i32, parent: i32, session: i32, started: u64) -> Process {
        Process { pid, parent, session, started, condition: Condition::Alive, instance: None }
    }

    fn tree(leader: Option<(i32, u64)>) -> ProcessTree {
        let leader = leader.map(|(pid, after)| SessionLeader { pid, after, before: after + 1 });
        ProcessTree { instance: "i".to_owned(), leader }
    }

    /// Returns the members in a table with the daemon and its ancestors.
    fn found(mut processes: Vec<Process>, tree: ProcessTree) -> Vec<i32> {
        processes.extend([process(1, 0, 1, 0), process(40, 1, 40, 10), process(OWN, 40, 40, 900)]);
        members(&processes, &[tree], OWN).into_iter().map(|process| process.pid).collect()
    }

    #[test]
    fn leader_is_known_by_pid_and_start_time() {
        assert_eq!(found(vec![process(7, 1, 7, 100)], tree(Some((7, 100)))), [7]);
        assert_eq!(found(vec![process(7, 1, 7, 101)], tree(Some((7, 100)))), [7]);
        for start in [99, 102, 5000] {
            let another = vec![process(7, 1, 7, start), process(8, 7, 7, start + 1)];
            assert_eq!(found(another, tree(Some((7, 100)))), [0; 0], "started at {start}");
        }
    }

    #[test]
    fn processes_of_its_session_are_members_with_and_without_the_leader() {
        let session = vec![process(8, 1, 7, 105), process(9, 8, 7, 106), process(10, 1, 10, 107)];
        assert_eq!(found(session.clone(), tree(Some((7, 100)))), [8, 9]);
        let zombie = Process { condition: Condition::Dead, ..process(7, 1, 7, 100) };
        assert_eq!(found([session, vec![zombie]].concat(), tree(Some((7, 100)))), [8, 9]);
    }

    #[test]
    fn descendants_are_members_in_any_session() {
        let line = vec![process(7, 1, 7, 100), process(8, 7, 8, 101), process(9, 8, 9, 102), process(10, 1, 10, 103)];
        assert_eq!(found(line, tree(Some((7, 100)))), [7, 8, 9]);
    }

    #[test]
    fn marked_process_is_member_without_a_recorded_leader() {
        let marked = |mark: &str| Process { instance: Some(mark.to_owned()), ..process(8, 1, 8, 101) };
        let child = process(9, 8, 9, 102);
        assert_eq!(found(vec![marked("i"), child.clone()], tree(None)), [8, 9]);
        assert_eq!(found(vec![marked("other"), child], tree(None)), [0; 0]);
    }

    #[test]
    fn spares_the_daemon_and_its_ancestors() {
        // The daemon was started from within an instance of an earlier one.
        let marked = |pid, parent| Process { instance: Some("i".to_owned()), ..process(pid, parent, pid, 20) };
        let table = vec![marked(1, 0), marked(40, 1), marked(OWN, 40), marked(41, 40), process(60, 45, 60, 950)];
        let found: Vec<i32> = members(&table, &[tree(None)], OWN).iter().map(|process| process.pid).collect();
        assert_eq!(found, [41]);
    }

    #[test]
    fn parent_that_is_younger_than_its_child_is_another_process() {
        let table = vec![process(7, 1, 7, 100), process(8, 7, 8, 90)];
        assert_eq!(found(table, tree(Some((7, 100)))), [7]);
    }

    #[test]
    fn cycle_in_the_table_ends() {
        let table = vec![process(7, 8, 7, 100), process(8, 7, 8, 100)];
        assert_eq!(found(table, tree(Some((7, 100)))), [7, 8]);
        let table = vec![process(OWN, 51, OWN, 1), process(51, OWN, 51, 1)];
        assert_eq!(members(&table, &[tree(None)], OWN), [] as [&Process; 0]);
    }
}
