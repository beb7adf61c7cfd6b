//! Plans for Firecracker: with a configuration file, or with its API for templates and clones, and in a jail.
//!
//! A saved machine has the path of its disk. So templates and clones run in the directory of their instance, and name their
//! files relatively, as every jailed Firecracker does.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use unifaas_actors::{Phase, sandbox::LaunchError};

use super::{
    exit_reason::Vmm,
    firecracker::{self, Files, Jail, Start},
    instance_dir::InstanceDir,
    plan::{CONFIG, Plan, Planner, ROOT_DISK, copy_to, refused, run_as},
    plan_snapshot::{SnapshotUse, link_parts},
    program,
    run_as::{RequiredFile, RunAs},
};
use crate::{host::privileges::Privileges, sandbox::process::Credentials};

/// The directory with a copy of Firecracker for the jailer.
const EXECUTABLE: &str = "executable";

impl Planner {
    /// `copy`: the root disk is a private copy; `read_only`: the guest cannot write to it.
    pub(super) fn firecracker(&self, copy: bool, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        let program = program::FIRECRACKER.find()?;
        let directory = self.directory()?;
        let place = directory.path().to_owned();
        let shared = self.vm.image.as_ref().filter(|_| !copy);
        let lock = shared.filter(|_| !read_only).map(|image| lock(image)).transpose()?;
        let private = self.vm.image.as_ref().filter(|_| copy).map(|_| place.join(ROOT_DISK));
        let has_api = self.vm.snapshot.is_some();
        let disk = match &self.vm.image {
            Some(_) if has_api => Some(PathBuf::from(ROOT_DISK)),
            image => private.clone().or_else(|| image.clone()),
        };
        let files = Files {
            kernel: &self.vm.kernel,
            initrd: self.vm.initrd.as_deref(),
            disk: disk.as_deref().map(|disk| (disk, read_only)),
        };
        let snapshot = self.snapshot_use(|spec| self.firecracker_key(spec, &program, files), private.as_deref())?;
        match (&private, shared) {
            (Some(private), _) => self.copy_disk(&snapshot, private)?,
            (None, Some(image)) if has_api => {
                symlink(image, place.join(ROOT_DISK)).map_err(refused("the link to the root disk"))?;
            }
            _ => {}
        }
        self.clock.mark(Phase::Resources);
        self.write_config(&place.join(CONFIG), files, tap)?;
        let mut required = self.required_files(&program);
        required.extend([RequiredFile::write("/dev/kvm"), RequiredFile::write("/dev/net/tun")]);
        required
            .extend(shared.map(|image| if read_only { RequiredFile::read(image) } else { RequiredFile::write(image) }));
        let config = if has_api { PathBuf::from(CONFIG) } else { place.join(CONFIG) };
        let arguments = firecracker::arguments(&self.id(), start(&snapshot, &config));
        let run_as = run_as(&required, Some(&directory))?;
        if let SnapshotUse::Restore(found) = &snapshot {
            link_parts(found, &place)?;
        }
        Ok(Plan {
            vmm: Vmm::Firecracker,
            invocation: self.invocation(&program, arguments),
            working_directory: if has_api { place.clone() } else { "/".into() },
            run_as,
            files: Some(directory),
            disk: lock,
            api: snapshot.is_some().then_some(place),
            snapshot,
        })
    }

    /// In a jail: every file that Firecracker opens is copied into it. `read_only`: the guest cannot write to its root disk.
    pub(super) fn jailed_firecracker(&self, read_only: bool) -> Result<Plan, LaunchError> {
        let tap = self.tap()?;
        // The jailer resolves links, and names the jail after the target.
        let mut firecracker =
            program::FIRECRACKER.find()?.canonicalize().map_err(refused("the path of Firecracker"))?;
        let jailer = program::JAILER.find()?;
        let directory = self.directory()?;
        let files = Files {
            kernel: Path::new("kernel"),
            initrd: self.vm.initrd.as_ref().map(|_| Path::new("initrd")),
            disk: self.vm.image.as_ref().map(|_| (Path::new(ROOT_DISK), read_only)),
        };
        let original = firecracker.clone();
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
        let private = self.vm.image.as_ref().map(|_| root.join(ROOT_DISK));
        let snapshot = self.snapshot_use(|spec| self.firecracker_key(spec, &original, files), private.as_deref())?;
        if !matches!(snapshot, SnapshotUse::Restore(_)) {
            copy_to(&self.vm.kernel, &root.join("kernel"))?;
            self.vm.initrd.as_ref().map_or(Ok(()), |initrd| copy_to(initrd, &root.join("initrd")))?;
        }
        private.as_ref().map_or(Ok(()), |private| self.copy_disk(&snapshot, private))?;
        self.clock.mark(Phase::Resources);
        self.write_config(&root.join(CONFIG), files, tap)?;
        directory.chown(jailed.uid, jailed.gid).map_err(refused("the jail"))?;
        if let SnapshotUse::Restore(found) = &snapshot {
            link_parts(found, &root)?;
        }
        let arguments = jail.arguments(&self.id(), start(&snapshot, Path::new(CONFIG)));
        Ok(Plan {
            vmm: Vmm::Firecracker,
            invocation: self.invocation(&jailer, arguments),
            working_directory: "/".into(),
            // The jailer changes its user by itself.
            run_as: RunAs::daemon(),
            files: Some(directory),
            disk: None,
            api: snapshot.is_some().then_some(root),
            snapshot,
        })
    }
}

/// Returns how Firecracker begins.
fn start<'a>(snapshot: &SnapshotUse, config: &'a Path) -> Start<'a> {
    match snapshot {
        SnapshotUse::None => Start::Boot(config),
        SnapshotUse::Take { .. } => Start::BootWithApi(config),
        SnapshotUse::Restore(_) => Start::Api,
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
