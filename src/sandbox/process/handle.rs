//! A running child process: watched until it exits, owned until all its resources are returned.

use std::{cell::Cell, io, os::unix::process::ExitStatusExt, process::ExitStatus, rc::Rc, time::Duration};

use futures::future::LocalBoxFuture;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::oneshot,
    task::{self, JoinHandle},
    time,
};
use unifaas_actors::{
    OutputLog,
    sandbox::{ReclaimError, SandboxExit, SandboxHandle},
};

use super::{OrphanReaper, child::Child, spawn::Record};
use crate::sandbox::{
    cgroup::{CgroupAllocator, Group},
    output_throttle::OutputThrottle,
    ports::PortLease,
};

/// The longest wait for the last output of an ended process.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(20);
/// The longest wait for the end of a killed process, which may hang in the kernel.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of one read from the pipe, in bytes.
const CHUNK: usize = 8 * 1024;

/// Owns a child process, its descendants, its cgroup and its port. Dropping it kills the processes.
pub struct ProcessHandle {
    process: Rc<MainProcess>,
    watch: JoinHandle<()>,
    group: Option<Rc<Group>>,
    cgroups: CgroupAllocator,
    /// `None` once everything was returned.
    record: Option<Record>,
    orphan_reaper: OrphanReaper,
    _port: Option<PortLease>,
}

/// The resources of a child process.
pub struct OwnedResources {
    /// Without one, its descendants are searched for in the process table after its end.
    pub group: Option<Group>,
    pub cgroups: CgroupAllocator,
    pub record: Record,
    pub orphan_reaper: OrphanReaper,
    pub port: Option<PortLease>,
}

/// The child itself, which leads its session and process group.
///
/// It may be signalled only until it has been reaped, because the kernel can reuse its id afterwards.
struct MainProcess {
    pid: Pid,
    state: Cell<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Killed,
    Reaped,
}

impl MainProcess {
    fn signal(&self, signal: Signal) {
        if self.state.get() != State::Reaped {
            let _ = signal::killpg(self.pid, signal);
        }
    }

    fn kill(&self) {
        if self.state.get() == State::Running {
            self.state.set(State::Killed);
        }
        self.signal(Signal::SIGKILL);
    }
}

impl ProcessHandle {
    /// Takes over a child that leads its own process group. `memory` is its limit in MiB. The receiver gets the exit.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn new(
        child: Child,
        output: JoinHandle<()>,
        memory: u64,
        owned: OwnedResources,
    ) -> (Self, oneshot::Receiver<SandboxExit>) {
        let process = Rc::new(MainProcess { pid: child.pid(), state: Cell::new(State::Running) });
        let OwnedResources { group, cgroups, record, orphan_reaper, port } = owned;
        let group = group.map(Rc::new);
        let (ended, exited) = oneshot::channel();
        let watch = task::spawn_local(watch(child, process.clone(), output, group.clone(), memory, ended));
        (Self { process, watch, group, cgroups, record: Some(record), orphan_reaper, _port: port }, exited)
    }

    fn kill_all(&self) {
        let reaped = self.process.state.get() == State::Reaped;
        self.process.kill();
        // The watch task kills the others when it reaps the process.
        if let Some(group) = self.group.as_ref().filter(|_| !reaped) {
            group.kill();
        }
    }
}

impl SandboxHandle for ProcessHandle {
    fn terminate(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        self.kill_all();
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        Box::pin(async move {
            self.kill_all();
            if time::timeout(REAP_TIMEOUT, &mut self.watch).await.is_err() {
                let why = format!("still there {} s after SIGKILL", REAP_TIMEOUT.as_secs());
                return Err(ReclaimError { what: format!("process {}", self.process.pid), why });
            }
            let Some(record) = self.record.take() else { return Ok(()) };
            // The watch task has ended and dropped its reference.
            match self.group.take().and_then(Rc::into_inner) {
                Some(group) => {
                    let what = group.labels().map(|label| format!("cgroup {label}")).collect::<Vec<_>>().join(", ");
                    let released = self.cgroups.release(group).await;
                    released.map_err(|error| ReclaimError { what, why: error.to_string() })?;
                }
                None => self
                    .orphan_reaper
                    .kill(record.tree.clone())
                    .await
                    .map_err(|why| ReclaimError { what: format!("orphans of process {}", self.process.pid), why })?,
            }
            record.remove();
            Ok(())
        })
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Waits for the child, reaps it, and kills its descendants: an instance lives as long as its main process.
async fn watch(
    child: Child,
    process: Rc<MainProcess>,
    mut output: JoinHandle<()>,
    group: Option<Rc<Group>>,
    memory: u64,
    exited: oneshot::Sender<SandboxExit>,
) {
    let ended = child.ended().await;
    let killed = process.state.get() == State::Killed;
    // Its process group first, as long as its id cannot be reused.
    process.kill();
    process.state.set(State::Reaped);
    let status = ended.and_then(|()| child.reap());
    let out_of_memory = group.as_ref().is_some_and(|group| {
        group.kill();
        group.ran_out_of_memory()
    });
    // The pipe ends with its last writer, and all were killed. Without a cgroup, one may have escaped.
    if time::timeout(LAST_OUTPUT_TIMEOUT, &mut output).await.is_err() {
        output.abort();
    }
    // The receiver may be gone.
    let _ = exited.send(exit(status, out_of_memory && !killed, memory));
}

fn exit(status: io::Result<ExitStatus>, out_of_memory: bool, memory: u64) -> SandboxExit {
    match status {
        Ok(status) if out_of_memory && !status.success() => SandboxExit::OutOfMemory { limit: memory },
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => SandboxExit::Code(code),
            (None, Some(signal)) => SandboxExit::Signal(signal),
            (None, None) => SandboxExit::Other(status.to_string()),
        },
        Err(error) => SandboxExit::Other(format!("exited with an unknown status: {error}")),
    }
}

/// Copies the pipe into the log until its last writer has closed it.
pub async fn pump_output(mut pipe: pipe::Receiver, log: OutputLog) {
    let mut chunk = vec![0; CHUNK];
    let mut unfinished = false;
    let mut throttle = OutputThrottle::new();
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        log.write(&chunk[..count]);
        unfinished = !chunk[..count].ends_with(b"\n");
        throttle.after_read(count).await;
    }
    if unfinished {
        log.write(b"\n");
    }
}
