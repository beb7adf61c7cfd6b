//! The directory with the files of one instance. It lies where the state directory has those of all instances, which is
//! how the next daemon finds it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, chown};
use tokio::task;

/// A directory that only its owner sees. Dropping it removes it, and waits for that.
#[derive(Debug)]
pub struct InstanceDir(PathBuf);

impl InstanceDir {
    pub fn create(instances: &Path, name: &str) -> io::Result<Self> {
        let path = instances.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it, and what is in it, to a user.
    pub fn give_to(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        give(&self.0, uid, gid)
    }

    /// Removes it, away from the actors' thread: a copy of a disk takes as long as it is large.
    pub async fn remove(self) -> io::Result<()> {
        task::spawn_blocking(move || fs::remove_dir_all(&self.0))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
        // That it is gone already is the rule.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn give(path: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    chown(path, Some(uid), Some(gid))?;
    if kind.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| give(&entry?.path(), uid, gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_files_of_an_instance_go_with_it() {
        let instances = tempfile::tempdir().unwrap();
        let make = || {
            let instance = InstanceDir::create(instances.path(), "i").unwrap();
            fs::write(instance.path().join("disk"), "").unwrap();
            instance
        };
        assert!(make().path().exists(), "that was dropped");
        assert_eq!(fs::read_dir(instances.path()).unwrap().count(), 0);
        make().remove().await.unwrap();
        assert_eq!(fs::read_dir(instances.path()).unwrap().count(), 0);
    }
}
