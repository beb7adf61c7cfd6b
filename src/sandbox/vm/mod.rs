//! The `vm` sandbox: an instance is a virtual machine, run by a machine monitor that is a child of the daemon.
//!
//! `firecracker.rs` and `qemu.rs` say what the monitors are told, `program.rs` where they are, `operator.rs` as whom they
//! run, `accel.rs` whether the processor helps, `wire.rs` how a guest is attached and what it is told, `disk.rs` copies
//! root disks, `rundir.rs` has the files, `qmp.rs` and `ending.rs` find out why a machine ended, and `guest.rs` is one
//! that runs. Taps and what guests may reach are in `src/net/`; monitors are started and held like processes.

mod accel;
mod disk;
mod ending;
mod firecracker;
mod guest;
mod operator;
mod program;
mod qemu;
mod qmp;
mod rundir;
mod wire;

use std::{
    cell::Cell,
    env,
    ffi::OsStr,
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use nix::unistd::Uid;
use slog::{Logger, debug, info, warn};
use tokio::{sync::OnceCell, task, time};
use unifaas_actors::{
    sandbox::{GuestExit, LaunchError, LaunchOrder, Launched},
    spec::{Accel, DiskType, FunctionSpec, Hypervisor, SandboxSpec, VmNetwork, VmSpec},
};

use super::{
    Callback,
    cgroup::{Group, Limits},
    ports::Ports,
    process::{Credentials, DEFAULT_PATH, Facts as ProcessFacts, Invocation, ProcessGuest, Spawn, Spawned, collect},
    substitute::substitute,
};
use crate::net::{self, Mark, NetError, Network, Record, Subnet};
use ending::Monitor;
use firecracker::{Config, Files, Jail};
use guest::VmGuest;
use operator::{Need, Operator};
use qemu::{Accelerator, Attachment, Boot};
use rundir::{InstanceDir, RunDir};
use wire::{Facts, Wire};

/// Beside the guest's own memory, in MiB: what its monitor needs. QEMU's translated code is in there.
const FIRECRACKER_OVERHEAD: u64 = 64;
const QEMU_OVERHEAD: u64 = 256;
/// Lines of output that are looked at for the reason of an end.
const LAST_LINES: usize = 40;
/// How long the reason may take to be read once QEMU has ended.
const LAST_EVENT: Duration = Duration::from_millis(20);
const CONFIG: &str = "config.json";
const ROOT_DISK: &str = "rootfs";

/// What the engine is made from.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// The range of the guests' addresses.
    pub subnet: Subnet,
    /// Taps that are kept prepared.
    pub tap_pool: usize,
    /// Where the files of VMs are kept.
    pub state_dir: PathBuf,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
}

/// Starts virtual machines.
#[derive(Clone)]
pub struct Machines(Rc<Engine>);

struct Engine {
    settings: VmSettings,
    /// The files go after the network, which notes down there what it has changed.
    network: Network,
    run: RunDir,
    ports: Ports,
    limits: Limits,
    kvm: OnceCell<bool>,
    /// Whether monitors that run as root have been logged.
    warned: Cell<bool>,
    log: Logger,
}

impl Machines {
    /// Prepares the directory of this daemon. Touches nothing of the network.
    pub fn new(settings: VmSettings, ports: Ports, limits: Limits, log: &Logger) -> std::io::Result<Self> {
        let run = RunDir::create(&settings.state_dir)?;
        let network = net::Settings {
            subnet: settings.subnet,
            pool: settings.tap_pool,
            tap_group: Operator::group(Uid::effective()).as_raw(),
            callback: settings.callback,
            record: Record { mark: Mark::new(run.number), directory: run.path().to_owned() },
        };
        let network = Network::new(network, log);
        let (kvm, warned, log) = (OnceCell::new(), Cell::new(false), log.clone());
        Ok(Self(Rc::new(Engine { settings, network, run, ports, limits, kvm, warned, log })))
    }

