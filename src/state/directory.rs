//! Opens the state directory: checks whose it is, locks it, and reads what earlier daemons have left.

use std::{
    env,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, geteuid};

use super::{
    file,
    journal::{Journal, JournalEntry, JournalWriter, is_full},
    legacy_journal,
    lock::{Lock, Refusal},
    record_dir::{Contents, RecordDir},
    resource::{Origin, Record, Resource},
};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const RESOURCES: &str = "resources";
const INSTANCES: &str = "instances";
/// The log of earlier versions, which is converted into records.
const LEGACY_JOURNAL: &str = "journal";
/// The most that is read of it, in bytes: thirty times as much as for ten thousand instances.
const MAX_LEGACY_JOURNAL: u64 = 64 << 20;
/// Other users may pass through to what is theirs, as machine monitors of another user do.
const MODE: u32 = 0o755;
/// The permission bits of a file's mode, and the bit that no other user may have.
const PERMISSIONS: u32 = 0o7777;
const WRITABLE_BY_ALL: u32 = 0o002;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state directory {} is in use by another daemon{}", path.display(), pid(*.holder))]
    InUse { path: PathBuf, holder: Option<i32> },
    #[error("the state directory {path} belongs to user {owner}, and the daemon runs as user {own}: its owner could make \
        the daemon end anything. Give it to the daemon (chown {own} {path}), or name another one with --state-dir",
        path = path.display())]
    Foreign { path: PathBuf, owner: Uid, own: Uid },
    #[error("every user may write to the state directory {path} (mode {mode:04o}), and could make the daemon end anything. \
        Name a directory of the daemon's own with --state-dir, or forbid it if no other program needs this one \
        (chmod o-w {path})", path = path.display())]
    Public { path: PathBuf, mode: u32 },
    #[error("cannot use the state directory: {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn pid(holder: Option<i32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", process {pid}"))
}

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

/// What earlier daemons of the same state directory have left.
#[derive(Debug)]
pub struct Recovered {
    /// The resources that were not released, with their records.
    pub resources: Vec<(JournalEntry, Resource)>,
    /// The directories of instances.
    pub directories: Vec<PathBuf>,
    /// How many resources ended with a boot of the host, or cannot be found from here.
    pub lost: usize,
    /// Parts of the journal that cannot be understood: there may be more resources.
    pub damages: Vec<Damage>,
    /// Files among the records that are none.
    pub foreign: Vec<PathBuf>,
}

/// A part of the journal that cannot be understood.
#[derive(Debug)]
pub struct Damage {
    /// The file and the reason.
    pub reason: String,
    /// The damaged record, to be removed after its resource has been searched for.
    pub entry: Option<JournalEntry>,
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
        let path = directory.join(RESOURCES);
        let (records, existed) = RecordDir::open(path.clone()).map_err(error(&path))?;
        let Contents { records: found, damaged, foreign } = records.read()?;
        let read = legacy_journal(&directory.join(LEGACY_JOURNAL))?;
        let was_removed = !is_new && !existed && read.is_none();
        let legacy = read.unwrap_or_default();

        let numbers = found.iter().map(|(number, _)| number).chain(damaged.iter().map(|(number, _)| number));
        let first = numbers.max().map_or(0, |last| last + 1);
        // A record is there already if a conversion was interrupted.
        let missing = legacy.records.iter().filter(|record| !found.iter().any(|(_, known)| known == *record));
        let converted: Vec<(u64, Record)> = (first..).zip(missing.cloned()).collect();
        let next = first + converted.len() as u64;
        let write = || write_records(&directory, &records, &converted, next, &here);
        match write() {
            // The copies of disks may be what fills it.
            Err(StateError::Io { source, .. }) if is_full(&source) && !directories.is_empty() => {
                directories.iter().for_each(|directory| drop(fs::remove_dir_all(directory)));
                write()?;
            }
            written => written?,
        }

        let writer = JournalWriter::start(records, here.clone()).map_err(error(&directory))?;
        let (valid, invalid): (Vec<_>, Vec<_>) =
            found.into_iter().chain(converted).partition(|(_, record)| record.is_valid(&here));
        let lost = legacy.lost + invalid.len();
        invalid.into_iter().for_each(|(number, _)| writer.entry(number).remove());
        let mut damages: Vec<Damage> = Vec::new();
        let reason = |what: &str, name: &str| format!("{}: {what}", directory.join(name).display());
        if was_removed {
            damages.push(Damage { reason: reason("it was removed", RESOURCES), entry: None });
        }
        if legacy.damaged > 0 {
            let what = format!("{} lines cannot be understood", legacy.damaged);
            damages.push(Damage { reason: reason(&what, LEGACY_JOURNAL), entry: None });
        }
        let damaged = damaged.into_iter();
        damages.extend(damaged.map(|(number, reason)| Damage { reason, entry: Some(writer.entry(number)) }));
        let resources = valid.into_iter().map(|(number, record)| (writer.entry(number), record.resource)).collect();
        let journal = writer.journal(next);
        let state = Self { directory, identity, run_id: rand::random(), journal, _writer: writer, _lock: lock };
        Ok((state, Recovered { resources, directories, lost, damages, foreign }))
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

/// Returns the resources that a state directory records.
#[cfg(test)]
pub fn recorded(directory: &Path) -> Vec<Resource> {
    let (records, _) = RecordDir::open(directory.join(RESOURCES)).unwrap();
    records.read().unwrap().records.into_iter().map(|(_, record)| record.resource).collect()
}

fn error(path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
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

/// Returns the journal of an earlier version, or `None` if there is none.
fn legacy_journal(path: &Path) -> Result<Option<legacy_journal::LegacyJournal>, StateError> {
    let read = || {
        let mut text = Vec::new();
        file::open_regular(path, OpenOptions::new().read(true))?.take(MAX_LEGACY_JOURNAL).read_to_end(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    match read() {
        Ok(text) => {
            let mut journal = legacy_journal::parse(&text);
            journal.damaged += usize::from(text.len() as u64 == MAX_LEGACY_JOURNAL);
            Ok(Some(journal))
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error(path)(source)),
    }
}

/// Writes the records that were converted, and removes the log that they are from. Also finds out whether records can
/// be written at all: `next` is the number of a record that does not exist.
fn write_records(
    directory: &Path,
    records: &RecordDir,
    converted: &[(u64, Record)],
    next: u64,
    here: &Origin,
) -> Result<(), StateError> {
    let resource = Resource::Container { engine: String::new(), name: String::new() };
    let probe = (next, Record { origin: here.clone(), resource });
    for (number, record) in converted.iter().chain([&probe]) {
        records.write(*number, record).map_err(error(&records.path(*number)))?;
    }
    records.remove(next).map_err(error(&records.path(next)))?;
    let legacy = directory.join(LEGACY_JOURNAL);
    match fs::remove_file(&legacy) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(&legacy)(source)),
        _ => Ok(()),
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
