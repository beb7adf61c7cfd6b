//! The `process` sandbox: an instance is a child process of the daemon, with nothing to install.
//!
//! It is no wall against hostile code, but it takes away what a function has no business with: the daemon's user,
//! environment, descriptors and session. `command.rs` says what is run, `user.rs` as whom; `spawn.rs` starts it, on a
//! thread of `spawner.rs`: `child.rs` makes the child, which does what `confine.rs` says and executes what `exec.rs` has
//! made ready. `sandbox.rs` is the running child, and `orphan_reaper.rs` ends what it leaves behind. The monitors of virtual
//! machines are started and held by the same runtime.

mod child;
mod command;
mod confine;
mod exec;
mod handle;
mod orphan_reaper;
mod spawn;
mod spawner;
#[cfg(test)]
mod tests;
mod user;

use std::{env, io, net::Ipv4Addr, path::Path};

use futures::future::LocalBoxFuture;
use nix::unistd::Uid;
use slog::debug;
use tokio::task;
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder, Launched, SandboxExit},
    spec::ProcessSpec,
};

use super::{
    Callback,
    cgroup::{CgroupAllocator, Group, ResourceLimits},
    ports::Ports,
};
use crate::{host::function_peers::FunctionPeers, state::Journal};
pub use command::{DEFAULT_PATH, Invocation, Placeholders};
pub use handle::{OwnedResources, ProcessHandle, pump_output};
pub use orphan_reaper::OrphanReaper;
pub use spawn::{Record, Spawn, Spawned, refused};
pub use spawner::Spawner;
pub use user::Credentials;

/// Everything that the start and the end of child processes need.
#[derive(Clone)]
pub struct ProcessRuntime {
    pub ports: Ports,
    pub cgroups: CgroupAllocator,
    pub journal: Journal,
    pub spawner: Spawner,
    pub orphan_reaper: OrphanReaper,
    pub peers: FunctionPeers,
}

/// The engine of the `process` sandbox.
#[derive(Clone)]
pub struct Processes {
    callback: Callback,
    runtime: ProcessRuntime,
}

impl Processes {
    /// Creates the engine. Instances call `callback`.
    pub fn new(callback: Callback, runtime: ProcessRuntime) -> Self {
        Self { callback, runtime }
    }

    /// Starts an instance.
    pub fn launch(
        &self,
        order: LaunchOrder,
        process: &ProcessSpec,
    ) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (engine, process) = (self.clone(), process.clone());
        Box::pin(async move { engine.start(order, &process).await })
    }

    async fn start(&self, order: LaunchOrder, process: &ProcessSpec) -> Result<Launched, LaunchError> {
        let credentials = self.credentials(process.user.clone()).await?;
        let ProcessRuntime { ports, cgroups, journal, orphan_reaper, peers, .. } = &self.runtime;
        if let Some(user) = credentials.as_ref().filter(|user| user.uid != Uid::effective()) {
            peers.add_user(user.uid.as_raw());
        }
        let port = ports
            .lease()
            .ok_or_else(|| LaunchError::Exhausted("every local port for instances is in use".to_owned()))?;
        let placeholders = Placeholders {
            ip: Ipv4Addr::LOCALHOST.to_string(),
            port: port.port().to_string(),
            callback: format!("http://{}/ready/{}", self.callback.address, order.token.reveal()),
            daemon: Placeholders::daemon(),
        };
        let invocation = Invocation::new(&order, process, &placeholders, env::var_os("PATH").as_deref());
        let record = Record::begin(journal, order.instance.to_string()).await?;
        let limits = ResourceLimits { memory: process.memory, pids: process.pids_limit };
        let (program, directory, user) =
            (invocation.program.clone(), order.spec.directory.clone(), credentials.clone());

        let spawn = Spawn::new(invocation, directory.clone(), credentials);
        let spawn = spawn.file_size(process.file_size).port(port.port());
        let spawned = self.runtime.start(spawn, limits, record).await;
        let Spawned { child, output, group, record } =
            spawned.map_err(|error| spawn::refused(refusal(&program, &directory, &error), &error))?;
        let pid = child.pid();
        let address = (Ipv4Addr::LOCALHOST, port.port()).into();
        let resources: Vec<String> = [format!("port {address}")]
            .into_iter()
            .chain(group.iter().flat_map(Group::labels).map(|label| format!("cgroup {label}")))
            .collect();
        debug!(order.log, "process started"; "pid" => pid.as_raw(), "address" => %address);

        let (lines, spec) = (order.output.clone(), order.spec.clone());
        let output = task::spawn_local(pump_output(output, order.output));
        let owned = OwnedResources {
            group,
            cgroups: cgroups.clone(),
            record,
            orphan_reaper: orphan_reaper.clone(),
            port: Some(port),
        };
        let (handle, exited) = ProcessHandle::new(child, output, process.memory, owned);
        Ok(Launched {
            address,
            callback_source: self.callback.source,
            sandbox: Box::new(handle),
            exited: Box::pin(async move {
                let exit =
                    exited.await.unwrap_or_else(|_| SandboxExit::Other("the daemon no longer watches it".to_owned()));
                if let (SandboxExit::Code(1..), Some(user)) = (&exit, user)
                    && let Some(denied) = user.first_denied_dir(&spec.directory)
                {
                    lines.write(access_hint(&user, &denied).as_bytes());
                }
                exit
            }),
            pid: u32::try_from(pid.as_raw()).ok(),
            engine_id: None,
            resources,
        })
    }

    async fn credentials(&self, wanted: Option<String>) -> Result<Option<Credentials>, LaunchError> {
        match wanted {
            None => Credentials::of(None, Uid::effective()),
            // A name lookup may ask a directory server.
            Some(user) => self.runtime.spawner.run(move || Credentials::of(Some(&user), Uid::effective())).await,
        }
    }
}

/// Explains to the author of a function why its command could not be started.
fn refusal(program: &Path, directory: &Path, error: &io::Error) -> String {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let hint = match program.components().count() {
        _ if missing && !directory.is_dir() => ", the function's directory does not exist",
        // A PATH directory that the function's user cannot enter hides that there is no such program.
        1 if error.kind() == io::ErrorKind::PermissionDenied => {
            ": PATH has no such program that the user of the function may execute"
        }
        1 => ", looked for in PATH",
        _ if missing && directory.join(program).exists() => ", its interpreter or loader is missing",
        _ => "",
    };
    format!("cannot start {}: {error}{hint}", program.display())
}

/// Returns a last line of output for a function that failed and may not have found its own files.
fn access_hint(user: &Credentials, denied: &Path) -> String {
    format!("unifaas: user {} cannot enter {}: nothing below is found by its full path\n", user.uid, denied.display())
}
