//! Turns a launch order into a VMM that can be started: its files, its command line and the user it runs as.
//!
//! `plan_firecracker.rs` has that for Firecracker, `plan_snapshot.rs` finds out what is done with snapshots.
//!
//! All of this blocks on disks; copies take time in proportion to their size.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use unifaas_actors::{
    BootClock, InstanceId, Phase,
    sandbox::{LaunchError, Purpose},
    spec::{DEFAULT_PATH, DiskType, FunctionSpec, Hypervisor, Qemu, VmSpec, substitute},
};

use super::{
    attachment::GuestNetConfig,
    disk,
    exit_reason::Vmm,
    firecracker::{Config, Files},
    instance_dir::InstanceDir,
    plan_snapshot::SnapshotUse,
    program::{self, Program},
    qemu::{Accelerator, Netdev, QemuConfig},
    run_as::{RequiredFile, RunAs},
};
use crate::{
    host::privileges::Privileges,
    net::PointToPoint,
    sandbox::{callback::Callback, process::Placeholders},
    snapshot::SnapshotStore,
    spawner::Invocation,
    state::{MARK, is_full},
};

/// Makes QEMU wait for a guest that is restored.
const INCOMING: [&str; 2] = ["-incoming", "defer"];
pub(super) const CONFIG: &str = "config.json";
pub(super) const ROOT_DISK: &str = "rootfs";

/// A VMM that is ready to be started.
pub struct Plan {
    pub vmm: Vmm,
    pub invocation: Invocation,
    pub working_directory: PathBuf,
    pub run_as: RunAs,
    /// The directory of the instance, owned by the user that the VMM runs as. `None`: the instance has no files.
    pub files: Option<InstanceDir>,
    /// Locks a root disk that the guest writes to and that is no private copy.
    pub disk: Option<File>,
    pub snapshot: SnapshotUse,
    /// The directory in which Firecracker makes the socket of its API, if it is to have one.
    pub api: Option<PathBuf>,
}

/// What a plan is made from.
pub struct Planner {
    pub instance: InstanceId,
    pub purpose: Purpose,
    pub spec: Arc<FunctionSpec>,
    pub vm: VmSpec,
    /// The name and the addresses of the guest's tap, if it has one.
    pub tap: Option<(String, PointToPoint)>,
    pub guest: GuestNetConfig,
    /// The directory with the files of all instances.
    pub instances: PathBuf,
    /// The callback listener, for guests in a user-mode network.
    pub callback: Callback,
    /// QEMU's accelerator.
    pub accelerator: Accelerator,
    pub snapshots: Arc<SnapshotStore>,
    /// Marked when the disks are copied.
    pub clock: BootClock,
}

impl Planner {
    /// Creates the files of the instance, and the plan. After an error no file is left. Blocks: never call it on the
    /// actors' thread.
    pub fn plan(&self) -> Result<Plan, LaunchError> {
        self.vm.check_start(&self.cmdline()).map_err(LaunchError::Refused)?;
        match &self.vm.hypervisor {
            Hypervisor::Firecracker { jailer: true, read_only, .. } => self.jailed_firecracker(*read_only),
            Hypervisor::Firecracker { copy_rootfs, read_only, .. } => self.firecracker(*copy_rootfs, *read_only),
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => self.qemu(qemu),
        }
    }

    /// For every machine type of QEMU.
    fn qemu(&self, qemu: &Qemu) -> Result<Plan, LaunchError> {
        let program = program::QEMU.find()?;
        let has_copy = self.vm.image.is_some() && !qemu.read_only;
        let directory = has_copy.then(|| self.directory()).transpose()?;
        let private = directory.as_ref().map(|directory| directory.path().join(ROOT_DISK));
        let disk = private.clone().or_else(|| self.vm.image.clone());
        let relay = Placeholders::daemon();
        let (cmdline, mac) = (self.cmdline(), self.tap.as_ref().map(|(_, link)| link.mac()).unwrap_or_default());
        let netdev = match &self.tap {
            Some((name, _)) => Netdev::Tap { name, mac: &mac },
            None => Netdev::User {
                host: self.guest.address,
                port: self.spec.port,
                egress: self.vm.egress,
                relay: &relay,
                callback: self.callback.address,
            },
        };
        let config = QemuConfig {
            name: &self.spec.name,
            vm: &self.vm,
            cmdline: &cmdline,
            files: Files {
                kernel: &self.vm.kernel,
                initrd: self.vm.initrd.as_deref(),
                disk: disk.as_deref().map(|disk| (disk, qemu.read_only)),
            },
            format: self.vm.image.as_deref().map_or("raw", format_of),
            netdev,
            accelerator: self.accelerator,
        };
        let mut required = self.required_files(&program);
        required.extend((self.accelerator == Accelerator::Kvm).then(|| RequiredFile::write("/dev/kvm")));
        required.push(if self.tap.is_some() {
            RequiredFile::write("/dev/net/tun")
        } else {
            RequiredFile::execute(&relay)
        });
        let shared = self.vm.image.as_ref().filter(|_| qemu.disk_type == DiskType::Block && qemu.read_only);
        required.extend(shared.map(RequiredFile::read));
        let snapshot = self.snapshot_use(|spec| self.qemu_key(spec, &program, &config), private.as_deref())?;
        if let Some(private) = &private {
            self.copy_disk(&snapshot, private)?;
        }
        self.clock.mark(Phase::Resources);
        let mut arguments = config.arguments();
        if matches!(snapshot, SnapshotUse::Restore(_)) {
            arguments.extend(INCOMING.map(str::to_owned));
        }
        Ok(Plan {
            vmm: Vmm::Qemu,
            invocation: self.invocation(&program, arguments),
            working_directory: "/".into(),
            run_as: run_as(&required, directory.as_ref())?,
            files: directory,
            disk: None,
            snapshot,
            api: None,
        })
    }

