//! From an order to a machine monitor that can be started: its files, its command line, what it has to open, and as whom it
//! runs. All of that waits for disks, and some of it for as long as they are large.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::Uid;
use unifaas_actors::{
    InstanceId,
    sandbox::LaunchError,
    spec::{DiskType, FunctionSpec, Hypervisor, Qemu, VmSpec},
};

use super::{
    disk,
    ending::Monitor,
    files::InstanceDir,
    firecracker::{self, Config, Files, Jail},
    operator::{Need, Operator},
    program::{self, Program},
    qemu::{Accelerator, Attachment, Boot},
    refused,
    wire::Facts,
};
use crate::{
    net::Link,
    sandbox::{
        Callback,
        process::{Credentials, DEFAULT_PATH, Invocation, Placeholders},
        substitute::substitute,
    },
    state::MARK,
};

const CONFIG: &str = "config.json";
const ROOT_DISK: &str = "rootfs";

/// A machine monitor that is ready to be started.
pub struct Plan {
    pub monitor: Monitor,
    pub invocation: Invocation,
    pub operator: Operator,
    /// The files of the instance, which are the operator's. `None`: it has none of its own.
    pub files: Option<InstanceDir>,
}

/// What a plan is made from.
pub struct Planner {
    pub instance: InstanceId,
    pub spec: Arc<FunctionSpec>,
    pub vm: VmSpec,
    /// The tap that the guest hangs on, if it has one.
    pub tap: Option<(String, Link)>,
    pub facts: Facts,
    /// Where the files of instances are.
    pub instances: PathBuf,
    /// For guests in a user-mode network.
    pub callback: Callback,
    /// For QEMU.
    pub accelerator: Accelerator,
}

impl Planner {
    /// Makes the files of the instance, and the plan. After an error nothing is left. Takes as long as there is to copy: not
    /// for the actors' thread.
    pub fn plan(&self) -> Result<Plan, LaunchError> {
        match &self.vm.hypervisor {
            Hypervisor::Firecracker { jailer: true, read_only, .. } => self.jailed_firecracker(*read_only),
            Hypervisor::Firecracker { copy_rootfs, read_only, .. } => self.firecracker(*copy_rootfs, *read_only),
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => self.qemu(qemu),
        }
    }

    /// `copy`: a private root disk; `read_only`: one that the guest cannot write to.
    fn firecracker(&self, copy: bool, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        let program = program::FIRECRACKER.find()?;
        let directory = self.directory()?;
        let disk = match &self.vm.image {
            Some(image) if copy => Some(private_copy(image, &directory)?),
            image => image.clone(),
        };
        let files = Files {
            kernel: &self.vm.kernel,
            initrd: self.vm.initrd.as_deref(),
            disk: disk.as_deref().map(|disk| (disk, read_only)),
        };
        let config = directory.path().join(CONFIG);
        self.write_config(&config, files, tap)?;
        let shared = self.vm.image.as_ref().filter(|_| !copy);
        let mut needs = self.needs(&program);
        needs.extend([Need::write("/dev/kvm"), Need::write("/dev/net/tun")]);
        needs.extend(shared.map(|image| if read_only { Need::read(image) } else { Need::write(image) }));
        let arguments = firecracker::arguments(&self.id(), &config);
        Ok(Plan {
            monitor: Monitor::Firecracker,
            invocation: self.invocation(&program, arguments),
            operator: operator_of(&needs, Some(&directory))?,
            files: Some(directory),
        })
    }

    /// In a jail: everything that Firecracker uses has to be inside, as a file of its own.
    fn jailed_firecracker(&self, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        let (firecracker, jailer) = (program::FIRECRACKER.find()?, program::JAILER.find()?);
        let directory = self.directory()?;
        let nobody = Credentials::unprivileged();
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let jail = Jail { program: &firecracker, base: directory.path(), uid, gid };
        let root = jail.root(&self.id());
        fs::create_dir_all(&root).map_err(refused("the jail"))?;
        let (initrd, image) = (self.vm.initrd.as_deref(), self.vm.image.as_deref());
        for (from, name) in [(Some(self.vm.kernel.as_path()), "kernel"), (initrd, "initrd"), (image, ROOT_DISK)] {
            if let Some(from) = from {
                bring(from, &root.join(name))?;
            }
        }
        let files = Files {
            kernel: Path::new("kernel"),
            initrd: initrd.map(|_| Path::new("initrd")),
            disk: image.map(|_| (Path::new(ROOT_DISK), read_only)),
        };
        self.write_config(&root.join(CONFIG), files, tap)?;
        directory.give_to(nobody.uid, nobody.gid).map_err(refused("the jail"))?;
        Ok(Plan {
            monitor: Monitor::Firecracker,
            invocation: self.invocation(&jailer, jail.arguments(&self.id(), CONFIG)),
            // The jailer makes itself somebody else.
            operator: Operator::daemon(),
            files: Some(directory),
        })
    }

