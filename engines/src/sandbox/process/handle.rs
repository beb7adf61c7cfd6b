//! A running child process as the actors own it, until all its resources are returned.

use std::{io, mem, time::Duration};

use futures::future::{self, LocalBoxFuture};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use unifaas_actors::{
    MemoryUsage,
    sandbox::{PauseError, ReclaimError, SandboxHandle},
};

use super::{OrphanReaper, footprint::proportional_set_size, pause::PauseMethod, spawn::ProcessRecord};
use crate::{
    sandbox::{
        cgroup::{CgroupAllocator, Group},
        ports::PortLease,
    },
    state,
};

/// The longest wait for the end of a killed process, which may hang in the kernel.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Owns a child process, its descendants, its cgroup and its port. Dropping it kills the processes.
pub struct ProcessHandle {
    pid: Pid,
    /// To the supervision. Once this is dropped, the child is killed.
    signals: mpsc::UnboundedSender<Signal>,
    done: oneshot::Receiver<Option<Group>>,
    /// `None` once everything was returned.
    record: Option<ProcessRecord>,
    cgroups: CgroupAllocator,
    orphan_reaper: OrphanReaper,
    port: Option<PortLease>,
    method: PauseMethod,
    /// Reads the memory that its cgroup uses.
    memory_usage: Option<MemoryUsage>,
    /// It is paused, or being paused.
    is_paused: bool,
}

impl ProcessHandle {
    /// `done` resolves with the cgroup, if any, once the child has been reaped.
    pub(super) fn new(
        pid: Pid,
        signals: mpsc::UnboundedSender<Signal>,
        done: oneshot::Receiver<Option<Group>>,
        record: ProcessRecord,
        cgroups: CgroupAllocator,
        orphan_reaper: OrphanReaper,
        method: PauseMethod,
    ) -> Self {
        let (record, port, memory_usage) = (Some(record), None, None);
        Self { pid, signals, done, record, cgroups, orphan_reaper, port, method, memory_usage, is_paused: false }
    }

    /// Sets what reads the memory that the process holds; without it, its pages are counted.
    pub(super) fn with_memory_usage(mut self, usage: Option<MemoryUsage>) -> Self {
        self.memory_usage = usage;
        self
    }

    /// Keeps a port leased as long as the handle.
    pub fn keep_port(&mut self, port: PortLease) {
        self.port = Some(port);
    }

    /// Lets a paused process run, which a signal may not reach otherwise.
    fn thaw(&mut self) -> io::Result<()> {
        if !mem::take(&mut self.is_paused) {
            return Ok(());
        }
        self.method.thaw(&self.signals)
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        // Not reclaimed: its supervision kills it, once the signals are closed.
        let _ = self.thaw();
    }
}

impl SandboxHandle for ProcessHandle {
    fn terminate(&mut self) {
        let _ = self.thaw();
        let _ = self.signals.send(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        let _ = self.thaw();
        let _ = self.signals.send(Signal::SIGKILL);
    }

    fn pause(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        self.is_paused = true;
        let requested = self.method.pause(&self.signals);
        let (method, pid, signals) = (self.method.clone(), self.pid, self.signals.clone());
        Box::pin(async move {
            let paused = match requested {
                Ok(()) => method.paused(pid).await,
                Err(error) => Err(error),
            };
            paused.map_err(|error| {
                // It is paused no more before it is asked again.
                let _ = method.thaw(&signals);
                PauseError::Failed(error.to_string())
            })
        })
    }

    fn resume(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        // It would take a request before it exits.
        let is_killed = state::is_killed(self.pid.as_raw());
        let killed = || io::Error::other("it was killed while it was paused");
        let thawed = self.thaw().and_then(|()| if is_killed { Err(killed()) } else { Ok(()) });
        Box::pin(future::ready(thawed.map_err(|error| PauseError::Failed(error.to_string()))))
    }

    fn footprint(&self) -> Option<u64> {
        match &self.memory_usage {
            Some(usage) => usage.used(),
            None => proportional_set_size(self.pid.as_raw()),
        }
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        Box::pin(async move {
            self.kill();
            let what = format!("process {}", self.pid);
            let Ok(done) = time::timeout(REAP_TIMEOUT, &mut self.done).await else {
                return Err(ReclaimError {
                    what,
                    why: format!("still there {} s after SIGKILL", REAP_TIMEOUT.as_secs()),
                });
            };
            let group = done.map_err(|_| ReclaimError { what, why: "its supervision has ended".to_owned() })?;
            let Some(record) = self.record.take() else { return Ok(()) };
            match group {
                Some(group) => {
                    let what = group.labels().map(|label| format!("cgroup {label}")).collect::<Vec<_>>().join(", ");
                    let released = self.cgroups.release(group).await;
                    released.map_err(|error| ReclaimError { what, why: error.to_string() })?;
                }
                None => self
                    .orphan_reaper
                    .kill(record.tree.clone())
                    .await
                    .map_err(|why| ReclaimError { what: format!("orphans of process {}", self.pid), why })?,
            }
            record.remove();
            Ok(())
        })
    }
}
