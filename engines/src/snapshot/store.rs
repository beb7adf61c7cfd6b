//! The directory with all snapshots of this host.
//!
//! ```text
//!   <state directory>/snapshots/   0700: the memory of a guest may hold secrets
//!     <key>/                       complete, as it was renamed
//!       manifest.json
//!       state                      the saved machine; that of QEMU with its memory
//!       memory                     the memory of a guest of Firecracker
//!       disk                       the private root disk of the template
//!     <key>.<run>.new/             being written, or left by a daemon that was killed
//! ```
//!
//! QEMU gets the state as an open file, and a copy of the disk. Firecracker gets hard links of state and memory in the
//! directory of its instance. A file is only written before its directory has its name, and then only removed: clones map
//! it. No monitor owns it or may write to it. It is verified before its first use by a daemon, and again if its stamp has changed.
//! All methods with I/O block: they belong on the blocking pool.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use slog::{Logger, info, warn};
use unifaas_actors::{WallTime, sandbox::SnapshotInfo};

use super::{
    budget::SnapshotBudget,
    error::StoreError,
    files::{NewSnapshot, Removed, complete, open_all, remove},
    key::{FileStamp, SnapshotKey},
    manifest::{Manifest, Part},
};

/// The name of the directory.
const DIRECTORY: &str = "snapshots";
/// The extension of a directory that is not complete.
const INCOMPLETE: &str = "new";
/// Why such a directory is removed.
const NOT_COMPLETE: &str = "it is not complete";

/// All snapshots of this host.
#[derive(Debug)]
pub struct SnapshotStore {
    directory: PathBuf,
    /// Distinguishes this daemon from its predecessor during an upgrade.
    run_id: String,
    /// In bytes.
    budget: u64,
    /// Counts snapshots that were removed.
    removed: AtomicU64,
    entries: Mutex<HashMap<SnapshotKey, Entry>>,
    log: Logger,
}

#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    /// The stamps of its files when they were verified.
    verified: BTreeMap<Part, FileStamp>,
    used: SystemTime,
}

/// A snapshot that can be restored.
#[derive(Debug)]
pub struct Found {
    /// At its start. Its own description: the offset is not shared with other clones.
    pub state: File,
    /// The version of the monitor that has written it.
    pub monitor: String,
    directory: PathBuf,
}

impl Found {
    /// Returns the path of a part, if there is one.
    pub fn path(&self, part: Part) -> Option<PathBuf> {
        let path = self.directory.join(part.name());
        path.exists().then_some(path)
    }
}

/// A snapshot, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotEntry {
    /// The name of the function.
    pub function: String,
    /// The key, as a hexadecimal number.
    pub key: String,
    /// The space that its files take, without zeros.
    pub bytes: u64,
    /// When it was taken.
    pub taken: WallTime,
    /// The version of the VMM that has written it, in its own words.
    pub monitor: String,
}

impl SnapshotStore {
    /// Opens the store in a state directory. Incomplete and unreadable snapshots are removed, unless another daemon may be
    /// writing them (`is_shared`). Without the directory, snapshots cannot be taken.
    pub fn open(base: &Path, run_id: String, budget: SnapshotBudget, is_shared: bool, log: &Logger) -> Self {
        let directory = base.join(DIRECTORY);
        let (removed, entries) = Default::default();
        let mut store = Self { directory, run_id, budget: 0, removed, entries, log: log.clone() };
        match store.read(is_shared) {
            Ok(entries) => store.entries = Mutex::new(entries),
            Err(error) => {
                let path = store.directory.display();
                warn!(log, "no snapshots can be kept"; "directory" => %path, "error" => %error);
                return store;
            }
        }
        store.budget = budget.resolve(&store.directory);
        store
    }

