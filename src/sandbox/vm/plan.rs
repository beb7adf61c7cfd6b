//! Turns a launch order into a VMM that can be started: its files, its command line and the user it runs as.
//!
//! All of this blocks on disks; copies take time in proportion to their size.

use std::{
    env,
    fs::{self, File, TryLockError},
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use unifaas_actors::{
    BootClock, InstanceId, Phase,
    sandbox::{LaunchError, Purpose},
    spec::{DEFAULT_PATH, DiskType, FunctionSpec, Hypervisor, Qemu, SnapshotSpec, VmSpec, substitute},
};

use super::{
    attachment::GuestNetConfig,
    disk,
    exit_reason::Vmm,
    firecracker::{self, Config, Files, Jail},
    instance_dir::InstanceDir,
    program::{self, Program},
    qemu::{Accelerator, Netdev, QemuConfig},
    run_as::{RequiredFile, RunAs},
};
use crate::{
    host::privileges::Privileges,
    net::PointToPoint,
    sandbox::{
        callback::Callback,
        process::{Credentials, Placeholders},
    },
    snapshot::{Found, KeyBuilder, SnapshotKey, SnapshotStore},
    spawner::Invocation,
    state::{MARK, is_full},
};

/// Makes QEMU wait for a guest that is restored.
const INCOMING: [&str; 2] = ["-incoming", "defer"];
const CONFIG: &str = "config.json";
const ROOT_DISK: &str = "rootfs";
/// The directory with a copy of Firecracker for the jailer.
const EXECUTABLE: &str = "executable";

/// A VMM that is ready to be started.
pub struct Plan {
    pub vmm: Vmm,
    pub invocation: Invocation,
    pub run_as: RunAs,
    /// The directory of the instance, owned by the user that the VMM runs as. `None`: the instance has no files.
    pub files: Option<InstanceDir>,
    /// Locks a root disk that the guest writes to and that is no private copy.
    pub disk: Option<File>,
    pub snapshot: SnapshotUse,
}

/// What is done with a snapshot.
pub enum SnapshotUse {
    /// Nothing: the guest boots and serves.
    None,
    /// The guest boots, and its snapshot is taken with this key.
    Take(SnapshotKey),
    /// The guest is restored from this one.
    Restore(Found),
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

    /// `copy`: the root disk is a private copy; `read_only`: the guest cannot write to it.
    fn firecracker(&self, copy: bool, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        let program = program::FIRECRACKER.find()?;
        let directory = self.directory()?;
        let shared = self.vm.image.as_ref().filter(|_| !copy);
        let lock = shared.filter(|_| !read_only).map(|image| lock(image)).transpose()?;
        let disk = match &self.vm.image {
            Some(image) if copy => Some(private_copy(image, &directory)?),
            image => image.clone(),
        };
        self.clock.mark(Phase::Resources);
        let files = Files {
            kernel: &self.vm.kernel,
            initrd: self.vm.initrd.as_deref(),
            disk: disk.as_deref().map(|disk| (disk, read_only)),
        };
        let config = directory.path().join(CONFIG);
        self.write_config(&config, files, tap)?;
        let mut required = self.required_files(&program);
        required.extend([RequiredFile::write("/dev/kvm"), RequiredFile::write("/dev/net/tun")]);
        required
            .extend(shared.map(|image| if read_only { RequiredFile::read(image) } else { RequiredFile::write(image) }));
        let arguments = firecracker::arguments(&self.id(), &config);
        Ok(Plan {
            vmm: Vmm::Firecracker,
            invocation: self.invocation(&program, arguments),
            run_as: run_as(&required, Some(&directory))?,
            files: Some(directory),
            disk: lock,
            snapshot: SnapshotUse::None,
        })
    }

    /// In a jail: every file that Firecracker opens is copied into it. `read_only`: the guest cannot write to its root disk.
    fn jailed_firecracker(&self, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        // The jailer resolves links, and names the jail after the target.
        let mut firecracker =
            program::FIRECRACKER.find()?.canonicalize().map_err(refused("the path of Firecracker"))?;
        let jailer = program::JAILER.find()?;
        let directory = self.directory()?;
        if !has_jailable_name(&firecracker) {
            firecracker = jailable_copy(&firecracker, &directory)?;
        }
        let jailed = Credentials::unprivileged();
        let refuse = |why| LaunchError::Missing(format!("the jailer changes its user: {why}"));
        jailed.check(Privileges::own()).map_err(refuse)?;
        let (uid, gid) = (jailed.uid.as_raw(), jailed.gid.as_raw());
        let jail = Jail { program: &firecracker, base: directory.path(), uid, gid };
        let root = jail.root(&self.id());
        fs::create_dir_all(&root).map_err(refused("the jail"))?;
        let (initrd, image) = (self.vm.initrd.as_deref(), self.vm.image.as_deref());
        for (from, name) in [(Some(self.vm.kernel.as_path()), "kernel"), (initrd, "initrd"), (image, ROOT_DISK)] {
            if let Some(from) = from {
                copy_to(from, &root.join(name))?;
            }
        }
        self.clock.mark(Phase::Resources);
        let files = Files {
            kernel: Path::new("kernel"),
            initrd: initrd.map(|_| Path::new("initrd")),
            disk: image.map(|_| (Path::new(ROOT_DISK), read_only)),
        };
        self.write_config(&root.join(CONFIG), files, tap)?;
        directory.chown(jailed.uid, jailed.gid).map_err(refused("the jail"))?;
        Ok(Plan {
            vmm: Vmm::Firecracker,
            invocation: self.invocation(&jailer, jail.arguments(&self.id(), CONFIG)),
            // The jailer changes its user by itself.
            run_as: RunAs::daemon(),
            files: Some(directory),
            disk: None,
            snapshot: SnapshotUse::None,
        })
    }

    /// For every machine type of QEMU.
    fn qemu(&self, qemu: &Qemu) -> Result<Plan, LaunchError> {
        let program = program::QEMU.find()?;
        let (disk, directory) = match &self.vm.image {
            Some(image) if !qemu.read_only => {
                let directory = self.directory()?;
                (Some(private_copy(image, &directory)?), Some(directory))
            }
            image => (image.clone(), None),
        };
        self.clock.mark(Phase::Resources);
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
        let snapshot = self.snapshot_use(&program, &config)?;
        let mut arguments = config.arguments();
        if matches!(snapshot, SnapshotUse::Restore(_)) {
            arguments.extend(INCOMING.map(str::to_owned));
        }
        Ok(Plan {
            vmm: Vmm::Qemu,
            invocation: self.invocation(&program, arguments),
            run_as: run_as(&required, directory.as_ref())?,
            files: directory,
            disk: None,
            snapshot,
        })
    }

    /// Decides what is done with a snapshot of this guest, which is looked for.
    fn snapshot_use(&self, program: &Path, config: &QemuConfig<'_>) -> Result<SnapshotUse, LaunchError> {
        let Some(spec) = &self.vm.snapshot else { return Ok(SnapshotUse::None) };
        let key = || self.snapshot_key(spec, program, config).map_err(refused("the key of the snapshot"));
        match self.purpose {
            Purpose::Template => Ok(SnapshotUse::Take(key()?)),
            Purpose::Serve { restore: false } => Ok(SnapshotUse::None),
            Purpose::Serve { restore: true } => match self.snapshots.find(&key()?) {
                Ok(found) => Ok(found.map_or(SnapshotUse::None, SnapshotUse::Restore)),
                Err(error) => Err(LaunchError::NotRestored(error.to_string())),
            },
        }
    }

    /// Returns the key of the snapshot that fits: it depends on everything but what differs between instances.
    fn snapshot_key(&self, spec: &SnapshotSpec, program: &Path, config: &QemuConfig<'_>) -> io::Result<SnapshotKey> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let netdev = match config.netdev {
            Netdev::User { port, egress, .. } => {
                Netdev::User { host: nowhere, port, egress, relay: "", callback: nowhere }
            }
            Netdev::Tap { mac, .. } => Netdev::Tap { name: "", mac },
        };
        let same = |word: &str| if word == "callback" { Some("callback") } else { self.guest.value(word) };
        let cmdline = substitute(&self.vm.cmdline, same);
        let common = QemuConfig { cmdline: &cmdline, netdev, ..*config };
        let mut key = KeyBuilder::new();
        key.text("function", &self.spec.name);
        key.text("snapshot", &serde_json::to_string(spec)?);
        for argument in common.arguments() {
            key.text("argument", &argument);
        }
        let files =
            [("monitor", Some(program)), ("kernel", Some(&*self.vm.kernel)), ("initrd", self.vm.initrd.as_deref())];
        for (label, path) in files.into_iter().chain([("image", self.vm.image.as_deref())]) {
            path.map_or(Ok(()), |path| key.file(label, path))?;
        }
        Ok(key.finish())
    }

    fn id(&self) -> String {
        self.instance.to_string()
    }

    fn invocation(&self, program: &Path, arguments: Vec<String>) -> Invocation {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut env = vec![("PATH".into(), path), ("HOME".into(), "/".into()), (MARK.into(), self.id().into())];
        // For wrapper scripts around one VMM that start another.
        for Program { variable, .. } in [program::FIRECRACKER, program::QEMU] {
            env.extend(env::var_os(variable).map(|value| (variable.into(), value)));
        }
        Invocation { program: program.to_owned(), name: program.to_string_lossy().into_owned(), arguments, env }
    }

    fn cmdline(&self) -> String {
        substitute(&self.vm.cmdline, |word| self.guest.value(word))
    }

    fn tap(&self) -> Result<&(String, PointToPoint), LaunchError> {
        self.tap.as_ref().ok_or_else(|| LaunchError::Missing("Firecracker has no user-mode network".to_owned()))
    }

    fn directory(&self) -> Result<InstanceDir, LaunchError> {
        InstanceDir::create(&self.instances, &self.id()).map_err(refused("the directory of the instance"))
    }

    fn write_config(
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
    fn required_files(&self, program: &Path) -> Vec<RequiredFile> {
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
fn run_as(required: &[RequiredFile], files: Option<&InstanceDir>) -> Result<RunAs, LaunchError> {
    let run_as = RunAs::choose(Privileges::own(), required);
    if let (Some(user), Some(files)) = (&run_as.credentials, files) {
        files.chown(user.uid, user.gid).map_err(refused("the directory of the instance"))?;
    }
    Ok(run_as)
}

/// Converts an I/O error about `what`; a full disk is [`LaunchError::Exhausted`].
fn refused(what: &str) -> impl Fn(io::Error) -> LaunchError {
    move |error| {
        let why = format!("{what}: {error}");
        if is_full(&error) { LaunchError::Exhausted(why) } else { LaunchError::Refused(why) }
    }
}

/// Whether the jailer takes an executable of this name: releases up to 1.12 want the word in it.
fn has_jailable_name(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().contains(program::FIRECRACKER.name))
}

/// Copies the executable to a name that every jailer takes. A link would be resolved.
fn jailable_copy(program: &Path, directory: &InstanceDir) -> Result<PathBuf, LaunchError> {
    let place = directory.path().join(EXECUTABLE);
    let copy = place.join(program::FIRECRACKER.name);
    fs::create_dir(&place).map_err(refused("the jail"))?;
    copy_to(program, &copy)?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&copy, executable).map_err(refused("the jail"))?;
    Ok(copy)
}

/// Locks a disk that the guest writes to, so that no other guest of any daemon does. The lock ends with the file.
fn lock(image: &Path) -> Result<File, LaunchError> {
    let file = File::open(image).map_err(refused(&format!("the root disk {}", image.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(LaunchError::Exhausted(format!("another instance writes to the root disk {}", image.display())))
        }
        Err(TryLockError::Error(error)) => Err(refused(&format!("the lock of {}", image.display()))(error)),
    }
}

fn private_copy(image: &Path, directory: &InstanceDir) -> Result<PathBuf, LaunchError> {
    let copy = directory.path().join(ROOT_DISK);
    copy_to(image, &copy)?;
    Ok(copy)
}

fn copy_to(from: &Path, to: &Path) -> Result<(), LaunchError> {
    disk::copy(from, to).map_err(refused(&format!("the copy of {}", from.display())))
}

/// Returns the format of an image. QEMU must not guess it: a guest can write any header to a raw disk.
fn format_of(image: &Path) -> &'static str {
    let mut start = [0; 4];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == *b"QFI\xfb" { "qcow2" } else { "raw" }
}
