//! The `vm` sandbox: an instance is a virtual machine, run by a machine monitor that is a child of the daemon.
//!
//! `plan.rs` makes a command of an order: `firecracker.rs` and `qemu.rs` say what the monitors are told, `program.rs`
//! where they are, `operator.rs` as whom they run, `accel.rs` whether the processor helps, `wire.rs` how a guest is
//! attached and what it is told, `disk.rs` copies root disks, `files.rs` has the files, `qmp.rs` and `ending.rs` find
//! out why a machine ended, and `guest.rs` is one that runs. Taps and what guests may reach are in `src/net/`; monitors are
//! started and held like processes.

mod accel;
mod disk;
mod ending;
mod files;
mod firecracker;
mod guest;
mod operator;
mod plan;
mod program;
mod qemu;
mod qmp;
mod wire;

use std::{cell::Cell, io, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, rc::Rc, time::Duration};

use futures::future::LocalBoxFuture;
use nix::unistd::Uid;
use slog::{Logger, debug, info, warn};
use tokio::{sync::OnceCell, task, time};
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder, Launched, SandboxExit},
    spec::{Accel, FunctionSpec, Hypervisor, SandboxSpec, VmNetwork, VmSpec},
};

use super::{
    Callback,
    cgroup::{Group, ResourceLimits},
    process::{self, OwnedResources, ProcessHandle, ProcessRuntime, Record, Spawn, Spawned, pump_output},
};
use crate::{
    host::function_peers::FunctionPeers,
    net::{self, Mark, NetError, Network, Subnet},
    state::{State, is_full},
};
use ending::Monitor;
use guest::VmGuest;
use operator::Operator;
use plan::{Plan, Planner};
use qemu::Accelerator;
use wire::{Facts, Wire};

/// Beside the guest's own memory, in MiB: what its monitor needs. QEMU's translated code is in there.
const FIRECRACKER_OVERHEAD: u64 = 64;
const QEMU_OVERHEAD: u64 = 256;
/// Threads that a monitor may have at once: for each CPU of a guest, and for input and output.
const MONITOR_PIDS: u32 = 512;
/// Lines of output that are looked at for the reason of an end.
const LAST_LINES: usize = 40;
/// How long the reason may take to be read once QEMU has ended.
const LAST_EVENT: Duration = Duration::from_millis(20);

/// What the engine is made from.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// The range of the guests' addresses, if somebody has chosen one.
    pub subnet: Option<Subnet>,
    /// Taps that are kept prepared.
    pub tap_pool: usize,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// Is told where the guests are.
    pub peers: FunctionPeers,
}

/// Starts virtual machines.
#[derive(Clone)]
pub struct Machines(Rc<Engine>);

struct Engine {
    settings: VmSettings,
    network: Network,
    runtime: ProcessRuntime,
    /// Where the files of instances are.
    instances: PathBuf,
    kvm: OnceCell<bool>,
    /// Whether monitors that run as root have been logged.
    warned: Cell<bool>,
    log: Logger,
}

impl Machines {
    /// Touches nothing of the network yet.
    pub fn new(settings: VmSettings, runtime: ProcessRuntime, state: &State, log: &Logger) -> Self {
        let network = net::Settings {
            subnet: settings.subnet.unwrap_or(Subnet::DEFAULT),
            pool: settings.tap_pool,
            tap_group: Operator::group(Uid::effective()).as_raw(),
            callback: settings.callback,
            mark: Mark::new(state.mark()),
            journal: state.journal.clone(),
        };
        let network = Network::new(network, log);
        let (kvm, warned, instances) = (OnceCell::new(), Cell::new(false), state.instances());
        Self(Rc::new(Engine { settings, network, runtime, instances, kvm, warned, log: log.clone() }))
    }

