//! Stops a process and its descendants by signals, for containers without a cgroup of their own.

use std::{io, path::Path, time::Duration};

use procfs::process::Process;
use rustix::process::{Pid, Signal, test_kill_process};
use tokio::{task, time::Instant};

use crate::{
    sandbox::pause_deadline::PauseDeadline,
    state::{ProcessId, send_signal},
};

/// After which a process that still runs is signalled again. A debugger that has not stopped yet can take the signal from a
/// process that it traces, as gVisor's kernel does with the processes of its guest.
const RESEND_INTERVAL: Duration = Duration::from_millis(20);

/// Processes that were stopped, parents before children. They continue when it is dropped.
#[derive(Debug, Default)]
pub struct StoppedTree(Vec<ProcessId>);

impl StoppedTree {
    /// Stops `first` and its descendants.
    ///
    /// # Errors
    /// Returns why they run on.
    pub async fn stop(first: ProcessId) -> io::Result<Self> {
        let mut deadline = PauseDeadline::start();
        let (mut tree, mut resend_at) = (Self::default(), Instant::now() + RESEND_INTERVAL);
        loop {
            let now = Instant::now();
            let resends = now >= resend_at;
            if resends {
                resend_at = now + RESEND_INTERVAL;
            }
            let running;
            (tree, running) = task::spawn_blocking(move || {
                let running = tree.stop_running(first, resends);
                (tree, running)
            })
            .await?;
            let running = running?;
            if running.is_empty() {
                return Ok(tree);
            }
            if let Err(error) = deadline.next_look("stopped").await {
                return Err(io::Error::new(error.kind(), format!("{error}: {}", running.join(", "))));
            }
        }
    }

    /// Signals those that run, and those that were signalled before if `resends`. Returns those that ran: if there was none,
    /// none can have started another meanwhile.
    fn stop_running(&mut self, first: ProcessId, resends: bool) -> io::Result<Vec<String>> {
        let mut running = Vec::new();
        let mut next = vec![first];
        while let Some(id) = next.pop() {
            let Some(process) = look(id) else { continue };
            if let Some(state) = running_thread(&process) {
                running.push(format!("process {} ({state})", id.pid));
                let is_known = self.0.contains(&id);
                let is_there = (!is_known || resends) && send_signal(id, Signal::STOP)?;
                if is_there && !is_known {
                    self.0.push(id);
                }
            }
            next.extend(children(&process));
        }
        Ok(running)
    }
}

/// Returns a process that has not exited.
fn look(id: ProcessId) -> Option<Process> {
    let process = Process::new(id.pid).ok()?;
    let stat = process.stat().ok()?;
    (stat.starttime == id.started && !matches!(stat.state, 'Z' | 'X')).then_some(process)
}

/// Returns the state of a thread that is not stopped. gVisor traces those of its guest one by one, so some can be stopped
/// already.
fn running_thread(process: &Process) -> Option<char> {
    let threads = process.tasks().into_iter().flatten().flatten();
    // What has exited meanwhile does not run.
    let states = threads.filter_map(|thread| thread.stat().ok()).map(|stat| stat.state);
    states.into_iter().find(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn children(process: &Process) -> Vec<ProcessId> {
    let threads = process.tasks().into_iter().flatten().flatten();
    let pids = threads.filter_map(|thread| thread.children().ok()).flatten();
    let child = |pid| {
        let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        // Otherwise the PID was reused meanwhile.
        (stat.ppid == process.pid).then_some(ProcessId { pid: stat.pid, started: stat.starttime })
    };
    pids.filter_map(child).collect()
}

impl Drop for StoppedTree {
    fn drop(&mut self) {
        resume(self.0.drain(..).rev());
    }
}

/// Lets a process and its descendants continue, which an earlier daemon may have stopped.
pub fn resume_tree(first: ProcessId) {
    let (mut tree, mut next) = (Vec::new(), vec![first]);
    while let Some(id) = next.pop() {
        tree.push(id);
        next.extend(look(id).iter().flat_map(children));
    }
    resume(tree.into_iter().rev());
}

/// Lets processes continue, children before their parents, which may wait for them.
fn resume(processes: impl Iterator<Item = ProcessId>) {
    // What is gone needs no signal.
    processes.for_each(|process| drop(send_signal(process, Signal::CONT)));
}

/// Returns whether this daemon can stop a process and find its descendants.
pub fn can_stop(first: ProcessId) -> bool {
    let may_signal = Pid::from_raw(first.pid).is_some_and(|pid| test_kill_process(pid).is_ok());
    // Not every kernel lists the children of a process.
    may_signal && Path::new("/proc/thread-self/children").exists()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use tokio::time;

    use super::*;

    fn state(pid: i32) -> char {
        Process::new(pid).unwrap().stat().unwrap().state
    }

    #[tokio::test]
    async fn stops_a_process_with_its_descendants_and_resumes_those_that_it_has_stopped() {
        let script = "sleep 1000 & echo $!
            setsid sh -c 'while :; do sleep 0.001; done' & echo $!
            kill -STOP $!; echo; read never";
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(shell.stdout.take().unwrap()).lines().map_while(Result::ok);
        let pids: Vec<i32> = lines.take_while(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect();
        let [sleeps, busy] = pids[..] else { panic!("{pids:?}") };
        let pid = shell.id() as i32;
        let first = ProcessId::of(&Process::new(pid).unwrap()).unwrap();
        assert!(can_stop(first));
        while state(busy) != 'T' {
            time::sleep(RESEND_INTERVAL).await;
        }
        let tree = StoppedTree::stop(first).await.unwrap();
        assert_eq!([pid, sleeps, busy].map(state), ['T'; 3]);
        drop(tree);
        while [pid, sleeps].map(state).contains(&'T') {
            time::sleep(RESEND_INTERVAL).await;
        }
        assert_eq!(state(busy), 'T', "another program has stopped it");

        resume_tree(first);
        let tree = StoppedTree::stop(first).await.unwrap();
        let all = children(&Process::new(busy).unwrap());
        assert!(state(busy) == 'T' && all.iter().all(|id| matches!(state(id.pid), 'T' | 'Z')), "{all:?}");
        let mistaken = ProcessId { started: first.started + 1, ..first };
        assert!(!send_signal(mistaken, Signal::CONT).unwrap() && state(pid) == 'T');
        drop(tree);
        for pid in [sleeps, busy, pid] {
            let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        shell.wait().unwrap();
    }
}
