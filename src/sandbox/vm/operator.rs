//! As whom a machine monitor runs.
//!
//! A daemon that is root makes it nobody, if nobody can open everything that it needs: devices by their group, files by
//! the permissions on the way to them. Else it stays root, with none of root's powers but the access to files.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, getegid};

use crate::sandbox::process::Credentials;

/// CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, a bit for each.
const FILE_ACCESS: u64 = 1 << 1 | 1 << 2;

/// Something that the monitor opens by itself.
#[derive(Debug, Clone)]
pub struct Need {
    path: PathBuf,
    /// Read 4, write 2, execute 1.
    wanted: u32,
}

impl Need {
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

/// Who runs a machine monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// `None`: the daemon's own user, who is not root.
    pub credentials: Option<Credentials>,
    /// What is left of root's capabilities, a bit for each.
    pub capabilities: u64,
    /// Why it is root after all.
    pub obstacle: Option<PathBuf>,
}

impl Operator {
    /// For a daemon that runs as `daemon`.
    pub fn choose(daemon: Uid, needs: &[Need]) -> Self {
        if !daemon.is_root() {
            return Self { credentials: None, capabilities: 0, obstacle: None };
        }
        let mut nobody = Credentials::unprivileged();
        nobody.groups = needs.iter().filter_map(|need| group_of_device(&need.path)).collect();
        match needs.iter().find_map(|need| obstacle(&nobody, need)) {
            None => Self { credentials: Some(nobody), capabilities: 0, obstacle: None },
            Some(obstacle) => {
                let root = Credentials { uid: Uid::from_raw(0), gid: Gid::from_raw(0), groups: vec![nobody.gid] };
                Self { credentials: Some(root), capabilities: FILE_ACCESS, obstacle: Some(obstacle) }
            }
        }
    }

    /// The daemon's own user, with all its powers.
    pub fn daemon() -> Self {
        Self { credentials: None, capabilities: u64::MAX, obstacle: None }
    }

    /// The group that every operator of this daemon is in.
    pub fn group(daemon: Uid) -> Gid {
        if daemon.is_root() { Credentials::unprivileged().gid } else { getegid() }
    }
}

/// The group that opens a device, if it is not root's.
fn group_of_device(path: &Path) -> Option<Gid> {
    let device = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_char_device())?;
    (device.mode() & 0o060 == 0o060 && device.gid() != 0).then(|| Gid::from_raw(device.gid()))
}

/// What keeps `user` from its need. Something that is not there is left for the monitor to complain about.
fn obstacle(user: &Credentials, need: &Need) -> Option<PathBuf> {
    let metadata = fs::metadata(&need.path).ok()?;
    if let Some(first_denied_dir) = need.path.parent().and_then(|parent| user.first_denied_dir(parent)) {
        return Some(first_denied_dir);
    }
    let allowed = user.may(need.wanted, metadata.mode(), metadata.uid(), metadata.gid());
    (!allowed).then(|| need.path.clone())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    const ROOT: Uid = Uid::from_raw(0);

    /// A file with these permissions, at a place that everybody reaches.
    fn file(mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn what_everybody_may_read_is_run_by_nobody_without_any_power() {
        let kernel = file(0o644);
        let operator = Operator::choose(ROOT, &[Need::read(kernel.path()), Need::read("/no/such/file")]);
        assert_eq!(operator.credentials.unwrap().uid, Credentials::unprivileged().uid);
        assert_eq!((operator.capabilities, operator.obstacle), (0, None));
    }

    #[test]
    fn what_nobody_may_not_read_is_run_by_a_root_that_can_do_little_else() {
        let kernel = file(0o600);
        let operator = Operator::choose(ROOT, &[Need::read(kernel.path())]);
        assert_eq!(operator.obstacle.as_deref(), Some(kernel.path()));
        let credentials = operator.credentials.unwrap();
        assert!(credentials.uid.is_root() && credentials.groups == [Operator::group(ROOT)]);
        assert_eq!(operator.capabilities, FILE_ACCESS);
        let image = file(0o644);
        assert!(Operator::choose(ROOT, &[Need::write(image.path())]).obstacle.is_some());
    }

    #[test]
    fn a_daemon_that_is_not_root_runs_everything_as_itself() {
        let operator = Operator::choose(Uid::from_raw(1000), &[Need::read(file(0o600).path())]);
        assert_eq!((operator.credentials, operator.obstacle), (None, None));
    }
}
