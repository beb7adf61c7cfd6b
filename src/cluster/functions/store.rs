//! The versions of published functions on disk, below `<state-dir>/functions/`.
//!
//! ```text
//!   .staging/                  versions that are being put together, removed at the next start
//!   <function>/<version>/      the files of a version
//!   <function>/<version>.json  its manifest
//!   <function>/current         a link to the version that is served
//!   <function>/before          a link to the version that was served before
//!   <function>/failed.json     versions that have failed here
//! ```
//!
//! A version appears by a rename, and is served by another one: neither is ever seen half-done. Blocking.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use unifaas_actors::{
    CURRENT,
    cluster::{BlobId, Content, FailedVersion, LocalVersions, Manifest},
    spec::check_name,
};

use super::{error::StoreError, staging::make_directory};
use crate::state::file;

pub const DIRECTORY: &str = "functions";
const STAGING: &str = ".staging";
const BEFORE: &str = "before";
const FAILED: &str = "failed.json";

/// The versions that this node has.
#[derive(Debug)]
pub struct FunctionStore {
    pub root: PathBuf,
    held: Mutex<Held>,
    pub(super) stagings: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    functions: BTreeMap<String, HeldFunction>,
    /// Where the content of each blob is.
    blobs: HashMap<BlobId, PathBuf>,
}

#[derive(Debug, Default)]
struct HeldFunction {
    manifests: BTreeMap<BlobId, Arc<Manifest>>,
    current: Option<BlobId>,
    before: Option<BlobId>,
    failed: BTreeMap<BlobId, FailedVersion>,
}

