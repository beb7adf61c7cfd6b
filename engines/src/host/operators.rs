//! Which users of this host may act on the daemon: root, the daemon's own user, and the members of a group.

use std::ffi::CString;

use nix::unistd::{Group, Uid, User, geteuid, getgrouplist};

/// The group that counts without a setting, if there is one of this name.
const DEFAULT_GROUP: &str = "unifaas";

/// The users who may act.
#[derive(Debug, Clone)]
pub struct Operators {
    daemon: Uid,
    group: Option<Group>,
}

/// Why the setting names no group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// No group has this name.
    #[error("there is no group `{0}`, which --admin-group names: create it, or name another one")]
    Missing(String),
    /// The system failed to look up this name.
    #[error("the group `{0}`, which --admin-group names, cannot be looked up: {1}")]
    Lookup(String, nix::Error),
}

impl Operators {
    /// Makes the operators with the members of `wanted`, or else of the group `unifaas`, if there is one.
    ///
    /// # Errors
    /// When `wanted` is not a group.
    pub fn of_group(wanted: Option<&str>) -> Result<Self, GroupError> {
        let group = match (wanted, Group::from_name(wanted.unwrap_or(DEFAULT_GROUP))) {
            (Some(name), Ok(None)) => return Err(GroupError::Missing(name.to_owned())),
            (Some(name), Err(error)) => return Err(GroupError::Lookup(name.to_owned(), error)),
            (_, found) => found.ok().flatten(),
        };
        Ok(Self { daemon: geteuid(), group })
    }

    /// Returns the name of the group.
    pub fn group(&self) -> Option<&str> {
        self.group.as_ref().map(|group| group.name.as_str())
    }

    /// Returns whether a user may act without being a member of the group.
    pub fn include_without_group(&self, user: u32) -> bool {
        let user = Uid::from_raw(user);
        user.is_root() || user == self.daemon
    }

    /// Returns whether a user is a member of the group now. Blocks: the user database may be elsewhere.
    pub fn are_joined_by(&self, user: u32) -> bool {
        let Some(group) = &self.group else { return false };
        let Ok(Some(user)) = User::from_uid(Uid::from_raw(user)) else { return false };
        let Ok(name) = CString::new(user.name) else { return false };
        getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_group_is_an_error_only_if_it_was_asked_for() {
        let error = Operators::of_group(Some("no-such-group")).unwrap_err().to_string();
        assert!(error.contains("`no-such-group`") && error.contains("--admin-group"), "{error}");
        assert!(Operators::of_group(None).is_ok());
    }

    #[test]
    fn root_the_own_user_and_members_are_operators() {
        // Everywhere, root is a member of its own group, and `nobody` is not.
        let Ok(operators) = Operators::of_group(Some("root")) else { return };
        assert!(operators.include_without_group(0) && operators.include_without_group(geteuid().as_raw()));
        assert!(operators.are_joined_by(0) && !operators.are_joined_by(65_534));
        assert!(!operators.are_joined_by(4_000_000_000), "a user without a name");
    }
}
