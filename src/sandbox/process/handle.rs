//! A running child process as the actors own it, until all its resources are returned.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use unifaas_actors::sandbox::{ReclaimError, SandboxHandle};

use super::{OrphanReaper, spawn::ProcessRecord};
use crate::sandbox::{
    cgroup::{CgroupAllocator, Group},
    ports::PortLease,
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
    ) -> Self {
        Self { pid, signals, done, record: Some(record), cgroups, orphan_reaper, port: None }
    }

    /// Keeps a port leased as long as the handle.
    pub fn keep_port(&mut self, port: PortLease) {
        self.port = Some(port);
    }
}

impl SandboxHandle for ProcessHandle {
    fn terminate(&mut self) {
        let _ = self.signals.send(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        let _ = self.signals.send(Signal::SIGKILL);
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
