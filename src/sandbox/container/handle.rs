//! A container that runs: signalled, read from, and removed in the end.

use std::{cell::Cell, rc::Rc, time::Duration};

use bollard::{
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

use crate::sandbox::output_throttle::OutputThrottle;

use super::{
    engine::{Engine, QUICK},
    exit_watcher::ContainerExit,
    reaper::ContainerReaper,
};
use crate::state::JournalEntry;

/// How long the last output may take to be read once the container has ended: less than requests in flight wait for the
/// reason of the end.
const LAST_OUTPUT: Duration = Duration::from_millis(150);
/// What the engine reports for a process that a signal has ended is this much more than the signal's number.
const SIGNALLED: i64 = 128;
/// The highest number of a signal with a fixed meaning.
const LAST_SIGNAL: i64 = 31;
const SIGKILL: i64 = 9;

/// The hold on a container.
#[derive(Debug)]
pub struct ContainerHandle {
    pub container: Container,
    pub reaper: ContainerReaper,
    /// What its image wants to be asked to end with.
    pub stop_signal: String,
    /// Until it is being removed.
    pub entry: Option<JournalEntry>,
}

/// A container in its engine.
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
        // An actor panicked. The request cannot be made here, but it is made for as long as the daemon runs; after that,
        // the next one reads of it.
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
            let kill = async |docker: bollard::Docker| docker.kill_container(id, Some(options)).await;
            match container.engine.ask("kill", QUICK, kill).await {
                Ok(()) => {}
                // It has just ended.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => debug!(container.log, "signal was not delivered"; "signal" => signal, "error" => %error),
            }
        });
    }

    /// Moves everything that the container prints into the log, from its first line on, until it has ended.
    pub async fn collect(self, log: OutputLog) {
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

    /// Resolves when it has ended and its last lines have been read. `limit` is its memory in MiB.
    pub async fn exited(
        self,
        end: oneshot::Receiver<ContainerExit>,
        output: task::JoinHandle<()>,
        limit: u64,
    ) -> SandboxExit {
        let end = end.await;
        let (exit, _) = futures::join!(
            async {
                match end {
                    Ok(ContainerExit::Died { code, out_of_memory }) if out_of_memory || self.starved(code).await => {
                        SandboxExit::OutOfMemory { limit }
                    }
                    Ok(ContainerExit::Died { code, .. }) => exit(code),
                    Ok(ContainerExit::Removed) => {
                        SandboxExit::Other("removed from the container engine by somebody else".to_owned())
                    }
                    Ok(ContainerExit::CutOff) => {
                        SandboxExit::Other("taken out of its network by somebody else".to_owned())
                    }
                    Err(_) => SandboxExit::Other("no longer watched by the daemon".to_owned()),
                }
            },
            time::timeout(LAST_OUTPUT, output),
        );
        exit
    }

    /// Whether the kernel killed it for its memory: not every engine says so with an event of its own.
    async fn starved(&self, code: i64) -> bool {
        if code != SIGNALLED + SIGKILL || self.killed.get() {
            return false;
        }
        let inspect = async |docker: bollard::Docker| docker.inspect_container(&self.id, None).await;
        let state = self.engine.ask("inspect", QUICK, inspect).await.ok().and_then(|container| container.state);
        state.and_then(|state| state.oom_killed).unwrap_or(false)
    }
}

/// What an exit code says. As in a shell, a program that exits with 128 and a few by itself looks as if signalled.
fn exit(code: i64) -> SandboxExit {
    match (i32::try_from(code), i32::try_from(code - SIGNALLED)) {
        (_, Ok(signal)) if (1..=LAST_SIGNAL).contains(&signal.into()) => SandboxExit::Signal(signal),
        (Ok(code), _) => SandboxExit::Code(code),
        _ => SandboxExit::Other(format!("exited with status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_as_a_shell_does() {
        assert_eq!(exit(0), SandboxExit::Code(0));
        assert_eq!(exit(128), SandboxExit::Code(128));
        assert_eq!(exit(137), SandboxExit::Signal(9));
        assert_eq!(exit(143), SandboxExit::Signal(15));
        assert_eq!(exit(200), SandboxExit::Code(200));
        assert_eq!(exit(-1), SandboxExit::Code(-1));
        assert_eq!(exit(1 << 40), SandboxExit::Other("exited with status 1099511627776".to_owned()));
    }
}
