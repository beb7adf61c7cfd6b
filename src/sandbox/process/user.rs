//! Whom a child process runs as.

use std::{
    ffi::CString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::unistd::{self, Gid, Uid, User};
use unifaas_actors::sandbox::LaunchError;

/// Who it is unless the function says otherwise.
const UNPRIVILEGED: &str = "nobody";
/// Where there is no such user.
const UNPRIVILEGED_ID: u32 = 65_534;

/// What a child process becomes.
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
    /// The credentials for `[process] user` in a daemon that runs as `daemon`. `None`: those of the daemon itself.
    pub fn of(wanted: Option<&str>, daemon: Uid) -> Result<Option<Self>, LaunchError> {
        let Some(user) = wanted else { return Ok(daemon.is_root().then(Self::unprivileged)) };
        let credentials = Self::named(user)?;
        if daemon.is_root() {
            Ok(Some(credentials))
        } else if credentials.uid == daemon {
            Ok(None)
        } else {
            Err(LaunchError::Missing(format!(
                "the function is to run as user {user:?}, which takes a daemon that runs as root; \
                 this one runs as user {daemon}"
            )))
        }
    }

    /// The uppermost directory on the way to `directory` that this user cannot enter. The child starts all the same,
    /// but finds nothing there by its full path, which is how some interpreters look for their files.
    pub fn first_denied_dir(&self, directory: &Path) -> Option<PathBuf> {
        let mut way: Vec<&Path> = directory.ancestors().collect();
        way.reverse();
        let closed = |directory: &&Path| {
            directory.metadata().is_ok_and(|data| !self.may_enter(data.mode(), data.uid(), data.gid()))
        };
        way.into_iter().find(closed).map(Path::to_owned)
    }

    fn may_enter(&self, mode: u32, owner: u32, group: u32) -> bool {
        self.may(0o1, mode, owner, group)
    }

    /// Whether all of `wanted` (read 4, write 2, execute 1) is allowed.
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

    /// Nobody. Looked up once: every start needs it, and it does not change.
    pub fn unprivileged() -> Self {
        static NOBODY: LazyLock<(Uid, Gid)> = LazyLock::new(|| {
            let nobody = User::from_name(UNPRIVILEGED).ok().flatten();
            nobody.map_or((Uid::from_raw(UNPRIVILEGED_ID), Gid::from_raw(UNPRIVILEGED_ID)), |user| (user.uid, user.gid))
        });
        let (uid, gid) = *NOBODY;
        Self { uid, gid, groups: Vec::new() }
    }

    /// A user of this host with all groups it is in, or a number that stands for itself.
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

    const ROOT: Uid = Uid::from_raw(0);
    const SOMEBODY: Uid = Uid::from_raw(54_321);

    #[test]
    fn a_root_daemon_gives_its_privileges_away_unless_told() {
        let default = Credentials::of(None, ROOT).unwrap().unwrap();
        assert!(!default.uid.is_root() && default.gid.as_raw() != 0 && default.groups.is_empty());
        assert!(Credentials::of(Some("root"), ROOT).unwrap().unwrap().uid.is_root());
        assert!(Credentials::of(Some("0"), ROOT).unwrap().unwrap().uid.is_root());
    }

    #[test]
    fn a_number_needs_no_account() {
        let credentials = Credentials::of(Some("54321"), ROOT).unwrap().unwrap();
        assert_eq!(credentials, Credentials { uid: SOMEBODY, gid: Gid::from_raw(54_321), groups: Vec::new() });
    }

    #[test]
    fn a_directory_is_entered_by_the_rights_of_owner_group_or_others() {
        let user = Credentials { uid: SOMEBODY, gid: Gid::from_raw(7), groups: vec![Gid::from_raw(8)] };
        assert!(user.may_enter(0o755, 0, 0) && !user.may_enter(0o700, 0, 0));
        assert!(user.may_enter(0o710, 0, 8) && !user.may_enter(0o701, 0, 7));
        assert!(user.may_enter(0o700, 54_321, 0) && !user.may_enter(0o055, 54_321, 7));
        assert!(Credentials::of(Some("root"), ROOT).unwrap().unwrap().may_enter(0o000, 1, 1));
    }

    #[test]
    fn an_ordinary_daemon_runs_functions_as_itself_only() {
        assert_eq!(Credentials::of(None, SOMEBODY), Ok(None));
        assert_eq!(Credentials::of(Some("54321"), SOMEBODY), Ok(None));
        let refusal = Credentials::of(Some("root"), SOMEBODY).unwrap_err();
        assert!(matches!(&refusal, LaunchError::Missing(why) if why.contains("\"root\"") && why.contains("54321")));
    }

    #[test]
    fn an_unknown_user_is_named_in_the_refusal() {
        let refusal = Credentials::of(Some("no-such-user"), ROOT).unwrap_err().to_string();
        assert_eq!(refusal, "cannot run as user \"no-such-user\": there is no such user");
    }
}
