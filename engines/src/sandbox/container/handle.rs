//! A running container: its signals, its output, its exit and its removal. `pause.rs` pauses it.

use std::{cell::Cell, rc::Rc, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder},
};
use futures::{StreamExt, future::LocalBoxFuture, stream::LocalBoxStream};
use slog::{Logger, debug};
use tokio::{sync::watch, task, time};
use unifaas_actors::{
    OutputLog, OutputStream,
    sandbox::{PauseError, ReclaimError, SandboxExit, SandboxHandle},
};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT, Session},
    exit::{self, ContainerExit},
    exit_watcher::ExpectedExit,
    pause::Pauser,
    reaper::ContainerReaper,
};
use crate::{
    sandbox::{cgroup, output_throttle::OutputThrottle},
    state::JournalEntry,
};

/// How long the last output may take to be read after the exit: less than requests in flight wait for the exit's
/// reason.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(150);
/// How long after the exit the engine may still learn that memory ran out. Shorter than requests wait for an exit reason.
const LATE_OOM_REPORT: Duration = Duration::from_millis(100);

/// A line of output for a container whose entry point executes its arguments.
const URL_EXECUTED: &str = "the argument of its entry point was the callback URL: set `readiness = \"tcp\"` to run the \
                            command of the image, or give a `command` in [container]";

/// The handle of a container.
#[derive(Debug)]
pub struct ContainerHandle {
    pub container: Container,
    pub pauser: Rc<Pauser>,
    pub reaper: ContainerReaper,
    /// The signal with which its image is stopped.
    pub stop_signal: String,
    /// Taken when the removal begins.
    pub entry: Option<JournalEntry>,
}

/// A container and its engine.
#[derive(Debug, Clone)]
pub struct Container {
    pub engine: Rc<Engine>,
    pub id: String,
    /// In which it was created.
    pub session: Session,
    /// Whether the daemon has killed it.
    pub killed: Rc<Cell<bool>>,
    /// How many processes the OOM killer of this host had ended before it started.
    pub host_oom_kills: u64,
    pub log: Logger,
}

impl SandboxHandle for ContainerHandle {
    fn terminate(&mut self) {
        self.signal(self.stop_signal.clone());
    }

    fn kill(&mut self) {
        self.container.killed.set(true);
        self.signal("SIGKILL".to_owned());
    }

    fn pause(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        let pauser = self.pauser.clone();
        Box::pin(async move { pauser.pause().await })
    }

    fn resume(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        let pauser = self.pauser.clone();
        Box::pin(async move { pauser.resume().await })
    }

    fn footprint(&self) -> Option<u64> {
        self.pauser.footprint()
    }

    fn external_pauses(&mut self) -> Option<LocalBoxStream<'static, ()>> {
        self.pauser.external_pauses()
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        self.container.killed.set(true);
        self.pauser.end();
        Box::pin(async move {
            // Not every engine can remove what it has paused. It is removed even if this fails.
            let _ = self.pauser.resume().await;
            let entry = self.entry.take();
            self.reaper.remove(&self.container.id, Some(self.container.session), entry).await;
            Ok(())
        })
    }
}

impl Drop for ContainerHandle {
    fn drop(&mut self) {
        // An actor panicked. The reaper removes the container, or the next daemon does.
        if let Some(entry) = self.entry.take() {
            self.container.killed.set(true);
            self.pauser.end();
            self.reaper.discard(&self.container.id, self.container.session, entry);
        }
    }
}

impl ContainerHandle {
    /// Resumes the container if it is paused, and sends it a signal.
    fn signal(&self, signal: String) {
        self.pauser.end();
        let (container, pauser) = (self.container.clone(), self.pauser.clone());
        task::spawn_local(async move {
            if let Err(error) = pauser.resume().await {
                debug!(container.log, "container could not be resumed"; "error" => %error);
            }
            let options = KillContainerOptionsBuilder::new().signal(&signal).build();
            let id = container.id.as_str();
            let kill = async |docker: Docker| docker.kill_container(id, Some(options)).await;
            match container.engine.ask("kill", QUICK_CALL_TIMEOUT, kill).await {
                Ok(()) => {}
                // It has just exited.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => debug!(container.log, "signal was not delivered"; "signal" => signal, "error" => %error),
            }
        });
    }
}

