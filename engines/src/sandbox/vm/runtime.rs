//! Launches virtual machines: acquires what a VMM needs, starts it, and reports its exit.

use std::{cell::Cell, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;
use slog::{Logger, debug, info, warn};
use tokio::{sync::OnceCell, task, time};
use unifaas_actors::{
    Phase,
    sandbox::{InstanceNetwork, LaunchError, LaunchOrder, Launched, RestoreError, SandboxExit},
    spec::{Accel, FunctionSpec, Hypervisor, Readiness, SandboxSpec, VmNetwork, VmSpec, has_placeholder},
};

use super::{
    accel,
    attachment::{self, GuestNetConfig, NetAttachment},
    callback_relay::CallbackRelay,
    clone,
    exit_reason::{self, LastLines, Vmm},
    firecracker_api::FirecrackerApi,
    handle::VmHandle,
    plan::{Plan, Planner},
    plan_snapshot::SnapshotUse,
    qemu::Accelerator,
    qmp::QmpClient,
    run_as::RunAs,
    template::{Monitor, Template},
};
use crate::{
    host::{function_peers::FunctionPeers, privileges::Privileges},
    net::{self, Mark, NetError, Network, Subnet, TapKind, TapLease},
    sandbox::{
        callback::Callback,
        cgroup::ResourceLimits,
        process::{ProcessRecord, ProcessRuntime, SpawnRequest, StartError, Started},
        readiness::{Place, Probe, Sockets, Target},
    },
    snapshot::SnapshotStore,
    state::State,
};

/// Memory of the VMM beside the guest's own, in MiB. QEMU's includes translated code.
const FIRECRACKER_OVERHEAD: u64 = 64;
const QEMU_OVERHEAD: u64 = 256;
/// Maximum number of threads of a VMM: one for each CPU of the guest, and others for input and output.
const MAX_THREADS: u32 = 512;
/// Number of output lines that are searched for an error message.
const SEARCHED_LINES: usize = 40;
/// How long reading the exit reason may take once QEMU has ended.
const EXIT_REASON_TIMEOUT: Duration = Duration::from_millis(20);

/// What the runtime is made from.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// The range of the guests' addresses, if one was given.
    pub subnet: Option<Subnet>,
    /// Number of taps that are kept prepared.
    pub tap_pool: usize,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// Gets the addresses and users of guests.
    pub peers: FunctionPeers,
    /// Another daemon shares the range for a while.
    pub is_successor: bool,
    pub snapshots: Arc<SnapshotStore>,
}

/// Starts virtual machines.
#[derive(Clone)]
pub struct VmRuntime(Rc<Inner>);

struct Inner {
    settings: VmSettings,
    network: Network,
    runtime: ProcessRuntime,
    /// The directory with the files of all instances.
    instances: PathBuf,
    kvm: OnceCell<bool>,
    /// Whether the log says that VMMs run as root.
    logged_root: Cell<bool>,
    log: Logger,
}

impl VmRuntime {
    /// Creates the runtime; the host's network is not touched yet.
    pub fn new(settings: VmSettings, runtime: ProcessRuntime, state: &State, log: &Logger) -> Self {
        let network = net::Settings {
            subnet: settings.subnet.unwrap_or(Subnet::DEFAULT),
            pool: settings.tap_pool,
            tap_group: RunAs::group(Privileges::own()).as_raw(),
            callback: settings.callback,
            is_shared: settings.is_successor,
            mark: Mark::new(state.mark()),
            journal: state.journal.clone(),
            spawner: runtime.spawner.clone(),
        };
        let network = Network::new(network, log);
        let (kvm, logged_root, instances) = (OnceCell::new(), Cell::new(false), state.instances());
        Self(Rc::new(Inner { settings, network, runtime, instances, kvm, logged_root, log: log.clone() }))
    }