    pub(super) fn id(&self) -> String {
        self.instance.to_string()
    }

    pub(super) fn invocation(&self, program: &Path, arguments: Vec<String>) -> Invocation {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut env = vec![("PATH".into(), path), ("HOME".into(), "/".into()), (MARK.into(), self.id().into())];
        // For wrapper scripts around one VMM that start another.
        for Program { variable, .. } in [program::FIRECRACKER, program::QEMU] {
            env.extend(env::var_os(variable).map(|value| (variable.into(), value)));
        }
        Invocation { program: program.to_owned(), name: program.to_string_lossy().into_owned(), arguments, env }
    }

    pub(super) fn cmdline(&self) -> String {
        substitute(&self.vm.cmdline, |word| self.guest.value(word))
    }

    pub(super) fn tap(&self) -> Result<&(String, PointToPoint), LaunchError> {
        self.tap.as_ref().ok_or_else(|| LaunchError::Missing("Firecracker has no user-mode network".to_owned()))
    }

    pub(super) fn directory(&self) -> Result<InstanceDir, LaunchError> {
        InstanceDir::create(&self.instances, &self.id()).map_err(refused("the directory of the instance"))
    }

    pub(super) fn write_config(
        &self,
        file: &Path,
        files: Files<'_>,
        (tap, link): &(String, PointToPoint),
    ) -> Result<(), LaunchError> {
        let config = Config::new(&self.vm, self.cmdline(), files, tap, link.mac());
        let text = serde_json::to_vec_pretty(&config).map_err(Into::into);
        text.and_then(|text| fs::write(file, text)).map_err(refused("the configuration file"))
    }

    /// Returns the files that every VMM opens. It will own the directory of the instance, and must be able to reach it.
    pub(super) fn required_files(&self, program: &Path) -> Vec<RequiredFile> {
        let mut required = vec![
            RequiredFile::execute(program),
            RequiredFile::read(&self.vm.kernel),
            RequiredFile::execute(&self.instances),
        ];
        required.extend(self.vm.initrd.iter().map(RequiredFile::read));
        required
    }
}

/// Chooses the user of the VMM, and makes it the owner of the files of the instance.
pub(super) fn run_as(required: &[RequiredFile], files: Option<&InstanceDir>) -> Result<RunAs, LaunchError> {
    let run_as = RunAs::choose(Privileges::own(), required);
    if let (Some(user), Some(files)) = (&run_as.credentials, files) {
        files.chown(user.uid, user.gid).map_err(refused("the directory of the instance"))?;
    }
    Ok(run_as)
}

/// Converts an I/O error about `what`; a full disk is [`LaunchError::Exhausted`].
pub(super) fn refused(what: &str) -> impl Fn(io::Error) -> LaunchError {
    move |error| {
        let why = format!("{what}: {error}");
        if is_full(&error) { LaunchError::Exhausted(why) } else { LaunchError::Refused(why) }
    }
}

pub(super) fn copy_to(from: &Path, to: &Path) -> Result<(), LaunchError> {
    disk::copy(from, to).map_err(refused(&format!("the copy of {}", from.display())))
}

/// Returns the format of an image. QEMU must not guess it: a guest can write any header to a raw disk.
fn format_of(image: &Path) -> &'static str {
    let mut start = [0; 4];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == *b"QFI\xfb" { "qcow2" } else { "raw" }
}
