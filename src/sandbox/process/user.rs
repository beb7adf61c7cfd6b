//! The user and groups of child processes.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::unistd::{self, Gid, Uid, User};
use unifaas_actors::sandbox::LaunchError;

/// The default user of functions.
const UNPRIVILEGED: &str = "nobody";
/// The default user id and group id where that user does not exist.
const UNPRIVILEGED_ID: u32 = 65_534;

/// The user and groups of a child process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
}

impl Credentials {
    /// Returns the credentials for `[process] user` in a daemon that runs as `daemon`. `None` keeps those of the daemon.
    pub fn of(wanted: Option<&str>, daemon: Uid) -> Result<Option<Self>, LaunchError> {
        let may_change = daemon.is_root() && !is_only_user();
        let Some(user) = wanted else { return Ok(may_change.then(Self::unprivileged)) };
        let credentials = Self::named(user)?;
        if may_change {
            Ok(Some(credentials))
        } else if credentials.uid == daemon {
            Ok(None)
        } else {
            Err(LaunchError::Missing(format!(
                "the function is to run as user {user:?}, which takes a daemon that runs as root; \
                 this one runs as user {daemon}{}",
                if daemon.is_root() { ", in a user namespace without other users" } else { "" }
            )))
        }
    }

    /// Returns the uppermost ancestor of `directory` that this user cannot enter. The child starts nevertheless, but
    /// cannot open its own files by their full path, as some interpreters do.
    pub fn first_denied_dir(&self, directory: &Path) -> Option<PathBuf> {
        let mut ancestors: Vec<&Path> = directory.ancestors().collect();
        ancestors.reverse();
        let is_denied = |directory: &&Path| {
            directory.metadata().is_ok_and(|data| !self.may_enter(data.mode(), data.uid(), data.gid()))
        };
        ancestors.into_iter().find(is_denied).map(Path::to_owned)
    }

    fn may_enter(&self, mode: u32, owner: u32, group: u32) -> bool {
        self.may(0o1, mode, owner, group)
    }

    /// Returns whether all of `wanted` (read 4, write 2, execute 1) is allowed.
    pub fn may(&self, wanted: u32, mode: u32, owner: u32, group: u32) -> bool {
        let shift = if self.uid.as_raw() == owner {
            6
        } else if self.groups.iter().chain([&self.gid]).any(|own| own.as_raw() == group) {
            3
        } else {
            0
        };
        self.uid.is_root() || (mode >> shift) & wanted == wanted
    }

    /// Returns the default user of functions, which is looked up once.
    pub fn unprivileged() -> Self {
        static NOBODY: LazyLock<(Uid, Gid)> = LazyLock::new(|| {
            let user = User::from_name(UNPRIVILEGED).ok().flatten();
            user.map_or((Uid::from_raw(UNPRIVILEGED_ID), Gid::from_raw(UNPRIVILEGED_ID)), |user| (user.uid, user.gid))
        });
        let (uid, gid) = *NOBODY;
        Self { uid, gid, groups: Vec::new() }
    }

    /// Looks up a user of this host with all its groups. A number needs no account.
    fn named(name: &str) -> Result<Self, LaunchError> {
        let refused = |why: String| LaunchError::Refused(format!("cannot run as user {name:?}: {why}"));
        let id = name.parse().ok();
        let found = match id {
            Some(id) => User::from_uid(Uid::from_raw(id)),
            None => User::from_name(name),
        };
        match (found.map_err(|error| refused(error.to_string()))?, id) {
            (Some(user), _) => {
                let known = CString::new(user.name).map_err(|error| refused(error.to_string()))?;
                let groups = unistd::getgrouplist(&known, user.gid).map_err(|error| refused(error.to_string()))?;
                Ok(Self { uid: user.uid, gid: user.gid, groups })
            }
            (None, Some(id)) => Ok(Self { uid: Uid::from_raw(id), gid: Gid::from_raw(id), groups: Vec::new() }),
            (None, None) => Err(refused("there is no such user".to_owned())),
        }
    }
}

/// Returns whether this process's user namespace has no other user, as that of `unshare --map-root-user`.
pub fn is_only_user() -> bool {
    static ONLY: LazyLock<bool> = LazyLock::new(|| {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        // Of each range, the first user inside, the first one outside, and the length.
        map.split_whitespace().skip(2).step_by(3).eq(["1"])
    });
    *ONLY
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Uid = Uid::from_raw(0);
    const USER: Uid = Uid::from_raw(54_321);

    #[test]
    fn root_daemon_drops_privileges_by_default() {
        let default = Credentials::of(None, ROOT).unwrap().unwrap();
        assert!(!default.uid.is_root() && default.gid.as_raw() != 0 && default.groups.is_empty());
        assert!(Credentials::of(Some("root"), ROOT).unwrap().unwrap().uid.is_root());
        assert!(Credentials::of(Some("0"), ROOT).unwrap().unwrap().uid.is_root());
    }

    #[test]
    fn numeric_user_needs_no_account() {
        let credentials = Credentials::of(Some("54321"), ROOT).unwrap().unwrap();
        assert_eq!(credentials, Credentials { uid: USER, gid: Gid::from_raw(54_321), groups: Vec::new() });
    }

    #[test]
    fn directory_access_follows_owner_group_and_others() {
        let user = Credentials { uid: USER, gid: Gid::from_raw(7), groups: vec![Gid::from_raw(8)] };
        assert!(user.may_enter(0o755, 0, 0) && !user.may_enter(0o700, 0, 0));
        assert!(user.may_enter(0o710, 0, 8) && !user.may_enter(0o701, 0, 7));
        assert!(user.may_enter(0o700, 54_321, 0) && !user.may_enter(0o055, 54_321, 7));
        assert!(Credentials::of(Some("root"), ROOT).unwrap().unwrap().may_enter(0o000, 1, 1));
    }

    #[test]
    fn unprivileged_daemon_keeps_its_user() {
        assert_eq!(Credentials::of(None, USER), Ok(None));
        assert_eq!(Credentials::of(Some("54321"), USER), Ok(None));
        let refusal = Credentials::of(Some("root"), USER).unwrap_err();
        assert!(matches!(&refusal, LaunchError::Missing(why) if why.contains("\"root\"") && why.contains("54321")));
    }

    #[test]
    fn error_names_unknown_user() {
        let refusal = Credentials::of(Some("no-such-user"), ROOT).unwrap_err().to_string();
        assert_eq!(refusal, "cannot run as user \"no-such-user\": there is no such user");
    }
}
