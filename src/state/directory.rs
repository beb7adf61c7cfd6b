//! Opens the state directory: checks whose it is, and locks it. What earlier daemons have left is read by
//! `recovery.rs`.

use std::{
    env,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, geteuid};

use super::{
    error::{StateError, error},
    file,
    journal::{Journal, JournalWriter, is_full},
    lock::{Lock, Refusal},
    recovery::{FoundRecords, Recovered},
    resource::Origin,
};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const INSTANCES: &str = "instances";
/// Other users may pass through to what is theirs, as machine monitors of another user do.
const MODE: u32 = 0o755;
/// The permission bits of a file's mode, and the bit that no other user may have.
const PERMISSIONS: u32 = 0o7777;
const WRITABLE_BY_ALL: u32 = 0o002;

/// The state directory of this daemon, locked until this is dropped.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    identity: u64,
    run_id: u32,
    pub journal: Journal,
    /// Dropped before the lock is released: the next daemon finds complete files.
    _writer: JournalWriter,
    _lock: Lock,
}

impl State {
    /// Takes the directory, and creates it if it does not exist. Leftovers are not touched, unless the files of
    /// instances must be removed from a full disk.
    ///
    /// # Errors
    /// When it belongs to another daemon or user, or one of its files cannot be used.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), StateError> {
        DirBuilder::new().recursive(true).mode(MODE).create(directory).map_err(error(directory))?;
        let directory = directory.canonicalize().map_err(error(directory))?;
        check_owner(&directory)?;
        let lock = Lock::take(&directory.join(LOCK)).map_err(|refusal| match refusal {
            Refusal::Held(holder) => StateError::InUse { path: directory.clone(), holder },
            Refusal::Failed(source) => error(&directory.join(LOCK))(source),
        })?;

        let path = directory.join(IDENTITY);
        let is_new = !path.exists();
        let identity = identity(&path).map_err(error(&path))?;
        let instances = directory.join(INSTANCES);
        DirBuilder::new().recursive(true).mode(MODE).create(&instances).map_err(error(&instances))?;
        // The umask may have taken permissions that the monitors of virtual machines need.
        fs::set_permissions(&instances, Permissions::from_mode(MODE)).map_err(error(&instances))?;
        let directories = entries_of(&instances).map_err(error(&instances))?;

        let here = Origin::here().map_err(error(Path::new("/proc/self")))?;
        let found = FoundRecords::read(&directory, is_new)?;
        match found.convert(&here) {
            // The copies of disks may be what fills it.
            Err(StateError::Io { source, .. }) if is_full(&source) && !directories.is_empty() => {
                directories.iter().for_each(|directory| drop(fs::remove_dir_all(directory)));
                found.convert(&here)?;
            }
            converted => converted?,
        }
        let writer = JournalWriter::start(found.directory(), here.clone()).map_err(error(&directory))?;
        let journal = writer.journal(found.next());
        let recovered = found.recover(&writer, &here, directories);
        let state = Self { directory, identity, run_id: rand::random(), journal, _writer: writer, _lock: lock };
        Ok((state, recovered))
    }

    /// Returns the path of the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the mark of all that belongs to this state directory: the same for all of its daemons, and for no
    /// others.
    pub fn identity(&self) -> String {
        format!("{:016x}", self.identity)
    }

    /// Returns the [`identity`](Self::identity) in the few bits that the network has for it.
    pub fn mark(&self) -> u32 {
        self.identity as u32
    }

    /// Returns the mark of all that belongs to this run of the daemon.
    pub fn run_id(&self) -> String {
        format!("{:08x}", self.run_id)
    }

    /// Returns the directory of the files of instances.
    pub fn instances(&self) -> PathBuf {
        self.directory.join(INSTANCES)
    }
}

/// Returns the default state directory. It is on a disk, as containers and copies of disks survive a reboot, and where
/// no other user can create it first.
pub fn default_directory() -> PathBuf {
    let below = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    if geteuid().is_root() {
        return PathBuf::from("/var/lib/unifaas");
    }
    let home = || below("HOME").map(|home| home.join(".local/state"));
    match below("XDG_STATE_HOME").or_else(home) {
        Some(state) => state.join("unifaas"),
        None => env::temp_dir().join(format!("unifaas-{}", geteuid())),
    }
}

fn check_owner(directory: &Path) -> Result<(), StateError> {
    let metadata = directory.metadata().map_err(error(directory))?;
    let (owner, own, mode) = (Uid::from_raw(metadata.uid()), geteuid(), metadata.mode() & PERMISSIONS);
    let path = directory.to_owned();
    match (owner == own, mode & WRITABLE_BY_ALL == 0) {
        (false, _) => Err(StateError::Foreign { path, owner, own }),
        (true, false) => Err(StateError::Public { path, mode }),
        (true, true) => Ok(()),
    }
}

/// Reads the number, or chooses it.
fn identity(path: &Path) -> io::Result<u64> {
    let mut text = String::new();
    match file::open_regular(path, OpenOptions::new().read(true)) {
        // Text that is no number counts as none.
        Ok(file) => drop(file.take(64).read_to_string(&mut text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Ok(known) = u64::from_str_radix(text.trim(), 16) {
        return Ok(known);
    }
    let chosen = rand::random();
    file::replace(path, format!("{chosen:016x}\n").as_bytes())?;
    Ok(chosen)
}

fn entries_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests;