    /// Whichever machine it is.
    fn qemu(&self, qemu: &Qemu) -> Result<Plan, LaunchError> {
        let program = program::QEMU.find()?;
        let (disk, directory) = match &self.vm.image {
            Some(image) if !qemu.read_only => {
                let directory = self.directory()?;
                (Some(private_copy(image, &directory)?), Some(directory))
            }
            image => (image.clone(), None),
        };
        let relay = Placeholders::daemon();
        let (cmdline, mac) = (self.cmdline(), self.tap.as_ref().map(|(_, link)| link.mac()).unwrap_or_default());
        let attachment = match &self.tap {
            Some((name, _)) => Attachment::Tap { name, mac: &mac },
            None => Attachment::User {
                host: self.facts.address,
                port: self.spec.port,
                egress: self.vm.egress,
                relay: &relay,
                callback: self.callback.address,
            },
        };
        let boot = Boot {
            name: &self.spec.name,
            vm: &self.vm,
            cmdline: &cmdline,
            files: Files {
                kernel: &self.vm.kernel,
                initrd: self.vm.initrd.as_deref(),
                disk: disk.as_deref().map(|disk| (disk, qemu.read_only)),
            },
            format: self.vm.image.as_deref().map_or("raw", format_of),
            attachment,
            accelerator: self.accelerator,
        };
        let mut needs = self.needs(&program);
        needs.extend((self.accelerator == Accelerator::Kvm).then(|| Need::write("/dev/kvm")));
        needs.push(if self.tap.is_some() { Need::write("/dev/net/tun") } else { Need::execute(&relay) });
        let shared = self.vm.image.as_ref().filter(|_| qemu.disk_type == DiskType::Block && qemu.read_only);
        needs.extend(shared.map(Need::read));
        Ok(Plan {
            monitor: Monitor::Qemu,
            invocation: self.invocation(&program, boot.arguments()),
            operator: operator_of(&needs, directory.as_ref())?,
            files: directory,
        })
    }

    fn id(&self) -> String {
        self.instance.to_string()
    }

    fn invocation(&self, program: &Path, arguments: Vec<String>) -> Invocation {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut env = vec![
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), OsStr::new("/").to_owned()),
            (MARK.to_owned(), self.id().into()),
        ];
        // For wrappers around the one that look for the other.
        for Program { variable, .. } in [program::FIRECRACKER, program::QEMU] {
            env.extend(env::var_os(variable).map(|value| (variable.to_owned(), value)));
        }
        Invocation { program: program.to_owned(), name: program.to_string_lossy().into_owned(), arguments, env }
    }

    fn cmdline(&self) -> String {
        substitute(&self.vm.cmdline, |word| self.facts.value(word))
    }

    fn tap(&self) -> Result<&(String, Link), LaunchError> {
        self.tap.as_ref().ok_or_else(|| LaunchError::Missing("Firecracker has no user-mode network".to_owned()))
    }

    fn directory(&self) -> Result<InstanceDir, LaunchError> {
        InstanceDir::create(&self.instances, &self.id()).map_err(refused("the directory of the instance"))
    }

    fn write_config(&self, file: &Path, files: Files<'_>, (tap, link): &(String, Link)) -> Result<(), LaunchError> {
        let config = Config::new(&self.vm, self.cmdline(), files, tap, link.mac());
        let text = serde_json::to_vec_pretty(&config).map_err(Into::into);
        text.and_then(|text| fs::write(file, text)).map_err(refused("the configuration file"))
    }

    /// What every monitor opens. The directory of the instance will be its own; the way there is what counts.
    fn needs(&self, program: &Path) -> Vec<Need> {
        let mut needs = vec![Need::execute(program), Need::read(&self.vm.kernel), Need::execute(&self.instances)];
        needs.extend(self.vm.initrd.iter().map(Need::read));
        needs
    }
}

/// Chooses who runs the monitor, and gives them the files of the instance.
fn operator_of(needs: &[Need], files: Option<&InstanceDir>) -> Result<Operator, LaunchError> {
    let operator = Operator::choose(Uid::effective(), needs);
    if let (Some(user), Some(files)) = (&operator.credentials, files) {
        files.give_to(user.uid, user.gid).map_err(refused("the directory of the instance"))?;
    }
    Ok(operator)
}

fn private_copy(image: &Path, directory: &InstanceDir) -> Result<PathBuf, LaunchError> {
    let copy = directory.path().join(ROOT_DISK);
    bring(image, &copy)?;
    Ok(copy)
}

fn bring(from: &Path, to: &Path) -> Result<(), LaunchError> {
    disk::copy(from, to).map_err(refused(&format!("the copy of {}", from.display())))
}

/// QEMU is never left to guess what a guest may have written.
fn format_of(image: &Path) -> &'static str {
    let mut start = [0; 4];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == *b"QFI\xfb" { "qcow2" } else { "raw" }
}
