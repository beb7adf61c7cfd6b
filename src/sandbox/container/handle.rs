//! A running container: its signals, its output, its exit and its removal.

use std::{cell::Cell, rc::Rc, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder},
};
use futures::{StreamExt, future::LocalBoxFuture};
use slog::{Logger, debug};
use tokio::{sync::oneshot, task, time};
use unifaas_actors::{
    OutputLog,
    sandbox::{ReclaimError, SandboxExit, SandboxHandle},
};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    exit::{self, ContainerExit},
    reaper::ContainerReaper,
};
use crate::{sandbox::output_throttle::OutputThrottle, state::JournalEntry};

/// How long the last output may take to be read after the exit: less than requests in flight wait for the exit's
/// reason.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(150);

/// The handle of a container.
#[derive(Debug)]
pub struct ContainerHandle {
    pub container: Container,
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
    /// Whether the daemon has killed it.
    pub killed: Rc<Cell<bool>>,
    pub log: Logger,
}

impl SandboxHandle for ContainerHandle {
    fn terminate(&mut self) {
        self.container.signal(self.stop_signal.clone());
    }

    fn kill(&mut self) {
        self.container.killed.set(true);
        self.container.signal("SIGKILL".to_owned());
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        self.container.killed.set(true);
        Box::pin(async move {
            let entry = self.entry.take();
            self.reaper.remove(&self.container.id, entry).await;
            Ok(())
        })
    }
}

impl Drop for ContainerHandle {
    fn drop(&mut self) {
        // An actor panicked. The reaper removes the container, or the next daemon does.
        if let Some(entry) = self.entry.take() {
            self.container.killed.set(true);
            self.reaper.discard(&self.container.id, entry);
        }
    }
}

impl Container {
    fn signal(&self, signal: String) {
        let container = self.clone();
        task::spawn_local(async move {
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

    /// Copies everything that the container prints into the log, from its first line until its exit.
    pub async fn pump_output(self, log: OutputLog) {
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
        let Ok(docker) = self.engine.client().await else { return };
        let mut output = docker.logs(&self.id, Some(options));
        let mut unfinished = false;
        let mut throttle = OutputThrottle::new();
        while let Some(Ok(output)) = output.next().await {
            let (LogOutput::StdOut { message } | LogOutput::StdErr { message } | LogOutput::Console { message }) =
                output
            else {
                continue;
            };
            log.write(&message);
            unfinished = !message.ends_with(b"\n");
            throttle.after_read(message.len()).await;
        }
        if unfinished {
            log.write(b"\n");
        }
    }

    /// Waits for the exit and for the last lines. `limit` is the container's memory in MiB.
    pub async fn exited(
        self,
        exit: oneshot::Receiver<ContainerExit>,
        output: task::JoinHandle<()>,
        limit: u64,
    ) -> SandboxExit {
        let exit = exit.await;
        let (exit, _) = futures::join!(
            async {
                match exit {
                    Ok(ContainerExit::Died { code, out_of_memory })
                        if out_of_memory || self.is_oom_kill(code).await =>
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
        exit
    }

    /// Asks the engine whether the kernel killed the container for its memory: not every engine has an event for that.
    async fn is_oom_kill(&self, code: i64) -> bool {
        if code != exit::KILLED || self.killed.get() {
            return false;
        }
        let inspect = async |docker: Docker| docker.inspect_container(&self.id, None).await;
        let state = self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await.ok().and_then(|found| found.state);
        state.and_then(|state| state.oom_killed).unwrap_or(false)
    }
}