    fn read(&self, is_shared: bool) -> io::Result<HashMap<SnapshotKey, Entry>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        fs::set_permissions(&self.directory, Permissions::from_mode(0o700))?;
        let mut entries = HashMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let manifest = SnapshotKey::parse(&name).map(|key| Manifest::read(&path, &key).map(|found| (key, found)));
            let why = match manifest {
                Some(Ok((key, manifest))) => {
                    let used = path.metadata().and_then(|it| it.modified()).unwrap_or(UNIX_EPOCH);
                    entries.insert(key, Entry { manifest, verified: BTreeMap::new(), used });
                    continue;
                }
                Some(Err(error)) => error.to_string(),
                None if path.extension().is_some_and(|it| it == INCOMPLETE) => NOT_COMPLETE.to_owned(),
                // A file that this daemon has not made.
                None => continue,
            };
            if !is_shared {
                self.remove_left(&path, &why);
            }
        }
        Ok(entries)
    }

    /// Removes what other daemons were writing. All of them must have ended.
    pub fn remove_abandoned(&self) {
        let own = format!(".{}", self.run_id);
        let is_abandoned = |path: &PathBuf| {
            let is_own = path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains(&own));
            path.extension().is_some_and(|it| it == INCOMPLETE) && !is_own
        };
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(is_abandoned).for_each(|path| self.remove_left(&path, NOT_COMPLETE));
    }

    fn remove_left(&self, path: &Path, why: &str) {
        info!(self.log, "a snapshot of an earlier daemon is removed"; "name" => ?path.file_name(), "why" => why);
        remove(path);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SnapshotKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &SnapshotKey) -> PathBuf {
        self.directory.join(key.to_string())
    }

    /// Returns the snapshot with this key, verified. `None`: there is none.
    ///
    /// # Errors
    /// When it is damaged or cannot be read. It is removed then.
    pub fn find(&self, key: &SnapshotKey) -> Result<Option<Found>, StoreError> {
        let known = self.entries().get(key).map(|entry| (entry.manifest.clone(), entry.verified.clone()));
        let path = self.path(key);
        // Another daemon that shares the directory may have made it, or made it anew.
        let manifest = match Manifest::read(&path, key) {
            Ok(manifest) => manifest,
            Err(error) if error.kind() == io::ErrorKind::NotFound && known.is_none() => return Ok(None),
            Err(error) => {
                drop(self.take_out_key(key));
                return Err(StoreError::Io("the manifest of the snapshot", error));
            }
        };
        let known = known.filter(|(known, _)| *known == manifest).map(|(_, verified)| verified).unwrap_or_default();
        let opened = open_all(&path, &manifest, &known);
        let (state, verified) = opened.inspect_err(|_| drop(self.take_out_key(key)))?;
        let (monitor, used) = (manifest.monitor.clone(), SystemTime::now());
        self.entries().insert(key.clone(), Entry { manifest, verified, used });
        // The next daemon reads from it which snapshot was used last.
        let _ = File::open(&path).and_then(|directory| directory.set_modified(used));
        Ok(Some(Found { state, monitor, directory: path }))
    }

    /// Begins a snapshot.
    ///
    /// # Errors
    /// When there can be none.
    pub fn begin(&self, key: &SnapshotKey) -> Result<NewSnapshot, StoreError> {
        if self.budget == 0 {
            return Err(StoreError::Off);
        }
        let path = self.directory.join(format!("{key}.{}.{INCOMPLETE}", self.run_id));
        remove(&path);
        let failed = |error| StoreError::Io("the directory of the snapshot", error);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let create = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(Part::State.name()));
        let state = create.inspect_err(|_| remove(&path)).map_err(failed)?;
        Ok(NewSnapshot { path, key: key.clone(), state })
    }

    /// Keeps a snapshot that has been written, in place of others of the function.
    ///
    /// # Errors
    /// When it cannot be kept. Nothing is left of it then.
    pub fn keep(&self, new: NewSnapshot, function: &str, monitor: String) -> Result<SnapshotInfo, StoreError> {
        let failed = |error| StoreError::Io("the files of the snapshot", error);
        let (mut bytes, mut parts, mut verified) = (0, BTreeMap::new(), BTreeMap::new());
        for part in Part::ALL {
            let Some(complete) = complete(&new.path(part)).map_err(failed)? else { continue };
            let (space, content, stamp) = complete;
            bytes += space;
            parts.insert(part, content);
            verified.insert(part, stamp);
        }
        if bytes > self.budget {
            return Err(StoreError::TooLarge { bytes, budget: self.budget });
        }
        let now = SystemTime::now();
        let taken = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let manifest =
            Manifest { key: new.key.to_string(), function: function.to_owned(), monitor, taken, bytes, parts };
        manifest.write(&new.path).map_err(failed)?;
        drop(self.take_out(function));
        self.make_room(bytes);
        let path = self.path(&new.key);
        // Another daemon that shares the directory may have been faster.
        remove(&path);
        fs::rename(&new.path, &path).map_err(failed)?;
        let info = SnapshotInfo { bytes, taken: manifest.taken().into() };
        self.entries().insert(new.key.clone(), Entry { manifest, verified, used: now });
        Ok(info)
    }

    /// Removes those that were used longest ago, until so many bytes fit.
    fn make_room(&self, bytes: u64) {
        while self.bytes() + bytes > self.budget {
            let oldest = self
                .entries()
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, entry)| (key.clone(), entry.manifest.function.clone()));
            let Some((key, function)) = oldest else { return };
            info!(self.log, "a snapshot makes room for another"; "function" => function);
            drop(self.take_out_key(&key));
        }
    }

    /// Takes the snapshots of a function out of the store. Blocks only for a moment; the drop of the result takes longer.
    pub fn take_out(&self, function: &str) -> Vec<Removed> {
        self.take_out_unless(|other| other != function)
    }

    /// Removes the snapshots of functions that are not wanted.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        drop(self.take_out_unless(is_wanted));
    }

    fn take_out_unless(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Removed> {
        let mut unwanted: Vec<_> =
            self.entries().iter().map(|(key, it)| (key.clone(), it.manifest.function.clone())).collect();
        unwanted.retain(|(_, function)| !is_wanted(function));
        unwanted.iter().map(|(key, _)| self.take_out_key(key)).collect()
    }

    /// From here on the snapshot is not found, whatever happens to its files.
    fn take_out_key(&self, key: &SnapshotKey) -> Removed {
        self.entries().remove(key);
        let number = self.removed.fetch_add(1, Ordering::Relaxed);
        let aside = self.directory.join(format!("{key}.{}-{number}.{INCOMPLETE}", self.run_id));
        // It may have vanished.
        let _ = fs::rename(self.path(key), &aside);
        Removed(aside)
    }

    /// Returns the snapshot of a function. No I/O.
    pub fn of(&self, function: &str) -> Option<SnapshotInfo> {
        let entries = self.entries();
        let manifest = entries.values().map(|entry| &entry.manifest).find(|manifest| manifest.function == function)?;
        Some(SnapshotInfo { bytes: manifest.bytes, taken: manifest.taken().into() })
    }

    /// Returns the bytes that all snapshots take. No I/O.
    pub fn bytes(&self) -> u64 {
        self.entries().values().map(|entry| entry.manifest.bytes).sum()
    }

    /// Returns all snapshots, by function. No I/O.
    pub fn list(&self) -> Vec<SnapshotEntry> {
        let entries = self.entries();
        let mut list: Vec<_> = entries.values().map(|entry| SnapshotEntry::from(&entry.manifest)).collect();
        list.sort_by(|a, b| a.function.cmp(&b.function));
        list
    }
}

impl From<&Manifest> for SnapshotEntry {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { key, function, monitor, bytes, .. } = manifest.clone();
        Self { function, key, bytes, taken: manifest.taken().into(), monitor }
    }
}

#[cfg(test)]
mod tests;
