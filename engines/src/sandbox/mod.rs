//! Runs instances: the daemon's implementation of [`unifaas_actors::sandbox`].
//!
//! The spec chooses one engine per kind of sandbox: `process/` for child processes, `container/` for containers, `vm/` for
//! virtual machines. The engines share `callback.rs` (the callback address), `readiness/` (probes), `output_throttle.rs` (the rate at which output is read),
//! `pause_deadline.rs` (how long a pause may take), `ports.rs` (leases of local ports), `cgroup/` (limits, and the end of every process) and `reclaim.rs` (leftovers of an
//! earlier daemon). `state/` journals what exists outside the daemon.
//! The actors decide when to start and end instances.

mod callback;
mod cgroup;
mod container;
mod leftovers_log;
mod output_throttle;
mod pause_deadline;
mod ports;
mod process;
mod readiness;
mod reclaim;
mod vm;

use std::{io, net::SocketAddr, sync::Arc};

use futures::future::{self, LocalBoxFuture};
use slog::Logger;
use tokio::task;
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder, Launched, Sandboxes, SnapshotInfo},
    spec::{FunctionSpec, SandboxSpec},
};

use callback::Callback;
use cgroup::CgroupAllocator;
pub use cgroup::memory_limit;
use container::Containers;
pub use container::DEFAULT_ENGINE;
use ports::Ports;
pub use process::Credentials;
use process::{OrphanReaper, ProcessRuntime, Processes};
pub use vm::{FIRECRACKER, JAILER, Program, QEMU, probe_kvm};
use vm::{VmRuntime, VmSettings};

use crate::{
    host::function_peers::FunctionPeers,
    host::open_files,
    net::{NetError, Subnet},
    snapshot::SnapshotStore,
    spawner::Spawner,
    state::{Recovered, State},
};

/// Makes Python print at once. Otherwise it keeps its output until it has 8 KiB, as that is no terminal.
const UNBUFFERED: (&str, &str) = ("PYTHONUNBUFFERED", "1");

/// What the engines need from the daemon.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// The address range of virtual machines, if it was set on the command line.
    pub subnet: Option<Subnet>,
    /// How many taps are kept ready for virtual machines.
    pub tap_pool: usize,
    /// Records the networks and users of instances.
    pub peers: FunctionPeers,
    /// Another daemon shares the address range for a while.
    pub is_successor: bool,
    /// The snapshots of virtual machines, on disk.
    pub snapshots: Arc<SnapshotStore>,
}

/// All engines of this host.
#[derive(Clone)]
pub struct Engines {
    processes: Processes,
    spawner: Spawner,
    containers: Containers,
    vms: VmRuntime,
    cgroups: CgroupAllocator,
    snapshots: Arc<SnapshotStore>,
}

impl Engines {
    /// Prepares the engines, and logs once which features this host lacks.
    ///
    /// # Errors
    /// Returns the error of thread creation.
    ///
    /// # Panics
    /// Outside of an arbiter (or another tokio `LocalSet`).
    pub fn new(settings: EngineSettings, state: &State, log: &Logger) -> io::Result<Self> {
        let EngineSettings { callback, subnet, tap_pool, peers, is_successor, snapshots } = settings;
        let runtime = ProcessRuntime {
            ports: Ports::below_ephemeral(),
            cgroups: CgroupAllocator::set_up(state, log),
            journal: state.journal.clone(),
            spawner: Spawner::new(state, log)?,
            orphan_reaper: OrphanReaper::default(),
            peers: peers.clone(),
        };
        let vm_settings =
            VmSettings { subnet, tap_pool, callback, peers: peers.clone(), is_successor, snapshots: snapshots.clone() };
        Ok(Self {
            containers: Containers::new(callback, state, peers, log),
            vms: VmRuntime::new(vm_settings, runtime.clone(), state, log),
            cgroups: runtime.cgroups.clone(),
            snapshots,
            spawner: runtime.spawner.clone(),
            processes: Processes::new(Callback::local(callback), runtime),
        })
    }

    /// Removes what earlier daemons of the same state directory have left.
    pub async fn reclaim(&self, mut left: Recovered, state: &State, settings: &EngineSettings, log: &Logger) {
        if !left.damages.is_empty() {
            for orphan in self.cgroups.orphans(&state.identity()) {
                if let Ok(entry) = state.journal.record(orphan.clone()).await {
                    left.resources.push((entry, orphan));
                }
            }
        }
        let subnet = settings.subnet.unwrap_or(Subnet::DEFAULT);
        reclaim::run(left, &self.containers, &self.spawner, state, subnet, log).await;
    }

    /// Prepares for the end of the daemon: vanished container engines are no longer waited for.
    ///
    /// # Panics
    /// Outside of an arbiter (or another tokio `LocalSet`).
    pub fn shutdown(&self) {
        self.containers.shutdown();
    }

    /// Prepares the network that `functions` need, and reports whether it is available.
    pub async fn prepare(&self, functions: impl Iterator<Item = &FunctionSpec>) -> Result<(), NetError> {
        self.vms.prepare(functions).await
    }
}

impl Sandboxes for Engines {
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        if !open_files::suffice_for_start() {
            let why = "the daemon has too many open files (see `ulimit -n` or LimitNOFILE=)".to_owned();
            return Box::pin(future::ready(Err(LaunchError::Exhausted(why))));
        }
        let spec = order.spec.clone();
        match &spec.sandbox {
            SandboxSpec::Process(process) => self.processes.launch(order, process),
            SandboxSpec::Container(container) => self.containers.launch(order, container),
            SandboxSpec::Vm(vm) => self.vms.launch(order, vm),
        }
    }

    fn snapshot(&self, function: &str) -> Option<SnapshotInfo> {
        self.snapshots.of(function)
    }

    fn remove_snapshots(&self, function: &str) {
        let removed = self.snapshots.take_out(function);
        if !removed.is_empty() {
            task::spawn_blocking(move || drop(removed));
        }
    }
}
