//! The directory with the files of one instance. It lies in the state directory, where the next daemon finds it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, chown};
use tokio::task;

/// A directory with mode 0700. Dropping it removes it synchronously.
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

    /// Changes the owner of the directory and of everything in it.
    pub fn chown(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        chown_all(&self.0, uid, gid)
    }

    /// Removes it on the blocking pool: a copy of a disk takes time to remove.
    pub async fn remove(self) -> io::Result<()> {
        task::spawn_blocking(move || fs::remove_dir_all(&self.0))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
        // It was normally removed before.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn chown_all(path: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    chown(path, Some(uid), Some(gid))?;
    if kind.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| chown_all(&entry?.path(), uid, gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn removes_files_of_instance() {
        let instances = tempfile::tempdir().unwrap();
        let make = || {
            let instance = InstanceDir::create(instances.path(), "i").unwrap();
            fs::write(instance.path().join("disk"), "").unwrap();
            instance
        };
        assert!(make().path().exists(), "the directory of a dropped instance existed");
        assert_eq!(fs::read_dir(instances.path()).unwrap().count(), 0);
        make().remove().await.unwrap();
        assert_eq!(fs::read_dir(instances.path()).unwrap().count(), 0);
    }
}
