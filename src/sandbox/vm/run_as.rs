//! Chooses the user that a VMM runs as.
//!
//! A daemon that is root runs it as the user `nobody`, if that user can open everything the VMM needs: devices through
//! their group, files through the permissions of the whole path. Else the VMM runs as root with two capabilities, those
//! for access to files.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, getegid};

use crate::sandbox::process::Credentials;

/// Bit mask of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
const FILE_ACCESS: u64 = 1 << 1 | 1 << 2;

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
    /// Bit mask of the capabilities it keeps.
    pub capabilities: u64,
    /// The first path that an unprivileged user cannot use: why the VMM runs as root.
    pub denied: Option<PathBuf>,
}

impl RunAs {
    /// Chooses the user for a daemon that runs as `daemon`.
    pub fn choose(daemon: Uid, required: &[RequiredFile]) -> Self {
        if !daemon.is_root() {
            return Self { credentials: None, capabilities: 0, denied: None };
        }
        let mut unprivileged = Credentials::unprivileged();
        unprivileged.groups = required.iter().filter_map(|file| group_of_device(&file.path)).collect();
        match required.iter().find_map(|file| first_denied(&unprivileged, file)) {
            None => Self { credentials: Some(unprivileged), capabilities: 0, denied: None },
            Some(denied) => {
                let root = Credentials { uid: Uid::from_raw(0), gid: Gid::from_raw(0), groups: vec![unprivileged.gid] };
                Self { credentials: Some(root), capabilities: FILE_ACCESS, denied: Some(denied) }
            }
        }
    }

    /// Returns the daemon's own user, with all its capabilities.
    pub fn daemon() -> Self {
        Self { credentials: None, capabilities: u64::MAX, denied: None }
    }

    /// Returns the group that every VMM of this daemon is in.
    pub fn group(daemon: Uid) -> Gid {
        if daemon.is_root() { Credentials::unprivileged().gid } else { getegid() }
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

    const ROOT: Uid = Uid::from_raw(0);

    /// Returns a file with these permissions, in a directory that every user may enter.
    fn file(mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn runs_unprivileged_if_files_are_readable() {
        let kernel = file(0o644);
        let run_as = RunAs::choose(ROOT, &[RequiredFile::read(kernel.path()), RequiredFile::read("/no/such/file")]);
        assert_eq!(run_as.credentials.unwrap().uid, Credentials::unprivileged().uid);
        assert_eq!((run_as.capabilities, run_as.denied), (0, None));
    }

    #[test]
    fn runs_as_restricted_root_if_a_file_is_not_readable() {
        let kernel = file(0o600);
        let run_as = RunAs::choose(ROOT, &[RequiredFile::read(kernel.path())]);
        assert_eq!(run_as.denied.as_deref(), Some(kernel.path()));
        let credentials = run_as.credentials.unwrap();
        assert!(credentials.uid.is_root() && credentials.groups == [RunAs::group(ROOT)]);
        assert_eq!(run_as.capabilities, FILE_ACCESS);
        let image = file(0o644);
        assert!(RunAs::choose(ROOT, &[RequiredFile::write(image.path())]).denied.is_some());
    }

    #[test]
    fn unprivileged_daemon_runs_vmm_as_itself() {
        let run_as = RunAs::choose(Uid::from_raw(1000), &[RequiredFile::read(file(0o600).path())]);
        assert_eq!((run_as.credentials, run_as.denied), (None, None));
    }
}
