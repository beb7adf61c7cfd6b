//! The user and groups of child processes.

use std::{
    ffi::CString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::unistd::{self, Gid, Uid, User};
use unifaas_actors::sandbox::LaunchError;

use crate::host::privileges::{NoUserChange, Privileges};

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
    /// Returns the credentials for `[process] user`. `None` keeps those of the daemon.
    ///
    /// # Errors
    /// If there is no such user, or the daemon lacks the privileges to start processes as that user.
    pub fn of(user: &str, daemon: &Privileges) -> Result<Option<Self>, LaunchError> {
        let credentials = Self::named(user)?;
        match credentials.check(daemon) {
            Ok(()) => Ok(Some(credentials)),
            Err(_) if credentials.uid == daemon.user => Ok(None),
            Err(why) => Err(LaunchError::Missing(format!(
                "the function is to run as user {user:?}, and this daemon runs as user {}: {why}",
                daemon.user
            ))),
        }
    }

    /// Checks whether a daemon can start processes with these credentials.
    ///
    /// # Errors
    /// The first obstacle.
    pub fn check(&self, daemon: &Privileges) -> Result<(), NoUserChange> {
        daemon.check_user_change(self.uid, self.groups.iter().copied().chain([self.gid]))
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

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Uid = Uid::from_raw(54_321);

    fn root() -> Privileges {
        Privileges::of(0, true)
    }

    #[test]
    fn default_user_has_no_privileges() {
        let default = Credentials::unprivileged();
        assert!(!default.uid.is_root() && default.gid.as_raw() != 0 && default.groups.is_empty());
    }

    #[test]
    fn privileged_daemon_starts_processes_as_any_user() {
        assert!(Credentials::of("root", &root()).unwrap().unwrap().uid.is_root());
        assert!(Credentials::of("0", &root()).unwrap().unwrap().uid.is_root());
        assert_eq!(Credentials::of("54321", &Privileges::of(1000, true)).unwrap().unwrap().uid, USER);
    }

    #[test]
    fn numeric_user_needs_no_account() {
        let credentials = Credentials::of("54321", &root()).unwrap().unwrap();
        assert_eq!(credentials, Credentials { uid: USER, gid: Gid::from_raw(54_321), groups: Vec::new() });
    }

    #[test]
    fn directory_access_follows_owner_group_and_others() {
        let user = Credentials { uid: USER, gid: Gid::from_raw(7), groups: vec![Gid::from_raw(8)] };
        assert!(user.may_enter(0o755, 0, 0) && !user.may_enter(0o700, 0, 0));
        assert!(user.may_enter(0o710, 0, 8) && !user.may_enter(0o701, 0, 7));
        assert!(user.may_enter(0o700, 54_321, 0) && !user.may_enter(0o055, 54_321, 7));
        assert!(Credentials::of("root", &root()).unwrap().unwrap().may_enter(0o000, 1, 1));
    }

    #[test]
    fn unprivileged_daemon_keeps_its_user() {
        assert_eq!(Credentials::of("54321", &Privileges::of(54_321, false)), Ok(None));
        assert_eq!(Credentials::of("root", &Privileges::of(0, false)), Ok(None));
        let refusal = Credentials::of("root", &Privileges::of(54_321, false)).unwrap_err();
        let why =
            "the function is to run as user \"root\", and this daemon runs as user 54321: the daemon lacks CAP_SETUID";
        assert_eq!(refusal, LaunchError::Missing(why.to_owned()));
    }

    #[test]
    fn error_names_unknown_user() {
        let refusal = Credentials::of("no-such-user", &root()).unwrap_err().to_string();
        assert_eq!(refusal, "cannot run as user \"no-such-user\": there is no such user");
    }
}
