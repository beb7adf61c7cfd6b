//! Puts a version together: its blobs come one by one, each is checked, and the whole appears by one rename.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use unifaas_actors::cluster::{BlobHasher, BlobId, Content, Manifest};

use super::{error::StoreError, store::FunctionStore};

/// Functions may run as other users, who pass through to their files.
const MODE: u32 = 0o755;
/// Bytes that are copied at once.
const PIECE: usize = 256 * 1024;

/// A version that is being put together. Dropping it removes what there is.
#[derive(Debug)]
pub struct Staging {
    store: Arc<FunctionStore>,
    function: String,
    directory: PathBuf,
}

/// The file of a blob while its content comes.
#[derive(Debug)]
pub struct BlobFile {
    store: Arc<FunctionStore>,
    path: PathBuf,
    blob: BlobId,
    limit: u64,
    file: File,
    hasher: HasherState,
    written: u64,
}

struct HasherState(BlobHasher);

impl std::fmt::Debug for HasherState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HasherState")
    }
}

impl Staging {
    /// Begins a version of a function.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn begin(store: &Arc<FunctionStore>, function: &str) -> Result<Self, StoreError> {
        let number = store.stagings.fetch_add(1, Relaxed);
        let directory = store.staging().join(format!("{}-{number}", std::process::id()));
        let staging = Self { store: store.clone(), function: function.to_owned(), directory };
        make_directory(&staging.directory.join("blobs")).map_err(|source| store.disk(source))?;
        Ok(staging)
    }

    /// Returns the blobs that have to come, with their sizes: the others are here in other versions.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn missing(&self, manifest: &Manifest) -> Result<BTreeMap<BlobId, u64>, StoreError> {
        let mut missing = BTreeMap::new();
        for (blob, size) in manifest.blobs() {
            if !self.copy_known(blob, size)? {
                missing.insert(blob, size);
            }
        }
        Ok(missing)
    }

    /// Copies a blob of another version, if there is one and it is as it was.
    fn copy_known(&self, blob: BlobId, size: u64) -> Result<bool, StoreError> {
        let known = self.store.find_blob(blob).and_then(|path| File::open(path).ok());
        let Some(mut known) = known else { return Ok(false) };
        let (mut file, mut piece) = (self.create(blob, size)?, vec![0; PIECE]);
        loop {
            match known.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => match file.write(&piece[..read]) {
                    Err(disk @ StoreError::Disk { .. }) => return Err(disk),
                    Err(_) => return Ok(false),
                    Ok(()) => {}
                },
                Err(_) => return Ok(false),
            }
        }
        match file.finish() {
            Ok(()) => Ok(true),
            Err(disk @ StoreError::Disk { .. }) => Err(disk),
            Err(_) => Ok(false),
        }
    }

    /// Creates the file of a blob of at most so many bytes.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn create(&self, blob: BlobId, limit: u64) -> Result<BlobFile, StoreError> {
        let path = self.blob(blob);
        let file = File::create(&path).map_err(|source| self.store.disk(source))?;
        let hasher = HasherState(BlobHasher::new());
        Ok(BlobFile { store: self.store.clone(), path, blob, limit, file, hasher, written: 0 })
    }

    /// Reads a blob that has come.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, blob: BlobId) -> Result<Vec<u8>, StoreError> {
        fs::read(self.blob(blob)).map_err(|source| self.store.disk(source))
    }

    /// Makes the version of its blobs, which have all come.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn finish(self, manifest: Manifest) -> Result<BlobId, StoreError> {
        let tree = self.directory.join("tree");
        self.build(&tree, &manifest).map_err(|source| self.store.disk(source))?;
        self.store.adopt(&self.function, manifest, &tree)
    }

    fn build(&self, tree: &Path, manifest: &Manifest) -> io::Result<()> {
        make_directory(tree)?;
        let mut uses = BTreeMap::<BlobId, usize>::new();
        for (_, content) in manifest.files() {
            if let Content::File { hash, .. } = content {
                *uses.entry(*hash).or_default() += 1;
            }
        }
        for (path, content) in manifest.files() {
            let place = tree.join(path);
            if let Some(parent) = place.parent() {
                make_directory(parent)?;
            }
            match content {
                Content::Link(target) => symlink(target, place)?,
                Content::File { mode, hash, .. } => {
                    let left = uses.entry(*hash).or_insert(1);
                    *left -= 1;
                    if *left == 0 {
                        fs::rename(self.blob(*hash), &place)?;
                    } else {
                        // Not a hard link: files of equal content may have different modes, and a function may write to one.
                        fs::copy(self.blob(*hash), &place)?;
                    }
                    fs::set_permissions(&place, Permissions::from_mode(*mode))?;
                    File::open(&place).and_then(|file| file.sync_all())?;
                }
            }
        }
        Ok(())
    }

    fn blob(&self, blob: BlobId) -> PathBuf {
        self.directory.join("blobs").join(blob.to_string())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left is removed at the next start.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl BlobFile {
    /// Returns how many bytes have come.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns how many may still come.
    pub fn rest(&self) -> u64 {
        self.limit - self.written
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// It is too much, or cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        if piece.len() as u64 > self.rest() {
            return Err(StoreError::TooLong);
        }
        self.file.write_all(piece).map_err(|source| self.store.disk(source))?;
        self.hasher.0.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Begins again.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file = File::create(&self.path).map_err(|source| self.store.disk(source))?;
        (self.hasher, self.written) = (HasherState(BlobHasher::new()), 0);
        Ok(())
    }

    /// Checks the content, which has all come.
    ///
    /// # Errors
    /// It is not that of the blob.
    pub fn finish(&self) -> Result<(), StoreError> {
        let found = self.hasher.0.clone().finish();
        if found != self.blob {
            return Err(StoreError::Damaged { expected: self.blob, found });
        }
        Ok(())
    }
}

/// Makes a directory that other users may pass through, whatever the daemon's umask.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        created => created?,
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
}
