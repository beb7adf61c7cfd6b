//! The `process` sandbox: an instance is a child process of the daemon, with nothing to install.
//!
//! It is no wall against hostile code, but it takes away what a function has no business with: the daemon's user,
//! environment, descriptors and session. `command.rs` says what is run, `user.rs` as whom; `spawn.rs` starts it: `child.rs`
//! makes the child, which does what `confine.rs` says and executes what `exec.rs` has made ready. `guest.rs` is the running
//! child, and `stragglers.rs` ends what it leaves behind. The monitors of virtual machines are started and held by the
//! same means.

mod child;
mod command;
mod confine;
mod exec;
mod guest;
mod spawn;
mod stragglers;
#[cfg(test)]
mod tests;
mod user;

use std::{env, io, net::Ipv4Addr, path::Path};

use nix::unistd::Uid;
use slog::debug;
use tokio::task;
use unifaas_actors::{
    sandbox::{GuestExit, LaunchError, LaunchOrder, Launched},
    spec::ProcessSpec,
};

use super::{
    Callback,
    cgroup::{Allowance, Group, Limits},
    ports::Ports,
};
use crate::{neighbours::Neighbours, open_files::is_exhaustion, state::Journal};
pub use command::{DEFAULT_PATH, Facts, Invocation};
pub use guest::{Holds, ProcessGuest, collect};
pub use spawn::{Record, Spawn, Spawned};
pub use stragglers::Stragglers;
pub use user::Credentials;

/// What it takes to start child processes.
#[derive(Clone)]
pub struct Means {
    pub ports: Ports,
    pub limits: Limits,
    pub journal: Journal,
    pub stragglers: Stragglers,
    pub neighbours: Neighbours,
}

/// Starts processes.
#[derive(Clone)]
pub struct Processes {
    callback: Callback,
    means: Means,
}

impl Processes {
    /// An engine that leases ports and limits memory as told.
    pub fn new(callback: Callback, means: Means) -> Self {
        Self { callback, means }
    }

    /// Starts one. Blocks until it executes: the parent-death signal of a child is tied to the *thread* that made it,
    /// so that must be the thread of the actors, which lives as long as the daemon, and none of a pool.
    pub fn launch(&self, order: LaunchOrder, process: &ProcessSpec) -> Result<Launched, LaunchError> {
        let credentials = Credentials::of(process.user.as_deref(), Uid::effective())?;
        let Means { ports, limits, journal, stragglers, neighbours } = &self.means;
        if let Some(user) = credentials.as_ref().filter(|user| user.uid != Uid::effective()) {
            neighbours.add_user(user.uid.as_raw());
        }
        let port = ports
            .lease()
            .ok_or_else(|| LaunchError::Exhausted("every local port for instances is in use".to_owned()))?;
        let facts = Facts {
            ip: Ipv4Addr::LOCALHOST.to_string(),
            port: port.port().to_string(),
            callback: format!("http://{}/ready/{}", self.callback.address, order.token.reveal()),
            daemon: Facts::daemon(),
        };
        let invocation = Invocation::new(&order, process, &facts, env::var_os("PATH").as_deref());
        let instance = order.instance.to_string();
        let record = Record::begin(journal, instance.clone())?;
        let group = limits.group(&instance, Allowance { memory: process.memory, pids: process.pids_limit });
        let directory = &order.spec.directory;
        let user = credentials.clone();

        let spawn = Spawn::new(&invocation, directory, credentials).file_size(process.file_size);
        let spawned = spawn.run(group.as_ref(), record);
        let Spawned { child, output, record } =
            spawned.map_err(|error| match refusal(&invocation, directory, &error) {
                why if is_exhaustion(&error) => LaunchError::Exhausted(why),
                why => LaunchError::Refused(why),
            })?;
        let pid = child.pid();
        let address = (Ipv4Addr::LOCALHOST, port.port()).into();
        let resources: Vec<String> = [format!("port {address}")]
            .into_iter()
            .chain(group.iter().flat_map(Group::labels).map(|label| format!("cgroup {label}")))
            .collect();
        debug!(order.log, "process started"; "pid" => pid.as_raw(), "address" => %address);

        let (lines, spec) = (order.output.clone(), order.spec.clone());
        let output = task::spawn_local(collect(output, order.output));
        let holds = Holds { group, record, stragglers: stragglers.clone(), port: Some(port) };
        let (guest, exited) = ProcessGuest::new(child, output, process.memory, holds);
        Ok(Launched {
            address,
            callback_source: self.callback.source,
            guest: Box::new(guest),
            exited: Box::pin(async move {
                let exit =
                    exited.await.unwrap_or_else(|_| GuestExit::Other("no longer watched by the daemon".to_owned()));
                if let (GuestExit::Code(1..), Some(user)) = (&exit, user)
                    && let Some(barrier) = user.barrier(&spec.directory)
                {
                    lines.write(hint(&user, &barrier).as_bytes());
                }
                exit
            }),
            pid: u32::try_from(pid.as_raw()).ok(),
            engine_id: None,
            resources,
        })
    }
}

/// Why the command could not be started, for whoever wrote it.
fn refusal(invocation: &Invocation, directory: &Path, error: &io::Error) -> String {
    let program = &invocation.program;
    let missing = error.kind() == io::ErrorKind::NotFound;
    let hint = match program.components().count() {
        _ if missing && !directory.is_dir() => ", the function's directory is gone",
        // A directory of the daemon's PATH that the function's user may not enter hides that there is no such program.
        1 if error.kind() == io::ErrorKind::PermissionDenied => {
            ": it was looked for in PATH, and is not there or not for the user that the function runs as"
        }
        1 => ", looked for in PATH",
        _ if missing && directory.join(program).exists() => ", its interpreter or loader is missing",
        _ => "",
    };
    format!("cannot start {}: {error}{hint}", program.display())
}

/// A last line for the output of a function that failed where it may not have found its own files.
fn hint(user: &Credentials, barrier: &Path) -> String {
    let barrier = barrier.display();
    format!("unifaas: user {} cannot enter {barrier}: nothing below is found by its full path\n", user.uid)
}
