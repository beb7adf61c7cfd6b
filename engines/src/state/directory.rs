//! Opens the state directory: checks whose it is, and locks it. What earlier daemons have left is read by
//! `recovery.rs`.

use std::{
    env,
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, geteuid};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{
    error::{StateError, error, is_full},
    file,
    journal::{Journal, JournalWriter},
    lock::{Lock, Refusal},
    recovery::{FoundRecords, RESOURCES, Recovered},
    resource::Origin,
};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const INSTANCES: &str = "instances";
/// Directories like the state directory, each of a daemon that has taken over from another one.
const LIVES: &str = "lives";
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
    /// Records the resources that this daemon creates.
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
        let opened = Self::open_life(directory)?;
        // The lock of the directory itself is not held by a daemon that has taken over from another one.
        for life in lives(&opened.0.directory) {
            if let Some(holder) = Lock::holder(&life.join(LOCK)) {
                return Err(StateError::InUse { path: directory.to_owned(), holder: Some(holder) });
            }
        }
        Ok(opened)
    }

    /// Takes the directory of one life of the daemon: the state directory itself, or the result of [`create_life`].
    ///
    /// # Errors
    /// As above.
    pub fn open_life(directory: &Path) -> Result<(Self, Recovered), StateError> {
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
        let writer = JournalWriter::start(found.directory(), here.clone(), found.next()).map_err(error(&directory))?;
        let journal = writer.journal();
        let recovered = found.recover(&writer, &here, directories);
        let state = Self { directory, identity, run_id: rand::random(), journal, _writer: writer, _lock: lock };
        Ok((state, recovered))
    }

    /// Completes the removal of records. Removes the directory if it is that of a further life and nothing is left.
    pub fn close(self) {
        let Self { directory, journal, _writer: writer, _lock: lock, .. } = self;
        drop((journal, writer));
        // While it is locked: another life may be about to look for leftovers in it.
        remove_life(&directory);
        drop(lock);
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

/// Returns the directories of further lives below a state directory, the first one first.
pub fn lives(base: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(base.join(LIVES)).into_iter().flatten().flatten();
    let number = |name: &OsStr| name.to_str().and_then(|name| name.parse::<u64>().ok());
    let mut lives: Vec<_> = entries.filter_map(|entry| Some((number(&entry.file_name())?, entry.path()))).collect();
    lives.sort_unstable();
    lives.into_iter().map(|(_, path)| path).collect()
}

/// Creates the directory of a further life.
///
/// # Errors
/// When it cannot be created.
pub fn create_life(base: &Path) -> Result<PathBuf, StateError> {
    let last = lives(base).last().and_then(|life| life.file_name()?.to_str()?.parse::<u64>().ok());
    let all = base.join(LIVES);
    let life = all.join((last.unwrap_or(0) + 1).to_string());
    for directory in [&all, &life] {
        fs::create_dir_all(directory).map_err(error(directory))?;
        // The umask may have taken permissions that the monitors of virtual machines need.
        fs::set_permissions(directory, Permissions::from_mode(MODE)).map_err(error(directory))?;
    }
    Ok(life)
}

/// Removes the directory of a further life in which nothing is recorded any more. Anything else in it stays.
fn remove_life(directory: &Path) {
    if directory.parent().and_then(Path::file_name) != Some(OsStr::new(LIVES)) {
        return;
    }
    // Each fails if there is something in it. A directory without records would count as damaged.
    if fs::remove_dir(directory.join(INSTANCES)).is_ok() && fs::remove_dir(directory.join(RESOURCES)).is_ok() {
        for file in [IDENTITY, LOCK] {
            let _ = fs::remove_file(directory.join(file));
        }
        let _ = fs::remove_dir(directory);
        let _ = directory.parent().map(fs::remove_dir);
    }
}

/// Returns the default state directory: the first candidate that this process can use, else the first one, whose error
/// says why it cannot be used.
///
/// It is on a disk if possible, as containers and copies of disks survive a reboot, and where no other user can create it
/// first.
pub fn default_directory() -> PathBuf {
    let below = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let system = geteuid().is_root().then(|| PathBuf::from("/var/lib/unifaas"));
    let of_user = below("XDG_STATE_HOME").or_else(|| below("HOME").map(|home| home.join(".local/state")));
    let temporary = env::temp_dir().join(format!("unifaas-{}", geteuid()));
    let mut candidates = system.into_iter().chain(of_user.map(|state| state.join("unifaas"))).chain([temporary]);
    let first = candidates.next().unwrap_or_default();
    if is_usable(&first) { first } else { candidates.find(|path| is_usable(path)).unwrap_or(first) }
}

/// Returns whether this process can write to a directory, or create it.
fn is_usable(directory: &Path) -> bool {
    let existing = directory.ancestors().find(|path| path.symlink_metadata().is_ok());
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    existing.is_some_and(|path| accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok())
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

/// Returns the mark of a state directory: the same for all daemons that use it one after the other.
///
/// # Errors
/// When its file cannot be used.
pub fn identity_of(base: &Path) -> Result<String, StateError> {
    let path = base.join(IDENTITY);
    let identity = identity(&path).map_err(error(&path))?;
    Ok(format!("{identity:016x}"))
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
