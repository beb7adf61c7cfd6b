//! The directory in which one daemon keeps the files of its VMs.
//!
//! Its name is a random number, which is also the mark on everything that this daemon makes in the network; so the
//! directory is the note of what there may be to clean up. It is locked as long as the daemon lives: one that can be
//! locked has been left behind.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, chown};

const PREFIX: &str = "vms-";
/// Machine monitors of other users pass through to their own directory, but see no other.
const MODE: u32 = 0o711;

/// A locked directory. Dropping it removes it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// In its name.
    pub number: u32,
    _lock: File,
}

impl RunDir {
    /// Makes one below the state directory.
    pub fn create(state: &Path) -> io::Result<Self> {
        let number = rand::random();
        let path = state.join(format!("{PREFIX}{number:08x}"));
        // It gets its name when it is locked: another daemon that starts now must not take it for abandoned.
        let unlocked = state.join(format!(".{PREFIX}{number:08x}"));
        DirBuilder::new().mode(MODE).create(&unlocked)?;
        // Whatever the umask: monitors pass through.
        fs::set_permissions(&unlocked, fs::Permissions::from_mode(MODE))?;
        let mut run = Self::lock(unlocked, number)?;
        fs::rename(&run.path, &path)?;
        run.path = path;
        Ok(run)
    }

    /// Those of daemons that are no more.
    pub fn abandoned(state: &Path) -> Vec<Self> {
        let entries = fs::read_dir(state).into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::lock(entry.path(), number(entry.file_name().to_str()?)?).ok()).collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory of one instance.
    pub fn instance(&self, name: &str) -> io::Result<InstanceDir> {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(InstanceDir(path))
    }

    fn lock(path: PathBuf, number: u32) -> io::Result<Self> {
        let lock = File::open(&path)?;
        lock.try_lock()?;
        Ok(Self { path, number, _lock: lock })
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The files of one instance. Dropping it removes them.
#[derive(Debug)]
pub struct InstanceDir(PathBuf);

impl InstanceDir {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it, and what is in it, to a user.
    pub fn give_to(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        give(&self.0, uid, gid)
    }
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
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

/// The number in the name of such a directory.
fn number(name: &str) -> Option<u32> {
    let number = name.strip_prefix(PREFIX)?;
    (number.len() == 8).then(|| u32::from_str_radix(number, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directories_of_dead_daemons_are_abandoned() {
        let state = tempfile::tempdir().unwrap();
        let alive = RunDir::create(state.path()).unwrap();
        for other in ["vms-0badcafe", "vms-", "vms-xyz", "other"] {
            fs::create_dir(state.path().join(other)).unwrap();
        }
        let abandoned = RunDir::abandoned(state.path());
        assert_eq!(abandoned.iter().map(|dir| dir.number).collect::<Vec<_>>(), [0x0bad_cafe]);
        drop((alive, abandoned));
        assert!(RunDir::abandoned(state.path()).is_empty());
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 3, "others are left alone");
    }

    #[test]
    fn the_files_of_an_instance_go_with_it() {
        let state = tempfile::tempdir().unwrap();
        let run = RunDir::create(state.path()).unwrap();
        let instance = run.instance("i").unwrap();
        fs::write(instance.path().join("disk"), "").unwrap();
        let path = instance.path().to_owned();
        drop(instance);
        assert!(!path.exists());
    }
}
