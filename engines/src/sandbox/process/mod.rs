//! The `process` sandbox: an instance is a process of this host, with nothing to install.
//!
//! It does not isolate hostile code, but takes the daemon's user, environment, descriptors and session from a function.
//!
//! - `command.rs`: the command; `user.rs`: its user and groups.
//! - `spawn.rs`: the start, by the process of `spawner/`; `syscalls/steps.rs` confines a child.
//! - `supervise.rs`: a running child; `handle.rs`: the same child as the actors own it.
//! - `pause.rs`: how a child is paused; `footprint.rs`: the memory that it holds then.
//! - `orphan_reaper.rs`: kills what a child leaves behind where no cgroup contains it.
//!
//! The VMMs of `../vm/` are started and owned in the same way.

mod command;
mod footprint;
mod handle;
mod orphan_reaper;
mod pause;
mod spawn;
mod supervise;
#[cfg(test)]
mod tests;
mod user;

use std::{
    cell::Cell,
    env, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    rc::Rc,
};

use futures::future::LocalBoxFuture;
use rustix::thread::CapabilitySet;
use slog::{Logger, debug, warn};
use tokio::task;
use unifaas_actors::{
    Phase,
    sandbox::{InstanceNetwork, LaunchError, LaunchOrder, Launched, SandboxExit},
    spec::ProcessSpec,
};

use super::{
    Callback,
    cgroup::{CgroupAllocator, ResourceLimits, cpu_quota},
    ports::Ports,
    readiness::{Place, Probe, Sockets, Target},
};
use crate::{
    host::{function_peers::FunctionPeers, privileges::Privileges},
    spawner::{Invocation, Spawner},
    state::Journal,
};
pub use command::Placeholders;
pub use footprint::proportional_set_size;
pub use handle::ProcessHandle;
pub use orphan_reaper::OrphanReaper;
pub use spawn::{ProcessRecord, SpawnRequest, StartError, Started};
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
    /// Whether the log says that processes run as root.
    logged_root: Rc<Cell<bool>>,
}

impl Processes {
    /// Creates the engine. Instances call `callback`.
    pub fn new(callback: Callback, runtime: ProcessRuntime) -> Self {
        Self { callback, runtime, logged_root: Rc::default() }
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
        let daemon = Privileges::own();
        let credentials = self.credentials(process.user.clone(), daemon, &order.log).await?;
        let ProcessRuntime { ports, journal, peers, .. } = &self.runtime;
        if let Some(user) = credentials.as_ref().filter(|user| user.uid != daemon.user) {
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
        let record = ProcessRecord::begin(journal, order.instance.to_string()).await?;
        order.clock.mark(Phase::Resources);
        let freezable = !order.spec.keep_paused.is_zero();
        let cpu_quota = process.cpus.map(cpu_quota);
        let limits = ResourceLimits { memory: process.memory, pids: process.pids_limit, cpu_quota, freezable };
        let (program, directory) = (invocation.program.clone(), order.spec.directory.clone());

        let mut request = SpawnRequest::new(invocation, directory.clone(), credentials.as_ref());
        request = request.file_size(process.file_size);
        if process.user.is_none() {
            request = request.capabilities(CapabilitySet::empty());
        }
        let started = self.runtime.start(request, limits, record, order.output.clone(), &order.clock).await;
        let Started { mut handle, exited, pid, cgroups, memory_usage } = started.map_err(|error| {
            let why = error.describe(&program) + hint(&program, &directory, &error);
            error.into_launch_error(why)
        })?;
        let pid = u32::try_from(pid.as_raw()).ok();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let prober = Probe::new(Target {
            route: address.into(),
            // `localhost` may mean either.
            alternative: Some((Ipv6Addr::LOCALHOST, port.port()).into()),
            readiness: order.spec.readiness.clone(),
            place: Place::Process,
            sockets: Sockets::OfProcess { instance: order.instance, leader: pid },
        });
        handle.keep_port(port);
        let resources = [format!("port {address}")].into_iter();
        let resources = resources.chain(cgroups.iter().map(|label| format!("cgroup {label}"))).collect();
        debug!(order.log, "process started"; "pid" => pid, "address" => %address);

        let (lines, spec) = (order.output, order.spec);
        Ok(Launched {
            restored: false,
            network: Some(InstanceNetwork { address, callback_source: self.callback.source, prober }),
            sandbox: Box::new(handle),
            exited: Box::pin(async move {
                let exit =
                    exited.await.unwrap_or_else(|_| SandboxExit::Other("the daemon no longer watches it".to_owned()));
                if let (SandboxExit::Code(1..), Some(user)) = (&exit, credentials)
                    && let Some(denied) = user.first_denied_dir(&spec.directory)
                {
                    lines.note(&access_hint(&user, &denied));
                }
                exit
            }),
            pid,
            engine_id: None,
            resources,
            memory_usage,
        })
    }

    /// Returns the user of a function, `None` for the daemon's. The default one is `nobody` if the daemon can change users.
    async fn credentials(
        &self,
        wanted: Option<String>,
        daemon: &'static Privileges,
        log: &Logger,
    ) -> Result<Option<Credentials>, LaunchError> {
        let Some(user) = wanted else {
            let unprivileged = Credentials::unprivileged();
            return Ok(match unprivileged.check(daemon) {
                Ok(()) => Some(unprivileged),
                Err(why) => {
                    if daemon.user.is_root() && !self.logged_root.replace(true) {
                        warn!(log, "processes run as root, without capabilities"; "why" => %why);
                    }
                    None
                }
            });
        };
        // A name lookup may ask a directory server.
        let named = task::spawn_blocking(move || Credentials::of(&user, daemon)).await;
        named.unwrap_or_else(|error| Err(LaunchError::Refused(format!("the look-up of a user: {error}"))))
    }
}

/// Returns what the author of a function may have to change, for an error message.
fn hint(program: &Path, directory: &Path, error: &StartError) -> &'static str {
    let missing = error.kind() == io::ErrorKind::NotFound;
    match program.components().count() {
        _ if missing && !directory.is_dir() => ", the function's directory does not exist",
        _ if !error.is_of_program() => "",
        // A PATH directory that the function's user cannot enter hides that there is no such program.
        1 if error.kind() == io::ErrorKind::PermissionDenied => {
            ": PATH has no such program that the user of the function may execute"
        }
        1 if missing => ", looked for in PATH",
        _ if missing && directory.join(program).exists() => ", its interpreter or loader is missing",
        _ => "",
    }
}

/// Returns a last line of output for a function that failed and may not have found its own files.
fn access_hint(user: &Credentials, denied: &Path) -> String {
    format!("user {} cannot enter {}: nothing below is found by its full path", user.uid, denied.display())
}
