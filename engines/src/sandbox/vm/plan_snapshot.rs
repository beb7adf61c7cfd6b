//! Finds out what is done with a snapshot of a guest, and the key of a snapshot that fits: it depends on everything but what
//! differs between instances.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use unifaas_actors::{
    sandbox::{LaunchError, Purpose, RestoreError},
    spec::{SnapshotSpec, substitute},
};

use super::{
    firecracker::{Config, Files},
    plan::{Planner, ROOT_DISK, copy_to, refused},
    qemu::{Netdev, QemuConfig},
};
use crate::snapshot::{Found, KeyBuilder, Part, SnapshotKey};

/// What is done with a snapshot.
pub enum SnapshotUse {
    /// Nothing: the guest boots and serves.
    None,
    /// The guest boots, and its snapshot is taken with this key. `disk`: its private root disk, which is part of it.
    Take { key: SnapshotKey, disk: Option<PathBuf> },
    /// The guest is restored from this one.
    Restore(Found),
}

impl SnapshotUse {
    /// Returns whether anything is done with one.
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl Planner {
    /// Decides what is done with a snapshot of this guest, which is looked for. `disk`: its private root disk.
    pub(super) fn snapshot_use(
        &self,
        key: impl Fn(&SnapshotSpec) -> io::Result<SnapshotKey>,
        disk: Option<&Path>,
    ) -> Result<SnapshotUse, LaunchError> {
        let Some(spec) = &self.vm.snapshot else { return Ok(SnapshotUse::None) };
        let key = || key(spec).map_err(refused("the key of the snapshot"));
        match self.purpose {
            Purpose::Template => Ok(SnapshotUse::Take { key: key()?, disk: disk.map(Path::to_owned) }),
            Purpose::Serve { restore: false } => Ok(SnapshotUse::None),
            Purpose::Serve { restore: true } => match self.snapshots.find(&key()?) {
                Ok(found) => Ok(found.map_or(SnapshotUse::None, SnapshotUse::Restore)),
                Err(error) => Err(RestoreError::Failed(error.to_string()).into()),
            },
        }
    }

    /// Makes the private root disk: a copy of the image, or of the disk that belongs to the snapshot.
    pub(super) fn copy_disk(&self, snapshot: &SnapshotUse, to: &Path) -> Result<(), LaunchError> {
        let saved = match snapshot {
            SnapshotUse::Restore(found) => found.path(Part::Disk),
            SnapshotUse::None | SnapshotUse::Take { .. } => None,
        };
        match (saved, &self.vm.image) {
            (Some(saved), _) => copy_to(&saved, to),
            (None, Some(image)) => copy_to(image, to),
            (None, None) => Ok(()),
        }
    }

    /// Returns the key for a guest of QEMU.
    pub(super) fn qemu_key(
        &self,
        spec: &SnapshotSpec,
        program: &Path,
        config: &QemuConfig<'_>,
    ) -> io::Result<SnapshotKey> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let netdev = match config.netdev {
            Netdev::User { port, egress, .. } => {
                Netdev::User { host: nowhere, port, egress, relay: "", callback: nowhere }
            }
            Netdev::Tap { mac, .. } => Netdev::Tap { name: "", mac },
        };
        let cmdline = self.common_cmdline();
        let common = QemuConfig { cmdline: &cmdline, netdev, files: common_files(config.files), ..*config };
        self.key(spec, program, common.arguments())
    }

    /// Returns the key for a guest of Firecracker.
    pub(super) fn firecracker_key(
        &self,
        spec: &SnapshotSpec,
        program: &Path,
        files: Files<'_>,
    ) -> io::Result<SnapshotKey> {
        let mac = self.tap.as_ref().map(|(_, link)| link.mac()).unwrap_or_default();
        let config = Config::new(&self.vm, self.common_cmdline(), common_files(files), "", mac);
        self.key(spec, program, vec![serde_json::to_string(&config)?])
    }

    fn key(&self, spec: &SnapshotSpec, program: &Path, config: Vec<String>) -> io::Result<SnapshotKey> {
        let mut key = KeyBuilder::of_host();
        key.text("function", &self.spec.name);
        key.text("snapshot", &serde_json::to_string(spec)?);
        for argument in config {
            key.text("argument", &argument);
        }
        let files =
            [("monitor", Some(program)), ("kernel", Some(&*self.vm.kernel)), ("initrd", self.vm.initrd.as_deref())];
        for (label, path) in files.into_iter().chain([("image", self.vm.image.as_deref())]) {
            path.map_or(Ok(()), |path| key.file(label, path))?;
        }
        Ok(key.finish())
    }

    /// Returns the command line without the address and the secret of the callback.
    fn common_cmdline(&self) -> String {
        let same = |word: &str| if word == "callback" { Some("callback") } else { self.guest.value(word) };
        substitute(&self.vm.cmdline, same)
    }
}

/// Returns the files without the path of a private disk.
fn common_files(files: Files<'_>) -> Files<'_> {
    let disk =
        files.disk.map(|(path, is_read_only)| if is_read_only { (path, true) } else { (Path::new(ROOT_DISK), false) });
    Files { disk, ..files }
}

/// Gives Firecracker the files of a snapshot in the directory of its instance, under the names that the template had. The
/// monitor owns that directory already, and must not own the files.
pub(super) fn link_parts(found: &Found, directory: &Path) -> Result<(), LaunchError> {
    for part in [Part::State, Part::Memory] {
        let from = found.path(part);
        let linked =
            from.map_or(Err(io::ErrorKind::NotFound.into()), |from| fs::hard_link(from, directory.join(part.name())));
        linked.map_err(|error| RestoreError::Failed(format!("the {} of the snapshot: {error}", part.name())))?;
    }
    Ok(())
}
