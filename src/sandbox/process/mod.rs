//! The `process` sandbox: an instance is a child process of the daemon, with nothing to install.
//!
//! It is no wall against hostile code, but it takes away what a function has no business with: the daemon's user,
//! environment, descriptors and session. `command.rs` says what is run, `user.rs` as whom, `confine.rs` what happens
//! between fork and exec, `guest.rs` is the running child.

mod command;
mod confine;
mod guest;
#[cfg(test)]
mod tests;
mod user;

use std::{cell::Cell, env, io, net::Ipv4Addr, path::Path, process::Stdio};

use nix::unistd::{self, Pid, Uid};
use slog::{Logger, debug, warn};
use tokio::{net::unix::pipe, process::Command, task};
use unifaas_actors::{
    sandbox::{GuestExit, LaunchError, LaunchOrder, Launched},
    spec::ProcessSpec,
};

use super::{
    Callback,
    cgroup::{Cgroups, Group},
    ports::Ports,
};
use command::{Facts, Invocation};
use confine::Confinement;
use guest::ProcessGuest;
use user::Credentials;

/// Starts processes.
pub struct Processes {
    callback: Callback,
    ports: Ports,
    cgroups: Option<Cgroups>,
    /// Whether a missing limit has been logged.
    warned: Cell<bool>,
    log: Logger,
}

impl Processes {
    /// Prepares ports and cgroups.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn new(callback: Callback, log: &Logger) -> Self {
        let mut engine = Self {
            callback,
            ports: Ports::below_ephemeral(),
            cgroups: None,
            warned: Cell::new(false),
            log: log.clone(),
        };
        match Cgroups::set_up() {
            Ok(cgroups) => {
                let leftovers = cgroups.leftovers();
                if !leftovers.is_empty() {
                    debug!(log, "removing cgroups of an earlier daemon"; "count" => leftovers.len());
                    task::spawn_local(async move {
                        for group in leftovers {
                            let _ = group.remove().await;
                        }
                    });
                }
                engine.cgroups = Some(cgroups);
            }
            Err(error) => engine.warn_unlimited(&error),
        }
        engine
    }

    /// Starts one. Blocks for fork and exec: the parent-death signal of a child is tied to the *thread* that forked it,
    /// so that must be the thread of the actors, which lives as long as the daemon, and none of a pool.
    pub fn launch(&self, order: LaunchOrder, process: &ProcessSpec) -> Result<Launched, LaunchError> {
        let credentials = Credentials::of(process.user.as_deref(), Uid::effective())?;
        let port = self
            .ports
            .lease()
            .ok_or_else(|| LaunchError::Exhausted("every local port for instances is in use".to_owned()))?;
        let facts = Facts {
            ip: Ipv4Addr::LOCALHOST.to_string(),
            port: port.port().to_string(),
            callback: format!("http://{}/ready/{}", self.callback.address, order.token.reveal()),
            daemon: Facts::daemon(),
        };
        let invocation = Invocation::new(&order, process, &facts, env::var_os("PATH").as_deref());
        let group = self.group(&order, process.memory);
        let directory = &order.spec.directory;
        let hint = credentials.as_ref().and_then(|user| Some(hint(user, &user.barrier(directory)?)));

        let spawned = spawn(&invocation, directory, credentials, group.as_ref());
        let (child, pid, output) =
            spawned.map_err(|error| LaunchError::Refused(refusal(&invocation, directory, &error)))?;
        let address = (Ipv4Addr::LOCALHOST, port.port()).into();
        let resources: Vec<String> = [format!("port {address}")]
            .into_iter()
            .chain(group.iter().flat_map(Group::labels).map(|label| format!("cgroup {label}")))
            .collect();
        debug!(order.log, "process started"; "pid" => pid.as_raw(), "address" => %address);

        let lines = order.output.clone();
        let output = task::spawn_local(guest::collect(output, order.output));
        let (guest, exited) = ProcessGuest::new(child, pid, output, group, process.memory, port);
        Ok(Launched {
            address,
            callback_source: self.callback.source,
            guest: Box::new(guest),
            exited: Box::pin(async move {
                let exit =
                    exited.await.unwrap_or_else(|_| GuestExit::Other("no longer watched by the daemon".to_owned()));
                if let (GuestExit::Code(1..), Some(hint)) = (&exit, hint) {
                    lines.write(hint.as_bytes());
                }
                exit
            }),
            pid: u32::try_from(pid.as_raw()).ok(),
            engine_id: None,
            resources,
        })
    }

    fn group(&self, order: &LaunchOrder, memory: u64) -> Option<Group> {
        let made = self.cgroups.as_ref()?.group(&order.instance.to_string(), memory);
        made.inspect_err(|error| self.warn_unlimited(error)).ok()
    }

    fn warn_unlimited(&self, error: &io::Error) {
        if !self.warned.replace(true) {
            warn!(self.log, "processes run without memory limit: no cgroup can be made for them"; "error" => %error);
        }
    }
}

/// Starts the command in `directory`; its output and its errors go into one pipe, so that their order is kept.
fn spawn(
    invocation: &Invocation,
    directory: &Path,
    credentials: Option<Credentials>,
    group: Option<&Group>,
) -> io::Result<(tokio::process::Child, Pid, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    if let Some(credentials) = &credentials {
        // So that the function can open /dev/stdout.
        unistd::fchown(&writer, Some(credentials.uid), Some(credentials.gid))?;
    }
    let doors = group.map(Group::doors).transpose()?.unwrap_or_default();
    let mut command = Command::new(&invocation.program);
    command
        .arg0(&invocation.name)
        .args(&invocation.arguments)
        .env_clear()
        .envs(invocation.env.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    Confinement::new(credentials, doors).apply_to(&mut command);
    let output = pipe::Receiver::from_owned_fd(reader.into())?;
    let child = command.spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
    Ok((child, Pid::from_raw(pid), output))
}

/// Why the command could not be started, for whoever wrote it.
fn refusal(invocation: &Invocation, directory: &Path, error: &io::Error) -> String {
    let program = &invocation.program;
    let missing = error.kind() == io::ErrorKind::NotFound;
    let hint = match program.components().count() {
        _ if missing && !directory.is_dir() => ", the function's directory is gone",
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
