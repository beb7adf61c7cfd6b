//! A child process that runs: watched until it ends, held until everything is given back.

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

/// How long the last output may take to be read once the process has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(20);
/// How long a killed process may take to end: long only when it hangs in the kernel.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);
/// Read from the pipe at once, in bytes.
const CHUNK: usize = 8 * 1024;

/// The hold on a child process, its descendants, its cgroup and its port.
pub struct ProcessHandle {
    process: Rc<MainProcess>,
    watch: JoinHandle<()>,
    group: Option<Rc<Group>>,
    cgroups: CgroupAllocator,
    /// Until everything has been given back.
    record: Option<Record>,
    orphan_reaper: OrphanReaper,
    _port: Option<PortLease>,
}

/// What a child process is held by, and what it resources.
pub struct OwnedResources {
    /// Without one, its descendants are looked for when it has ended.
    pub group: Option<Group>,
    pub cgroups: CgroupAllocator,
    pub record: Record,
    pub orphan_reaper: OrphanReaper,
    pub port: Option<PortLease>,
}

/// The child itself, first of its session and process group.
///
/// Its number may be signalled only until the child has been reaped: then the kernel can give it to anybody.
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
    /// Takes over a child that leads its own process group. `memory` is its limit in MiB. The receiver gets how it
    /// ended, at once.
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

    fn end(&self) {
        let ended = self.process.state.get() == State::Reaped;
        self.process.kill();
        // Once the process has been reaped, whoever has done that has killed the others, too.
        if let Some(group) = self.group.as_ref().filter(|_| !ended) {
            group.kill();
        }
    }
}

impl SandboxHandle for ProcessHandle {
    fn terminate(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        self.end();
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        Box::pin(async move {
            self.end();
            if time::timeout(REAP_TIMEOUT, &mut self.watch).await.is_err() {
                let why = format!("still there {} s after SIGKILL", REAP_TIMEOUT.as_secs());
                return Err(ReclaimError { what: format!("process {}", self.process.pid), why });
            }
            let Some(record) = self.record.take() else { return Ok(()) };
            // Whoever watched has let go of it.
            match self.group.take().and_then(Rc::into_inner) {
                Some(group) => {
                    let what = group.labels().map(|label| format!("cgroup {label}")).collect::<Vec<_>>().join(", ");
                    let taken = self.cgroups.release(group).await;
                    taken.map_err(|error| ReclaimError { what, why: error.to_string() })?;
                }
                None => self.orphan_reaper.end(record.tree.clone()).await.map_err(|why| ReclaimError {
                    what: format!("what process {} has left behind", self.process.pid),
                    why,
                })?,
            }
            record.strike();
            Ok(())
        })
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reaps the child, and then ends what it has left behind: an instance lives as long as its first process.
async fn watch(
    child: Child,
    process: Rc<MainProcess>,
    mut output: JoinHandle<()>,
    group: Option<Rc<Group>>,
    memory: u64,
    told: oneshot::Sender<SandboxExit>,
) {
    let ended = child.ended().await;
    let killed = process.state.get() == State::Killed;
    // Its process group first, as long as the number is its own for sure.
    process.kill();
    process.state.set(State::Reaped);
    let status = ended.and_then(|()| child.reap());
    let starved = group.as_ref().is_some_and(|group| {
        group.kill();
        group.ran_out_of_memory()
    });
    // The end of the output comes with the end of the last writer, and they all have been killed. One that got away
    // without a cgroup to hold it must not keep us.
    if time::timeout(LAST_OUTPUT, &mut output).await.is_err() {
        output.abort();
    }
    // Nobody may be interested any more.
    let _ = told.send(exit(status, starved && !killed, memory));
}

fn exit(status: io::Result<ExitStatus>, starved: bool, memory: u64) -> SandboxExit {
    match status {
        Ok(status) if starved && !status.success() => SandboxExit::OutOfMemory { limit: memory },
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => SandboxExit::Code(code),
            (None, Some(signal)) => SandboxExit::Signal(signal),
            (None, None) => SandboxExit::Other(status.to_string()),
        },
        Err(error) => SandboxExit::Other(format!("ended, but its status is lost: {error}")),
    }
}

/// Moves everything that comes out of the pipe into the log, until the last writer has closed it.
pub async fn pump_output(mut pipe: pipe::Receiver, log: OutputLog) {
    let mut chunk = vec![0; CHUNK];
    let mut unfinished = false;
    let mut pace = OutputThrottle::new();
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        log.write(&chunk[..count]);
        unfinished = !chunk[..count].ends_with(b"\n");
        pace.keep(count).await;
    }
    if unfinished {
        log.write(b"\n");
    }
}