    /// Removes what daemons that are no more have left, and prepares the network if `functions` need it. That it cannot
    /// be had is no error: then they cannot be started, and say why.
    pub async fn prepare(&self, functions: impl Iterator<Item = &FunctionSpec>) -> Result<(), NetError> {
        let engine = &self.0;
        engine.reclaim().await;
        let mut vms = functions.filter_map(|spec| match &spec.sandbox {
            SandboxSpec::Vm(vm) => Some(vm),
            _ => None,
        });
        if !vms.any(|vm| vm.network == VmNetwork::Tap) {
            return Ok(());
        }
        match engine.network.open().await {
            Err(error @ NetError::Conflict { .. }) => Err(error),
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

/// A monitor that is ready to be started.
struct Plan {
    monitor: Monitor,
    invocation: Invocation,
    operator: Operator,
    files: Option<InstanceDir>,
}

impl Engine {
    async fn launch(&self, order: LaunchOrder, vm: &VmSpec) -> Result<Launched, LaunchError> {
        let token = order.token.reveal();
        let (wire, facts) = match vm.network {
            VmNetwork::Tap => {
                wire::check_callback(self.settings.callback, &order.spec.readiness)?;
                let tap = self.network.lend(vm.egress).await?;
                let facts = Facts::on_tap(tap.link, order.spec.port, self.settings.callback, &token);
                (Wire::Tap(tap), facts)
            }
            VmNetwork::User => {
                let everything_used = || LaunchError::Exhausted("every local port for instances is in use".to_owned());
                let port = self.ports.lease().ok_or_else(everything_used)?;
                let facts = Facts::in_user_network(port.port(), Callback::local(self.settings.callback), &token);
                (Wire::User(port), facts)
            }
        };
        let plan = match &vm.hypervisor {
            Hypervisor::Firecracker { jailer, .. } => self.firecracker(&order, vm, &wire, &facts, *jailer).await?,
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => {
                let accelerator = self.accelerator(qemu.accel).await;
                self.qemu(&order, vm, &wire, &facts, accelerator).await?
            }
        };
        self.start(order, vm, wire, &facts, plan).await
    }

    async fn firecracker(
        &self,
        order: &LaunchOrder,
        vm: &VmSpec,
        wire: &Wire,
        facts: &Facts,
        jailed: bool,
    ) -> Result<Plan, LaunchError> {
        let Wire::Tap(tap) = wire else {
            return Err(LaunchError::Missing("Firecracker has no user-mode network".to_owned()));
        };
        let program = program::FIRECRACKER.find()?;
        let id = order.instance.to_string();
        let directory = self.run.instance(&id).map_err(refused("the directory of the instance"))?;
        let (copy, read_only) = match vm.hypervisor {
            Hypervisor::Firecracker { copy_rootfs, read_only, .. } => (copy_rootfs, read_only),
            _ => (false, true),
        };
        let cmdline = substitute(&vm.cmdline, |word| facts.value(word));
        let config = |files: Files<'_>| {
            let config = Config::new(vm, cmdline.clone(), files, &tap.name, tap.link.mac());
            serde_json::to_vec_pretty(&config).map_err(|error| LaunchError::Refused(error.to_string()))
        };
        if jailed {
            let jailer = program::JAILER.find()?;
            let nobody = Credentials::unprivileged();
            let (uid, gid) = (nobody.uid, nobody.gid);
            let base = directory.path().to_owned();
            let jail = Jail { program: &program, base: &base, uid: uid.as_raw(), gid: gid.as_raw() };
            let root = jail.root(&id);
            fs::create_dir_all(&root).map_err(refused("the jail"))?;
            // Everything it uses has to be inside, under a name of its own.
            let into_jail = |path: &Path, name: &'static str| bring(path.to_owned(), root.join(name));
            into_jail(&vm.kernel, "kernel").await?;
            if let Some(initrd) = &vm.initrd {
                into_jail(initrd, "initrd").await?;
            }
            if let Some(image) = &vm.image {
                into_jail(image, ROOT_DISK).await?;
            }
            let files = Files {
                kernel: Path::new("kernel"),
                initrd: vm.initrd.as_ref().map(|_| Path::new("initrd")),
                disk: vm.image.as_ref().map(|_| (Path::new(ROOT_DISK), read_only)),
            };
            fs::write(root.join(CONFIG), config(files)?).map_err(refused("the configuration file"))?;
            directory.give_to(uid, gid).map_err(refused("the jail"))?;
            let invocation = invocation(&jailer, jail.arguments(&id, CONFIG));
            // The jailer itself is root, and gives up everything on its way.
            let operator = Operator { credentials: None, capabilities: u64::MAX, obstacle: None };
            return Ok(Plan { monitor: Monitor::Firecracker, invocation, operator, files: Some(directory) });
        }
        let disk = match &vm.image {
            Some(image) if copy => Some(self.private_copy(image, &directory).await?),
            Some(image) => Some(image.clone()),
            None => None,
        };
        let files = Files {
            kernel: &vm.kernel,
            initrd: vm.initrd.as_deref(),
            disk: disk.as_deref().map(|disk| (disk, read_only)),
        };
        let path = directory.path().join(CONFIG);
        fs::write(&path, config(files)?).map_err(refused("the configuration file"))?;
        let shared = vm.image.as_ref().filter(|_| !copy);
        let mut needs = vec![Need::write("/dev/kvm"), Need::write("/dev/net/tun"), Need::execute(&program)];
        needs.extend(shared.map(|image| if read_only { Need::read(image) } else { Need::write(image) }));
        let operator = self.operator(vm, needs, Some(&directory))?;
        let invocation = invocation(&program, firecracker::arguments(&id, &path));
        Ok(Plan { monitor: Monitor::Firecracker, invocation, operator, files: Some(directory) })
    }

    async fn qemu(
        &self,
        order: &LaunchOrder,
        vm: &VmSpec,
        wire: &Wire,
        facts: &Facts,
        accelerator: Accelerator,
    ) -> Result<Plan, LaunchError> {
        let program = program::QEMU.find()?;
        let id = order.instance.to_string();
        let (disk_type, read_only) = match &vm.hypervisor {
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => (qemu.disk_type, qemu.read_only),
            Hypervisor::Firecracker { .. } => (DiskType::Block, true),
        };
        let (disk, directory) = match &vm.image {
            Some(image) if !read_only => {
                let directory = self.run.instance(&id).map_err(refused("the directory of the instance"))?;
                (Some(self.private_copy(image, &directory).await?), Some(directory))
            }
            image => (image.clone(), None),
        };
        let relay = ProcessFacts::daemon();
        let cmdline = substitute(&vm.cmdline, |word| facts.value(word));
        let mac;
        let attachment = match wire {
            Wire::Tap(tap) => {
                mac = tap.link.mac();
                Attachment::Tap { name: &tap.name, mac: &mac }
            }
            Wire::User(_) => Attachment::User {
                host: facts.address,
                port: order.spec.port,
                egress: vm.egress,
                relay: &relay,
                callback: Callback::local(self.settings.callback).address,
            },
        };
        let boot = Boot {
            name: &order.spec.name,
            vm,
            cmdline: &cmdline,
            files: Files {
                kernel: &vm.kernel,
                initrd: vm.initrd.as_deref(),
                disk: disk.as_deref().map(|disk| (disk, read_only)),
            },
            format: vm.image.as_deref().map_or("raw", format_of),
            attachment,
            accelerator,
        };
        let invocation = invocation(&program, boot.arguments());
        let mut needs = vec![Need::execute(&program)];
        needs.extend((accelerator == Accelerator::Kvm).then(|| Need::write("/dev/kvm")));
        needs.push(match wire {
            Wire::Tap(_) => Need::write("/dev/net/tun"),
            Wire::User(_) => Need::execute(&relay),
        });
        let shared = vm.image.as_ref().filter(|_| disk_type == DiskType::Block && read_only);
        needs.extend(shared.map(Need::read));
        let operator = self.operator(vm, needs, directory.as_ref())?;
        Ok(Plan { monitor: Monitor::Qemu, invocation, operator, files: directory })
    }

    /// Chooses who runs the monitor, and gives them the files of the instance.
    fn operator(
        &self,
        vm: &VmSpec,
        mut needs: Vec<Need>,
        files: Option<&InstanceDir>,
    ) -> Result<Operator, LaunchError> {
        needs.push(Need::read(&vm.kernel));
        needs.extend(vm.initrd.iter().map(Need::read));
        // Its own directory will be its own; the way there is what counts.
        needs.extend(files.map(|_| Need::execute(self.run.path())));
        let operator = Operator::choose(Uid::effective(), &needs);
        if let Some(obstacle) = operator.obstacle.as_ref().filter(|_| !self.warned.replace(true)) {
            info!(self.log, "machine monitors run as root, of whose powers they keep the access to files alone: \
                an unprivileged user could not use everything they need"; "for example" => %obstacle.display());
        }
        if let (Some(user), Some(files)) = (&operator.credentials, files) {
            files.give_to(user.uid, user.gid).map_err(refused("the directory of the instance"))?;
        }
        Ok(operator)
    }

    async fn start(
        &self,
        order: LaunchOrder,
        vm: &VmSpec,
        wire: Wire,
        facts: &Facts,
        plan: Plan,
    ) -> Result<Launched, LaunchError> {
        let Plan { monitor, invocation, operator, files } = plan;
        let overhead = if monitor == Monitor::Qemu { QEMU_OVERHEAD } else { FIRECRACKER_OVERHEAD };
        let memory = vm.memory + overhead;
        let group = self.limits.group(&order.instance.to_string(), memory);
        let mut spawn =
            Spawn::new(&invocation, Path::new("/"), operator.credentials).capabilities(operator.capabilities);
        let mut events = None;
        if monitor == Monitor::Qemu {
            let (ours, theirs) = qmp::Monitor::pair().await.map_err(refused("a pair of sockets"))?;
            spawn = spawn.stdin(theirs);
            events = Some(ours.listen());
        }
        let spawned = spawn.run(group.as_ref());
        let Spawned { child, pid, output } = spawned
            .map_err(|error| LaunchError::Refused(format!("cannot start {}: {error}", invocation.program.display())))?;
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

        let lines = order.output.clone();
        let output = task::spawn_local(collect(output, order.output));
        let (process, exited) = ProcessGuest::new(child, pid, output, group, memory, None);
        Ok(Launched {
            address: facts.address,
            callback_source: facts.source,
            guest: Box::new(VmGuest { process: Box::new(process), wire, files }),
            exited: Box::pin(async move {
                let lost = |_| GuestExit::Other("no longer watched by the daemon".to_owned());
                let exit = exited.await.unwrap_or_else(lost);
                let reason = match events {
                    Some(events) => time::timeout(LAST_EVENT, events).await.ok().and_then(Result::ok).flatten(),
                    None => None,
                };
                ending::explain(monitor, exit, reason.as_deref(), &lines.tail(LAST_LINES))
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

    async fn private_copy(&self, image: &Path, directory: &InstanceDir) -> Result<PathBuf, LaunchError> {
        let copy = directory.path().join(ROOT_DISK);
        bring(image.to_owned(), copy.clone()).await?;
        Ok(copy)
    }

    async fn reclaim(&self) {
        let left = RunDir::abandoned(&self.settings.state_dir);
        if left.is_empty() {
            return;
        }
        debug!(self.log, "removing what earlier daemons left of their virtual machines"; "daemons" => left.len());
        let record = |run: &RunDir| Record { mark: Mark::new(run.number), directory: run.path().to_owned() };
        let reclaimed = net::reclaim(left.iter().map(record).collect(), self.log.clone()).await;
        if let Err(error) = reclaimed {
            warn!(self.log, "the network of earlier daemons could not be cleaned"; "error" => %error);
        }
    }
}

/// Copies a file, or a directory, away from the actors' thread.
async fn bring(from: PathBuf, to: PathBuf) -> Result<(), LaunchError> {
    let failed = format!("the copy of {}", from.display());
    let copied = task::spawn_blocking(move || disk::copy(&from, &to)).await;
    copied.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(refused(&failed))
}

fn invocation(program: &Path, arguments: Vec<String>) -> Invocation {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    Invocation {
        program: program.to_owned(),
        name: program.to_string_lossy().into_owned(),
        arguments,
        env: vec![("PATH".to_owned(), path), ("HOME".to_owned(), OsStr::new("/").to_owned())],
    }
}

/// QEMU is never left to guess what a guest may have written.
fn format_of(image: &Path) -> &'static str {
    let mut start = [0; 4];
    let read = fs::File::open(image).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == *b"QFI\xfb" { "qcow2" } else { "raw" }
}

fn refused(what: &str) -> impl Fn(std::io::Error) -> LaunchError {
    move |error| LaunchError::Refused(format!("{what}: {error}"))
}
