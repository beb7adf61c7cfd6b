//! What this process may do: its capabilities, and the users of its user namespace. Root may lack them, as in a container,
//! and other users may have them.

use std::{fs, sync::LazyLock};

use nix::unistd::{Gid, Uid, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

/// What a change of a child's user takes: its groups, its user, its output, and signals to it.
const OF_USER_CHANGE: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::KILL, "CAP_KILL"),
];

/// The privileges of a process.
#[derive(Debug, Clone)]
pub struct Privileges {
    /// The effective user id.
    pub user: Uid,
    /// The effective group id.
    pub group: Gid,
    effective: CapabilitySet,
    users: IdMap,
    groups: IdMap,
    /// Whether its user namespace allows setgroups(2).
    may_set_groups: bool,
}

/// Why a process cannot start children as another user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUserChange {
    /// This capability is missing.
    #[error("the daemon lacks {0}")]
    Lacks(&'static str),
    /// The user namespace does not map the user id.
    #[error("the daemon's user namespace has no user {0}")]
    NoUser(Uid),
    /// The user namespace does not map the group id.
    #[error("the daemon's user namespace has no group {0}")]
    NoGroup(Gid),
    /// The user namespace denies setgroups(2).
    #[error("the daemon's user namespace does not allow setgroups")]
    GroupsAreFixed,
}

/// The ids that exist in a user namespace, as ranges: first id and length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IdMap(Vec<(u32, u32)>);

impl Privileges {
    /// Returns those of this process, which are read once.
    pub fn own() -> &'static Self {
        static OWN: LazyLock<Privileges> = LazyLock::new(|| {
            let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).ok();
            Privileges {
                user: geteuid(),
                group: getegid(),
                // An unknown set is no obstacle: the step that fails names itself.
                effective: capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective),
                users: IdMap::parse(read("uid_map").as_deref()),
                groups: IdMap::parse(read("gid_map").as_deref()),
                may_set_groups: read("setgroups").is_none_or(|setting| setting.trim() != "deny"),
            }
        });
        &OWN
    }

    /// Returns whether it has a capability.
    pub fn has(&self, capability: CapabilitySet) -> bool {
        self.effective.contains(capability)
    }

    /// Checks whether children can run as a user with these groups.
    ///
    /// # Errors
    /// The first obstacle.
    pub fn check_user_change(&self, user: Uid, groups: impl IntoIterator<Item = Gid>) -> Result<(), NoUserChange> {
        if let Some((_, name)) = OF_USER_CHANGE.into_iter().find(|(capability, _)| !self.has(*capability)) {
            return Err(NoUserChange::Lacks(name));
        }
        if !self.users.contains(user.as_raw()) {
            return Err(NoUserChange::NoUser(user));
        }
        if let Some(group) = groups.into_iter().find(|group| !self.groups.contains(group.as_raw())) {
            return Err(NoUserChange::NoGroup(group));
        }
        if self.may_set_groups { Ok(()) } else { Err(NoUserChange::GroupsAreFixed) }
    }

    /// Returns those of a user with or without all capabilities, in the first user namespace.
    #[cfg(test)]
    pub fn of(user: u32, has_all: bool) -> Self {
        let effective = if has_all { CapabilitySet::all() } else { CapabilitySet::empty() };
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        Self { user, group, effective, users: IdMap::parse(None), groups: IdMap::parse(None), may_set_groups: true }
    }
}

impl IdMap {
    /// Parses a file such as `/proc/self/uid_map`: first id inside, first id outside, length. Without it, every id exists.
    fn parse(file: Option<&str>) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
            Some((numbers.next()??, numbers.nth(1)??))
        };
        Self(file.map_or(vec![(0, u32::MAX)], |file| file.lines().filter_map(range).collect()))
    }

    fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|(first, length)| id.checked_sub(*first).is_some_and(|offset| offset < *length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Uid = Uid::from_raw(65_534);
    const GROUP: Gid = Gid::from_raw(65_534);

    fn check(privileges: &Privileges) -> Result<(), NoUserChange> {
        privileges.check_user_change(NOBODY, [GROUP])
    }

    #[test]
    fn capabilities_decide_and_not_the_user() {
        assert_eq!(check(&Privileges::of(0, true)), Ok(()));
        assert_eq!(check(&Privileges::of(1000, true)), Ok(()));
        assert_eq!(check(&Privileges::of(0, false)), Err(NoUserChange::Lacks("CAP_SETUID")));
        for (capability, name) in OF_USER_CHANGE {
            let mut privileges = Privileges::of(0, true);
            privileges.effective.remove(capability);
            assert_eq!(check(&privileges), Err(NoUserChange::Lacks(name)));
            assert_eq!(check(&privileges).unwrap_err().to_string(), format!("the daemon lacks {name}"));
        }
    }

    #[test]
    fn user_and_groups_must_exist_in_the_namespace() {
        let small = || IdMap::parse(Some("         0       1000          1\n         1     100000       1000\n"));
        let of = |users, groups, may_set_groups| {
            check(&Privileges { users, groups, may_set_groups, ..Privileges::of(0, true) })
        };
        let all = || IdMap::parse(Some("         0          0 4294967295\n"));
        assert_eq!(of(all(), all(), true), Ok(()));
        assert_eq!(of(small(), all(), true), Err(NoUserChange::NoUser(NOBODY)));
        assert_eq!(of(all(), small(), true), Err(NoUserChange::NoGroup(GROUP)));
        assert_eq!(of(all(), all(), false), Err(NoUserChange::GroupsAreFixed));
        assert!(small().contains(0) && small().contains(1000) && !small().contains(1001));
    }
}