    /// Prepares the network if `functions` need it. The one error is a range that is in use; whatever else is in the way,
    /// or another daemon, only keeps these functions from starting.
    pub async fn prepare(&self, functions: impl Iterator<Item = &FunctionSpec>) -> Result<(), NetError> {
        let engine = &self.0;
        let mut vms = functions.filter_map(|spec| match &spec.sandbox {
            SandboxSpec::Vm(vm) => Some(vm),
            _ => None,
        });
        if !vms.any(|vm| vm.network == VmNetwork::Tap) {
            // Whoever chooses a range wants to know that it is wrong before the first of them is there.
            return if engine.settings.subnet.is_some() { engine.network.check().await } else { Ok(()) };
        }
        match engine.network.open().await {
            Err(error @ NetError::Conflict { daemon: false, .. }) => Err(error),
            Err(error) => {
                warn!(engine.log, "virtual machines cannot be started"; "error" => %error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Starts one.
    pub fn launch(&self, order: LaunchOrder, vm: &VmSpec) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (engine, vm) = (self.0.clone(), vm.clone());
        Box::pin(async move { engine.launch(order, &vm).await })
    }
}

impl Engine {
    async fn launch(&self, order: LaunchOrder, vm: &VmSpec) -> Result<Launched, LaunchError> {
        let record = Record::begin(&self.runtime.journal, order.instance.to_string()).await?;
        match self.prepare(&order, vm).await {
            Ok(prepared) => self.start(order, vm, prepared, record).await,
            Err(error) => {
                record.strike();
                Err(error)
            }
        }
    }

    /// Everything that a machine monitor needs before it is started.
    async fn prepare(&self, order: &LaunchOrder, vm: &VmSpec) -> Result<Prepared, LaunchError> {
        let token = order.token.reveal();
        let (wire, facts) = match vm.network {
            VmNetwork::Tap => {
                wire::check_callback(self.settings.callback, &order.spec.readiness)?;
                let tap = self.network.lend(vm.egress).await?;
                let subnet = self.settings.subnet.unwrap_or(Subnet::DEFAULT);
                self.settings.peers.add_network("virtual machines", vec![subnet.into()]);
                let facts = Facts::on_tap(tap.link, order.spec.port, self.settings.callback, &token);
                (Wire::Tap(tap), facts)
            }
            VmNetwork::User => {
                let everything_used = || LaunchError::Exhausted("every local port for instances is in use".to_owned());
                let port = self.runtime.ports.lease().ok_or_else(everything_used)?;
                let facts = Facts::in_user_network(port.port(), Callback::local(self.settings.callback), &token);
                (Wire::User(port), facts)
            }
        };
        let accelerator = match &vm.hypervisor {
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => self.accelerator(qemu.accel).await,
            Hypervisor::Firecracker { .. } => Accelerator::Kvm,
        };
        let tap = match &wire {
            Wire::Tap(tap) => Some((tap.name.clone(), tap.link)),
            Wire::User(_) => None,
        };
        let planner = Planner {
            instance: order.instance,
            spec: order.spec.clone(),
            vm: vm.clone(),
            tap,
            facts: facts.clone(),
            instances: self.instances.clone(),
            callback: Callback::local(self.settings.callback),
            accelerator,
        };
        let planned = task::spawn_blocking(move || planner.plan()).await;
        let plan = planned.unwrap_or_else(|error| Err(LaunchError::Refused(format!("the plan: {error}"))))?;
        self.note(&plan.operator);
        let events = match plan.monitor {
            Monitor::Qemu => Some(qmp::Monitor::pair().await.map_err(refused("a pair of sockets"))?),
            Monitor::Firecracker => None,
        };
        Ok(Prepared { wire, facts, plan, events })
    }

    /// Makes known who runs a monitor.
    fn note(&self, operator: &Operator) {
        if let Some(obstacle) = operator.obstacle.as_ref().filter(|_| !self.warned.replace(true)) {
            info!(self.log, "machine monitors run as root, of whose powers they keep the access to files alone: an \
                unprivileged user could not use everything they need"; "for example" => %obstacle.display());
        }
        if let Some(user) = operator.credentials.as_ref().filter(|user| user.uid != Uid::effective()) {
            // A guest in a user-mode network reaches this host as the one who runs its monitor.
            self.settings.peers.add_user(user.uid.as_raw());
        }
    }

    async fn start(
        &self,
        order: LaunchOrder,
        vm: &VmSpec,
        prepared: Prepared,
        record: Record,
    ) -> Result<Launched, LaunchError> {
        let Prepared { wire, facts, plan, events } = prepared;
        let Plan { monitor, invocation, operator, files } = plan;
        let overhead = if monitor == Monitor::Qemu { QEMU_OVERHEAD } else { FIRECRACKER_OVERHEAD };
        let memory = vm.memory + overhead;
        let limits = ResourceLimits { memory, pids: MONITOR_PIDS };
        let program = invocation.program.clone();
        let mut spawn = Spawn::new(invocation, "/".into(), operator.credentials).capabilities(operator.capabilities);
        if let Wire::User(_) = wire {
            spawn = spawn.port(facts.address.port());
        }
        let mut reason = None;
        if let Some((ours, theirs)) = events {
            spawn = spawn.stdin(theirs);
            reason = Some(ours.listen());
        }
        let spawned = self.runtime.start(spawn, limits, record).await;
        let Spawned { child, output, group, record } = spawned
            .map_err(|error| process::refused(format!("cannot start {}: {error}", program.display()), &error))?;
        let pid = child.pid();
        let way = match &wire {
            Wire::Tap(tap) => format!("tap {} {}/30", tap.name, tap.link.gateway),
            Wire::User(_) => format!("port {}", facts.address),
        };
        let resources: Vec<String> = [way]
            .into_iter()
            .chain(files.iter().map(|files| format!("directory {}", files.path().display())))
            .chain(group.iter().flat_map(Group::labels).map(|label| format!("cgroup {label}")))
            .collect();
        debug!(order.log, "machine monitor started"; "pid" => pid.as_raw(), "address" => %facts.address);

        let cut = wire.cut();
        let lines = order.output.clone();
        let output = task::spawn_local(pump_output(output, order.output));
        let ProcessRuntime { cgroups, orphan_reaper, .. } = self.runtime.clone();
        let owned = OwnedResources { group, cgroups, record, orphan_reaper, port: None };
        let (process, exited) = ProcessHandle::new(child, output, memory, owned);
        Ok(Launched {
            address: facts.address,
            callback_source: facts.source,
            sandbox: Box::new(VmGuest { process: Box::new(process), wire, files }),
            exited: Box::pin(async move {
                let lost = |_| SandboxExit::Other("no longer watched by the daemon".to_owned());
                let ended = async {
                    let exit = exited.await.unwrap_or_else(lost);
                    let reason = match reason {
                        Some(reason) => time::timeout(LAST_EVENT, reason).await.ok().and_then(Result::ok).flatten(),
                        None => None,
                    };
                    ending::explain(monitor, exit, reason.as_deref(), &lines.tail(LAST_LINES))
                };
                // A guest that nobody can reach any more is as good as ended: its monitor goes with it.
                tokio::select! {
                    exit = ended => exit,
                    how = cut => SandboxExit::Other(how),
                }
            }),
            pid: u32::try_from(pid.as_raw()).ok(),
            engine_id: None,
            resources,
        })
    }

    /// KVM if it is of use, unless the function says otherwise.
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

/// A machine monitor that can be started, and what its guest hangs on.
struct Prepared {
    wire: Wire,
    facts: Facts,
    plan: Plan,
    /// QEMU tells on a pair of sockets why it ends: our end, and its standard input.
    events: Option<(qmp::Monitor, OwnedFd)>,
}

/// That something could not be done, or that there is no space for it.
fn refused(what: &str) -> impl Fn(io::Error) -> LaunchError {
    move |error| {
        let why = format!("{what}: {error}");
        if is_full(&error) { LaunchError::Exhausted(why) } else { LaunchError::Refused(why) }
    }
}