    /// Prepares the network if `functions` need it. A range that other interfaces or routes use is an error. Every other
    /// obstacle, another daemon included, is logged, and fails only the starts of these functions.
    pub async fn prepare(&self, functions: impl Iterator<Item = &FunctionSpec>) -> Result<(), NetError> {
        let inner = &self.0;
        let mut vms = functions.filter_map(|spec| match &spec.sandbox {
            SandboxSpec::Vm(vm) => Some(vm),
            _ => None,
        });
        if !vms.any(|vm| vm.network == VmNetwork::Tap) {
            // An explicit range is checked at start, even if no function needs it yet.
            return if inner.settings.subnet.is_some() { inner.network.check().await } else { Ok(()) };
        }
        match inner.network.open().await {
            Err(error @ NetError::Conflict { daemon: false, .. }) => Err(error),
            Err(error) => {
                warn!(inner.log, "virtual machines cannot be started"; "error" => %error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Starts a virtual machine.
    pub fn launch(&self, order: LaunchOrder, vm: &VmSpec) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (inner, vm) = (self.0.clone(), vm.clone());
        Box::pin(async move { inner.launch(order, &vm).await })
    }
}

impl Inner {
    async fn launch(&self, order: LaunchOrder, vm: &VmSpec) -> Result<Launched, LaunchError> {
        let record = ProcessRecord::begin(&self.runtime.journal, order.instance.to_string()).await?;
        match self.prepare(&order, vm).await {
            Ok(prepared) => self.start(order, vm, prepared, record).await,
            Err(error) => {
                record.remove();
                Err(error)
            }
        }
    }

    /// Acquires everything that a VMM needs before it is started.
    async fn prepare(&self, order: &LaunchOrder, vm: &VmSpec) -> Result<Prepared, LaunchError> {
        let token = order.token.reveal();
        let (attachment, guest) = match vm.network {
            VmNetwork::Tap if vm.snapshot.is_some() => {
                let callback = Callback::local(self.settings.callback);
                let tap = self.acquire(TapKind::Clone).await?;
                let guest = GuestNetConfig::on_clone_tap(&tap, order.spec.port, callback, &token);
                let relay = CallbackRelay::listen(&tap, callback.address)
                    .map_err(|error| LaunchError::Refused(format!("the callback listener on {}: {error}", tap.name)))?;
                (NetAttachment::CloneTap { tap, relay: Some(relay) }, guest)
            }
            VmNetwork::Tap => {
                let needs_callback =
                    order.spec.readiness == Readiness::Callback || has_placeholder(&vm.cmdline, "callback");
                attachment::check_callback(self.settings.callback, needs_callback)?;
                let tap = self.acquire(if vm.egress { TapKind::Open } else { TapKind::Closed }).await?;
                let guest = GuestNetConfig::on_tap(tap.link, order.spec.port, self.settings.callback, &token);
                (NetAttachment::Tap(tap), guest)
            }
            VmNetwork::User => {
                let exhausted = || LaunchError::Exhausted("every local port for instances is in use".to_owned());
                let port = self.runtime.ports.lease().ok_or_else(exhausted)?;
                let guest =
                    GuestNetConfig::in_user_network(port.port(), Callback::local(self.settings.callback), &token);
                (NetAttachment::User(port), guest)
            }
        };
        let accelerator = match &vm.hypervisor {
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => self.accelerator(qemu.accel).await,
            Hypervisor::Firecracker { .. } => Accelerator::Kvm,
        };
        let tap = attachment.tap().map(|tap| (tap.name.clone(), tap.link));
        let planner = Planner {
            instance: order.instance,
            purpose: order.purpose,
            spec: order.spec.clone(),
            vm: vm.clone(),
            tap,
            guest: guest.clone(),
            instances: self.instances.clone(),
            callback: Callback::local(self.settings.callback),
            accelerator,
            snapshots: self.settings.snapshots.clone(),
            clock: order.clock.clone(),
        };
        let planned = task::spawn_blocking(move || planner.plan()).await;
        let plan = planned.unwrap_or_else(|error| Err(LaunchError::Refused(format!("the plan: {error}"))))?;
        order.clock.mark(Phase::Created);
        self.note_user(&plan.run_as);
        let qmp = (plan.vmm == Vmm::Qemu).then(QmpClient::listen).transpose().map_err(|error| {
            let error = StartError::at("stdin")(error);
            let why = error.describe(&plan.invocation.program);
            error.into_launch_error(why)
        })?;
        Ok(Prepared { attachment, guest, plan, qmp })
    }

    /// Leases a tap.
    async fn acquire(&self, kind: TapKind) -> Result<TapLease, LaunchError> {
        let tap = self.network.acquire(kind).await?;
        let subnet = self.settings.subnet.unwrap_or(Subnet::DEFAULT);
        self.settings.peers.add_network("virtual machines", vec![subnet.into()]);
        Ok(tap)
    }

    /// Reports the user of a VMM: in the log if it is root, and to the table of peers.
    fn note_user(&self, run_as: &RunAs) {
        let daemon = Privileges::own().user;
        let obstacle = run_as.obstacle.as_ref().filter(|_| daemon.is_root());
        if let Some(why) = obstacle.filter(|_| !self.logged_root.replace(true)) {
            info!(self.log, "VMMs run as root, with the capabilities for file access only"; "why" => %why);
        }
        if let Some(user) = run_as.credentials.as_ref().filter(|user| user.uid != daemon) {
            // Connections of a guest in a user-mode network come from the user of its VMM.
            self.settings.peers.add_user(user.uid.as_raw());
        }
    }

    async fn start(
        &self,
        order: LaunchOrder,
        vm: &VmSpec,
        prepared: Prepared,
        record: ProcessRecord,
    ) -> Result<Launched, LaunchError> {
        let Prepared { attachment, guest, plan, qmp } = prepared;
        let Plan { vmm, invocation, working_directory, run_as, files, disk, snapshot, api } = plan;
        let overhead = if vmm == Vmm::Qemu { QEMU_OVERHEAD } else { FIRECRACKER_OVERHEAD };
        let memory = vm.memory + overhead;
        let freezable = !order.spec.keep_paused.is_zero();
        let limits = ResourceLimits { memory, pids: MAX_THREADS, cpu_quota: None, freezable };
        let program = invocation.program.clone();
        let mut request = SpawnRequest::new(invocation, working_directory, run_as.credentials.as_ref());
        request = request.capabilities(run_as.capabilities).console();
        let qmp = qmp.map(|(stdin, client)| {
            request.stdin(stdin);
            client
        });
        let started = self.runtime.start(request, limits, record, order.output.clone(), &order.clock).await;
        let Started { handle: process, mut exited, pid, cgroups, memory_usage } = started.map_err(|error| {
            let why = error.describe(&program);
            error.into_launch_error(why)
        })?;
        let route = attachment.route(guest.address);
        let mut handle = VmHandle { process: Box::new(process), attachment, files, disk, template: None };
        let monitor = match (&qmp, api) {
            (Some(qmp), _) => Some(Monitor::Qemu(qmp.clone())),
            (None, api) => api.map(|directory| Monitor::Firecracker(FirecrackerApi::new(directory))),
        };
        let restored = match (snapshot, monitor, &vm.snapshot) {
            (SnapshotUse::Restore(found), Some(monitor), Some(spec)) => {
                if let Err(error) = clone::restore(found, &monitor, spec, &route, order.instance).await {
                    // A VMM that has ended says more by its exit.
                    let error = match time::timeout(EXIT_REASON_TIMEOUT, &mut exited).await {
                        Ok(Ok(exit)) => RestoreError::Failed(format!("{error}: {exit}")),
                        Ok(Err(_)) | Err(_) => error,
                    };
                    return Err(clone::not_restored(error, handle, &order.log).await);
                }
                true
            }
            (SnapshotUse::Take { key, disk }, Some(monitor), Some(spec)) => {
                let (function, spec, route) = (order.spec.name.clone(), spec.clone(), route.clone());
                let store = self.settings.snapshots.clone();
                handle.template = Some(Template { function, spec, key, route, monitor, disk, store });
                false
            }
            _ => false,
        };
        let (address, place) = match handle.attachment.tap() {
            Some(tap) => (format!("tap {} {}/30", tap.name, tap.link.gateway), Place::Guest),
            None => (format!("port {}", guest.address), Place::ForwardedGuest { port: order.spec.port }),
        };
        let prober = Probe::new(Target {
            route,
            alternative: None,
            readiness: clone::readiness(&order.spec.readiness, restored),
            place,
            sockets: Sockets::Hidden,
        });
        let resources: Vec<String> = [address]
            .into_iter()
            .chain(handle.files.iter().map(|files| format!("directory {}", files.path().display())))
            .chain(cgroups.iter().map(|label| format!("cgroup {label}")))
            .collect();
        debug!(order.log, "VMM started"; "pid" => pid.as_raw(), "address" => %guest.address);

        let link_lost = handle.attachment.link_lost();
        let (lines, id) = (order.output, order.instance.to_string());
        Ok(Launched {
            restored,
            network: Some(InstanceNetwork { address: guest.address, callback_source: guest.source, prober }),
            sandbox: Box::new(handle),
            exited: Box::pin(async move {
                let lost = |_| SandboxExit::Other("no longer watched by the daemon".to_owned());
                let ended = async {
                    let exit = exited.await.unwrap_or_else(lost);
                    let reason = match qmp {
                        Some(qmp) => time::timeout(EXIT_REASON_TIMEOUT, qmp.exit_reason()).await.ok().flatten(),
                        None => None,
                    };
                    let lines = lines.tail(SEARCHED_LINES);
                    let lines = LastLines::new(lines.iter().map(|line| &**line));
                    exit_reason::describe(vmm, exit, reason.as_deref(), &id, &lines)
                };
                // An unreachable guest counts as ended, and its VMM is ended with it.
                tokio::select! {
                    exit = ended => exit,
                    cause = link_lost => SandboxExit::Other(cause),
                }
            }),
            pid: u32::try_from(pid.as_raw()).ok(),
            engine_id: None,
            resources,
            memory_usage,
        })
    }

    /// Returns the accelerator: what the function says, else KVM if it runs guests on the processor.
    async fn accelerator(&self, wanted: Accel) -> Accelerator {
        match wanted {
            Accel::Kvm => return Accelerator::Kvm,
            Accel::Tcg => return Accelerator::Tcg,
            Accel::Auto => {}
        }
        let probe = || async {
            let Ok(Err(unusable)) = task::spawn_blocking(accel::probe).await else { return true };
            warn!(self.log, "QEMU executes guests by translation (TCG), which is slower than KVM"; "why" => %unusable);
            false
        };
        if *self.kvm.get_or_init(probe).await { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// A VMM that can be started, and its guest's network.
struct Prepared {
    attachment: NetAttachment,
    guest: GuestNetConfig,
    plan: Plan,
    /// QEMU's standard input, and the client at its other end.
    qmp: Option<(OwnedFd, QmpClient)>,
}