impl FunctionStore {
    /// Reads what there is. Nothing is changed: another daemon may still use it.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(base: &Path) -> Result<Self, StoreError> {
        let store = Self { root: base.join(DIRECTORY), held: Mutex::default(), stagings: AtomicU64::new(0) };
        make_directory(&store.root).and_then(|()| store.read()).map_err(|source| store.disk(source))?;
        Ok(store)
    }

    fn read(&self) -> io::Result<()> {
        let mut held = Held::default();
        for entry in fs::read_dir(&self.root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if check_name(&name).is_ok() {
                held.functions.insert(name, read_function(&entry.path()));
            }
        }
        held.index(&self.root);
        *self.held() = held;
        Ok(())
    }

    /// Reads again what there is, as the daemon before may have changed it until now, and removes what is half-done.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn take_over(&self) -> Result<(), StoreError> {
        self.read().map_err(|source| self.disk(source))?;
        // What cannot be removed does no harm.
        let _ = fs::remove_dir_all(self.root.join(STAGING));
        let known: Vec<_> = self.held().functions.keys().cloned().collect();
        for function in known {
            let held = self.local(&function).held;
            for entry in fs::read_dir(self.root.join(&function)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let version = name.strip_suffix(".json").unwrap_or(&name).parse::<BlobId>();
                let is_left = version.is_ok_and(|version| !held.contains(&version));
                if is_left && name.ends_with(".json") {
                    let _ = fs::remove_file(entry.path());
                } else if is_left {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Returns what this node has of a function.
    pub fn local(&self, function: &str) -> LocalVersions {
        let held = self.held();
        let Some(function) = held.functions.get(function) else { return LocalVersions::default() };
        let HeldFunction { manifests, current, before, failed } = function;
        let held = manifests.keys().copied().collect();
        LocalVersions { held, current: *current, before: *before, failed: failed.clone() }
    }

    /// Returns the functions of which there are versions.
    pub fn functions(&self) -> Vec<String> {
        self.held().functions.keys().cloned().collect()
    }

    /// Returns where the files of a version are.
    pub fn directory(&self, function: &str, version: BlobId) -> PathBuf {
        self.root.join(function).join(version.to_string())
    }

    /// Returns where the content of a blob is.
    pub fn find_blob(&self, blob: BlobId) -> Option<PathBuf> {
        self.held().blobs.get(&blob).cloned()
    }

    /// Serves a version from now on.
    ///
    /// # Errors
    /// When the links cannot be written.
    pub fn switch(&self, function: &str, version: BlobId) -> Result<(), StoreError> {
        let directory = self.root.join(function);
        let mut held = self.held();
        let known = held.functions.entry(function.to_owned()).or_default();
        if let Some(current) = known.current.filter(|current| *current != version) {
            replace_link(&directory.join(BEFORE), current).map_err(|source| self.disk(source))?;
            known.before = Some(current);
        }
        replace_link(&directory.join(CURRENT), version).map_err(|source| self.disk(source))?;
        known.current = Some(version);
        Ok(())
    }

    /// Returns how long ago a function was switched to the version that it serves. `None`: it serves none, or the clock says
    /// nothing about it.
    pub fn switched_before(&self, function: &str) -> Option<Duration> {
        let link = self.root.join(function).join(CURRENT).symlink_metadata().ok()?;
        link.modified().ok()?.elapsed().ok()
    }

    /// Serves no version any more.
    ///
    /// # Errors
    /// When the link cannot be removed.
    pub fn forget(&self, function: &str) -> Result<(), StoreError> {
        let directory = self.root.join(function);
        let mut held = self.held();
        let Some(known) = held.functions.get_mut(function) else { return Ok(()) };
        for name in [CURRENT, BEFORE] {
            match fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.disk(error)),
                _ => {}
            }
        }
        (known.current, known.before) = (None, None);
        Ok(())
    }

    /// Notes that a version has failed here.
    pub fn note_failed(&self, function: &str, version: BlobId, failed: FailedVersion) {
        if let Some(known) = self.held().functions.get_mut(function) {
            known.failed.insert(version, failed);
            write_failed(&self.root.join(function), &known.failed);
        }
    }

    /// Has versions tried again that have failed in other revisions of the publication.
    pub fn retain_failed(&self, function: &str, revision: u64) {
        if let Some(known) = self.held().functions.get_mut(function) {
            let before = known.failed.len();
            known.failed.retain(|_, failed| failed.revision == revision);
            if known.failed.len() < before {
                write_failed(&self.root.join(function), &known.failed);
            }
        }
    }

    /// Removes the files of a version.
    pub fn remove(&self, function: &str, version: BlobId) {
        let mut held = self.held();
        if let Some(known) = held.functions.get_mut(function) {
            known.manifests.remove(&version);
        }
        held.index(&self.root);
        drop(held);
        let directory = self.directory(function, version);
        // What is left of it is removed at the next start.
        let _ = fs::remove_file(manifest_file(&directory));
        let _ = fs::remove_dir_all(directory);
    }

    /// Takes over a complete version.
    pub(super) fn adopt(&self, function: &str, manifest: Manifest, tree: &Path) -> Result<BlobId, StoreError> {
        let version = manifest.version();
        let directory = self.directory(function, version);
        let mut held = self.held();
        let known = held.functions.entry(function.to_owned()).or_default();
        if known.manifests.contains_key(&version) {
            return Ok(version);
        }
        let place = || {
            make_directory(&self.root.join(function))?;
            // Left by a daemon that was killed.
            if directory.exists() {
                fs::remove_dir_all(&directory)?;
            }
            file::replace(&manifest_file(&directory), &manifest.encode())?;
            fs::rename(tree, &directory)
        };
        place().map_err(|source| {
            let _ = fs::remove_file(manifest_file(&directory));
            self.disk(source)
        })?;
        known.manifests.insert(version, Arc::new(manifest));
        held.index(&self.root);
        Ok(version)
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    pub(super) fn disk(&self, source: io::Error) -> StoreError {
        StoreError::Disk { directory: self.root.clone(), source }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn index(&mut self, root: &Path) {
        self.blobs.clear();
        for (name, function) in &self.functions {
            for (version, manifest) in &function.manifests {
                let directory = root.join(name).join(version.to_string());
                self.blobs.insert(*version, manifest_file(&directory));
                for (path, content) in manifest.files() {
                    if let Content::File { hash, .. } = content {
                        self.blobs.insert(*hash, directory.join(path));
                    }
                }
            }
        }
    }
}

fn manifest_file(directory: &Path) -> PathBuf {
    directory.with_extension("json")
}

/// Reads what is in the directory of a function.
fn read_function(directory: &Path) -> HeldFunction {
    let version_at = |name| fs::read_link(directory.join(name)).ok()?.to_str()?.parse::<BlobId>().ok();
    let (current, before) = (version_at(CURRENT), version_at(BEFORE));
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Some(version) = entry.file_name().to_str().and_then(|name| name.parse::<BlobId>().ok()) else { continue };
        let encoded = fs::read(manifest_file(&entry.path())).unwrap_or_default();
        if let Ok(manifest) = Manifest::decode(&encoded)
            && manifest.version() == version
        {
            manifests.insert(version, Arc::new(manifest));
        }
    }
    let failed = fs::read(directory.join(FAILED)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    HeldFunction { manifests, current, before, failed: failed.unwrap_or_default() }
}

fn write_failed(directory: &Path, failed: &BTreeMap<BlobId, FailedVersion>) {
    // Without the file, the version is tried once more by the next daemon.
    if let Ok(text) = serde_json::to_vec(failed) {
        let _ = file::replace(&directory.join(FAILED), &text);
    }
}

/// Points a link to a version, in one step.
fn replace_link(link: &Path, version: BlobId) -> io::Result<()> {
    let new = link.with_extension(file::TEMPORARY);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(version.to_string(), &new)?;
    fs::rename(new, link)
}

#[cfg(test)]
mod tests;