impl Container {
    /// Copies everything that the container prints into the log, from its first line until its exit.
    pub async fn pump_output(self, log: OutputLog) {
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
        let Ok(docker) = self.engine.client().await else { return };
        let mut output = docker.logs(&self.id, Some(options));
        let mut throttle = OutputThrottle::new();
        while let Some(Ok(output)) = output.next().await {
            let (stream, message) = match output {
                LogOutput::StdOut { message } => (OutputStream::Out, message),
                LogOutput::StdErr { message } => (OutputStream::Err, message),
                LogOutput::Console { message } => (OutputStream::Console, message),
                LogOutput::StdIn { .. } => continue,
            };
            log.write(stream, &message);
            throttle.after_read(message.len()).await;
        }
        OutputStream::PRINTED.into_iter().for_each(|stream| log.end(stream));
    }

    /// Waits for the exit and for the last lines. `counted` says whether its cgroup counted an OOM kill. `limit` is the
    /// container's memory in MiB. `hint` gets another line if the container may have executed the callback URL.
    pub async fn exited(
        self,
        expected: ExpectedExit,
        counted: task::JoinHandle<Option<bool>>,
        output: task::JoinHandle<()>,
        limit: u64,
        hint: Option<OutputLog>,
    ) -> SandboxExit {
        let ExpectedExit { exit, out_of_memory: reported } = expected;
        let exit = exit.await;
        let hint = hint.filter(|_| matches!(exit, Ok(ContainerExit::Died { code: Some(exit::NOT_EXECUTED), .. })));
        let (exit, _) = futures::join!(
            async {
                match exit {
                    Ok(ContainerExit::Died { code, out_of_memory })
                        if out_of_memory || *reported.borrow() || self.is_oom_kill(code, counted, reported).await =>
                    {
                        SandboxExit::OutOfMemory { limit }
                    }
                    Ok(ContainerExit::Died { code, .. }) => exit::of_code(code),
                    Ok(ContainerExit::Removed) => {
                        SandboxExit::Other("removed from the container engine by another program".to_owned())
                    }
                    Ok(ContainerExit::CutOff) => {
                        SandboxExit::Other("taken out of its network by another program".to_owned())
                    }
                    Err(_) => SandboxExit::Other("no longer watched by the daemon".to_owned()),
                }
            },
            time::timeout(LAST_OUTPUT_TIMEOUT, output),
        );
        if let Some(lines) = hint {
            lines.note(URL_EXECUTED);
        }
        exit
    }

    /// Returns whether the kernel killed the container for its memory: by its cgroup, by the engine's state, as not every
    /// engine has an event for that, or by a late event. Some engines lose both under load: where the cgroup was not seen,
    /// the kill counts as one for memory if the host's kernel has ended anything for that since the start.
    async fn is_oom_kill(
        &self,
        code: Option<i64>,
        counted: task::JoinHandle<Option<bool>>,
        mut reported: watch::Receiver<bool>,
    ) -> bool {
        if code != Some(exit::KILLED) || self.killed.get() {
            return false;
        }
        // The process has exited.
        let counted = time::timeout(LATE_OOM_REPORT, counted).await.ok().and_then(Result::ok).flatten();
        if counted == Some(true) || self.reports_oom_kill().await {
            return true;
        }
        let reported = time::timeout(LATE_OOM_REPORT, reported.wait_for(|noticed| *noticed)).await;
        reported.is_ok_and(|noticed| noticed.is_ok())
            || (counted.is_none() && cgroup::host_oom_kills() > self.host_oom_kills)
    }

    async fn reports_oom_kill(&self) -> bool {
        let inspect = async |docker: Docker| docker.inspect_container(&self.id, None).await;
        let state = self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await.ok().and_then(|found| found.state);
        state.and_then(|state| state.oom_killed) == Some(true)
    }
}
