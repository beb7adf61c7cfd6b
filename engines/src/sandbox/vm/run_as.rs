//! Chooses the user that a VMM runs as.
//!
//! That is `nobody`, if the daemon can change users, and that user can open everything the VMM needs: devices through
//! their group, files through the permissions of the whole path. Else the VMM runs as the daemon's user with two
//! capabilities, those for access to files.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::Gid;
use rustix::thread::CapabilitySet;

use crate::{
    host::privileges::{NoUserChange, Privileges},
    sandbox::process::Credentials,
};

const FILE_ACCESS: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// A file that the VMM opens by itself.
#[derive(Debug, Clone)]
pub struct RequiredFile {
    path: PathBuf,
    /// Permission bits: read 4, write 2, execute 1.
    wanted: u32,
}

impl RequiredFile {
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), wanted: 4 }
    }

    pub fn write(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), wanted: 6 }
    }

    pub fn execute(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), wanted: 1 }
    }
}

/// The user and the capabilities of a VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// `None`: the daemon's own user.
    pub credentials: Option<Credentials>,
    /// The capabilities that it keeps, if the daemon has them.
    pub capabilities: CapabilitySet,
    /// Why the VMM runs as the daemon's user.
    pub obstacle: Option<Obstacle>,
}

/// Why a VMM does not run as the unprivileged user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error(transparent)]
    NoUserChange(#[from] NoUserChange),
    #[error("an unprivileged user cannot open {}", .0.display())]
    Denied(PathBuf),
}

impl RunAs {
    /// Chooses the user for a VMM of a daemon with these privileges.
    pub fn choose(daemon: &Privileges, required: &[RequiredFile]) -> Self {
        let mut unprivileged = Credentials::unprivileged();
        unprivileged.groups = required.iter().filter_map(|file| group_of_device(&file.path)).collect();
        let capabilities = FILE_ACCESS;
        if let Err(why) = unprivileged.check(daemon) {
            return Self { credentials: None, capabilities, obstacle: Some(why.into()) };
        }
        match required.iter().find_map(|file| first_denied(&unprivileged, file)) {
            None => Self { credentials: Some(unprivileged), capabilities: CapabilitySet::empty(), obstacle: None },
            Some(denied) => {
                let own = Credentials { uid: daemon.user, gid: daemon.group, groups: vec![Self::group(daemon)] };
                Self { credentials: Some(own), capabilities, obstacle: Some(Obstacle::Denied(denied)) }
            }
        }
    }

    /// Returns the daemon's own user, with all its capabilities.
    pub fn daemon() -> Self {
        Self { credentials: None, capabilities: CapabilitySet::all(), obstacle: None }
    }

    /// Returns the group that every VMM of this daemon is in.
    pub fn group(daemon: &Privileges) -> Gid {
        let unprivileged = Credentials::unprivileged();
        if unprivileged.check(daemon).is_ok() { unprivileged.gid } else { daemon.group }
    }
}

/// Returns the group that may open a device, unless it is root's.
fn group_of_device(path: &Path) -> Option<Gid> {
    let device = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_char_device())?;
    (device.mode() & 0o060 == 0o060 && device.gid() != 0).then(|| Gid::from_raw(device.gid()))
}

/// Returns the first directory or file that denies `user` access. A missing file is left for the VMM to report.
fn first_denied(user: &Credentials, file: &RequiredFile) -> Option<PathBuf> {
    let metadata = fs::metadata(&file.path).ok()?;
    if let Some(denied) = file.path.parent().and_then(|parent| user.first_denied_dir(parent)) {
        return Some(denied);
    }
    let allowed = user.may(file.wanted, metadata.mode(), metadata.uid(), metadata.gid());
    (!allowed).then(|| file.path.clone())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    fn root() -> Privileges {
        Privileges::of(0, true)
    }

    /// Returns a file with these permissions, in a directory that every user may enter.
    fn file(mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn runs_unprivileged_if_files_are_readable() {
        let kernel = file(0o644);
        let required = [RequiredFile::read(kernel.path()), RequiredFile::read("/no/such/file")];
        for daemon in [root(), Privileges::of(1000, true)] {
            let run_as = RunAs::choose(&daemon, &required);
            assert_eq!(run_as.credentials.unwrap().uid, Credentials::unprivileged().uid);
            assert_eq!((run_as.capabilities, run_as.obstacle), (CapabilitySet::empty(), None));
        }
    }

    #[test]
    fn runs_as_restricted_root_if_a_file_is_not_readable() {
        let kernel = file(0o600);
        let run_as = RunAs::choose(&root(), &[RequiredFile::read(kernel.path())]);
        let why = format!("an unprivileged user cannot open {}", kernel.path().display());
        assert_eq!(run_as.obstacle.unwrap().to_string(), why);
        let credentials = run_as.credentials.unwrap();
        assert!(credentials.uid.is_root() && credentials.groups == [RunAs::group(&root())]);
        assert_eq!(run_as.capabilities, FILE_ACCESS);
        let image = file(0o644);
        assert!(RunAs::choose(&root(), &[RequiredFile::write(image.path())]).obstacle.is_some());
    }

    #[test]
    fn daemon_without_privileges_runs_vmm_as_itself() {
        for user in [0, 1000] {
            let daemon = Privileges::of(user, false);
            let run_as = RunAs::choose(&daemon, &[RequiredFile::read(file(0o600).path())]);
            assert_eq!(run_as.obstacle.unwrap().to_string(), "the daemon lacks CAP_SETUID");
            assert_eq!((run_as.credentials, RunAs::group(&daemon)), (None, daemon.group));
        }
    }
}
