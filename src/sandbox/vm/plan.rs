//! From an order to a machine monitor that can be started: its files, its command line, and what it has to open.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use tokio::task;
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder},
    spec::{DiskType, Qemu, VmSpec},
};

use super::{
    disk,
    ending::Monitor,
    files::InstanceDir,
    firecracker::{self, Config, Files, Jail},
    operator::Need,
    program::{self, Program},
    qemu::{Accelerator, Attachment, Boot},
    refused,
    wire::{Facts, Wire},
};
use crate::{
    net::TapLease,
    sandbox::{
        Callback,
        process::{Credentials, DEFAULT_PATH, Facts as ProcessFacts, Invocation},
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
    pub runs_as: RunsAs,
    /// The files of the instance. `None`: it has none of its own.
    pub files: Option<InstanceDir>,
}

/// As whom a machine monitor is started.
pub enum RunsAs {
    /// Whoever can open all of this.
    Operator(Vec<Need>),
    /// The daemon's user: the jailer, which makes itself somebody else.
    Daemon,
}

/// What plans are made from.
pub struct Planner<'a> {
    pub order: &'a LaunchOrder,
    pub vm: &'a VmSpec,
    pub wire: &'a Wire,
    pub facts: &'a Facts,
    /// Where the files of instances are.
    pub instances: &'a Path,
    /// For guests in a user-mode network.
    pub callback: Callback,
}

impl Planner<'_> {
    /// For Firecracker. `copy`: a private root disk; `read_only`: one that the guest cannot write to.
    pub async fn firecracker(&self, copy: bool, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        let program = program::FIRECRACKER.find()?;
        let directory = self.directory()?;
        let disk = match &self.vm.image {
            Some(image) if copy => Some(private_copy(image, &directory).await?),
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
            runs_as: RunsAs::Operator(needs),
            files: Some(directory),
        })
    }

    /// For Firecracker in a jail: everything it uses has to be inside, as a file of its own.
    pub async fn jailed_firecracker(&self, read_only: bool) -> Result<Plan, LaunchError> {
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
                bring(from.to_owned(), root.join(name)).await?;
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
            runs_as: RunsAs::Daemon,
            files: Some(directory),
        })
    }

    /// For QEMU, whichever machine it is.
    pub async fn qemu(&self, qemu: &Qemu, accelerator: Accelerator) -> Result<Plan, LaunchError> {
        let program = program::QEMU.find()?;
        let (disk, directory) = match &self.vm.image {
            Some(image) if !qemu.read_only => {
                let directory = self.directory()?;
                (Some(private_copy(image, &directory).await?), Some(directory))
            }
            image => (image.clone(), None),
        };
        let relay = ProcessFacts::daemon();
        let (cmdline, mac) = (self.cmdline(), self.tap().map(|tap| tap.link.mac()).unwrap_or_default());
        let attachment = match self.wire {
            Wire::Tap(tap) => Attachment::Tap { name: &tap.name, mac: &mac },
            Wire::User(_) => Attachment::User {
                host: self.facts.address,
                port: self.order.spec.port,
                egress: self.vm.egress,
                relay: &relay,
                callback: self.callback.address,
            },
        };
        let boot = Boot {
            name: &self.order.spec.name,
            vm: self.vm,
            cmdline: &cmdline,
            files: Files {
                kernel: &self.vm.kernel,
                initrd: self.vm.initrd.as_deref(),
                disk: disk.as_deref().map(|disk| (disk, qemu.read_only)),
            },
            format: self.vm.image.as_deref().map_or("raw", format_of),
            attachment,
            accelerator,
        };
        let mut needs = self.needs(&program);
        needs.extend((accelerator == Accelerator::Kvm).then(|| Need::write("/dev/kvm")));
        needs.push(match self.wire {
            Wire::Tap(_) => Need::write("/dev/net/tun"),
            Wire::User(_) => Need::execute(&relay),
        });
        let shared = self.vm.image.as_ref().filter(|_| qemu.disk_type == DiskType::Block && qemu.read_only);
        needs.extend(shared.map(Need::read));
        Ok(Plan {
            monitor: Monitor::Qemu,
            invocation: self.invocation(&program, boot.arguments()),
            runs_as: RunsAs::Operator(needs),
            files: directory,
        })
    }

    fn id(&self) -> String {
        self.order.instance.to_string()
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

    fn tap(&self) -> Result<&TapLease, LaunchError> {
        match self.wire {
            Wire::Tap(tap) => Ok(tap),
            Wire::User(_) => Err(LaunchError::Missing("Firecracker has no user-mode network".to_owned())),
        }
    }

    fn directory(&self) -> Result<InstanceDir, LaunchError> {
        InstanceDir::create(self.instances, &self.id()).map_err(refused("the directory of the instance"))
    }

    fn write_config(&self, file: &Path, files: Files<'_>, tap: &TapLease) -> Result<(), LaunchError> {
        let config = Config::new(self.vm, self.cmdline(), files, &tap.name, tap.link.mac());
        let text = serde_json::to_vec_pretty(&config).map_err(io::Error::from);
        text.and_then(|text| fs::write(file, text)).map_err(refused("the configuration file"))
    }

    /// What every monitor opens. The directory of the instance will be its own; the way there is what counts.
    fn needs(&self, program: &Path) -> Vec<Need> {
        let mut needs = vec![Need::execute(program), Need::read(&self.vm.kernel), Need::execute(self.instances)];
        needs.extend(self.vm.initrd.iter().map(Need::read));
        needs
    }
}

async fn private_copy(image: &Path, directory: &InstanceDir) -> Result<PathBuf, LaunchError> {
    let copy = directory.path().join(ROOT_DISK);
    bring(image.to_owned(), copy.clone()).await?;
    Ok(copy)
}

/// Copies a file, or a directory, away from the actors' thread.
async fn bring(from: PathBuf, to: PathBuf) -> Result<(), LaunchError> {
    let what = format!("the copy of {}", from.display());
    let copied = task::spawn_blocking(move || disk::copy(&from, &to)).await;
    copied.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(refused(&what))
}

/// QEMU is never left to guess what a guest may have written.
fn format_of(image: &Path) -> &'static str {
    let mut start = [0; 4];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == *b"QFI\xfb" { "qcow2" } else { "raw" }
}
