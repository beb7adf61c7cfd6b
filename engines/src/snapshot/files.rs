//! The files of a snapshot: how they are completed, verified and removed.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    unistd::{getegid, geteuid},
};

use super::{
    error::StoreError,
    key::{FileStamp, SnapshotKey},
    manifest::{Content, Manifest, Part},
    zeros,
};

/// Verifies all files of a snapshot. Returns that with the state, and the stamps of all.
pub fn open_all(
    directory: &Path,
    manifest: &Manifest,
    known: &BTreeMap<Part, FileStamp>,
) -> Result<(File, BTreeMap<Part, FileStamp>), StoreError> {
    let (mut state, mut verified) = (None, BTreeMap::new());
    for (part, content) in &manifest.parts {
        let (file, stamp) = open_verified(&directory.join(part.name()), content, known.get(part))?;
        verified.insert(*part, stamp);
        state = state.or((*part == Part::State).then_some(file));
    }
    let missing = || StoreError::Damaged("it has no saved machine".to_owned());
    Ok((state.ok_or_else(missing)?, verified))
}

/// Completes a file that a monitor has written: its zeros take no space, and no monitor may write to it any more. Returns the
/// space that it takes, its content and its stamp. `None`: there is no such file.
pub fn complete(path: &Path) -> io::Result<Option<(u64, Content, FileStamp)>> {
    let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let mut file = match open {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    fchown(&file, Some(geteuid().as_raw()), Some(getegid().as_raw()))?;
    // Its directory is private.
    file.set_permissions(Permissions::from_mode(0o444))?;
    let space = zeros::punch(&file)?;
    let content = Content::of(&mut file)?;
    Ok(Some((space, content, FileStamp::of_content(&file.metadata()?))))
}

/// Opens a file and compares it with what it must contain, unless its stamp is that of a verified file.
fn open_verified(
    path: &Path,
    content: &Content,
    verified: Option<&FileStamp>,
) -> Result<(File, FileStamp), StoreError> {
    let failed = |error| StoreError::Io("the saved machine cannot be read", error);
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(failed)?;
    let stamp = FileStamp::of_content(&file.metadata().map_err(failed)?);
    if verified != Some(&stamp) {
        let found = Content::of(&mut file).map_err(failed)?;
        if found != *content {
            let (found, expected) = (found.bytes, content.bytes);
            return Err(StoreError::Damaged(if found == expected {
                "its checksum does not match".to_owned()
            } else {
                format!("it has {found} bytes instead of {expected}")
            }));
        }
        file.rewind().map_err(failed)?;
    }
    Ok((file, stamp))
}

/// A snapshot that is being written. It is removed with this, unless it is kept.
#[derive(Debug)]
pub struct NewSnapshot {
    pub(super) path: PathBuf,
    pub(super) key: SnapshotKey,
    /// Where the saved machine is to be written.
    pub state: File,
}

impl NewSnapshot {
    /// Moves a file here, to be this part.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn take(&self, part: Part, from: &Path) -> Result<(), StoreError> {
        fs::rename(from, self.path(part)).map_err(|error| StoreError::Io("a file of the template", error))
    }

    /// Returns where a part is to be written.
    pub fn path(&self, part: Part) -> PathBuf {
        self.path.join(part.name())
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        // It has its name if it is kept.
        remove(&self.path);
    }
}

/// A snapshot that was taken out of the store. Its files are removed with this, which blocks.
#[derive(Debug)]
pub struct Removed(pub(super) PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes the directory of a snapshot.
pub fn remove(path: &Path) {
    // What cannot be removed is removed at the next start.
    let _ = fs::remove_dir_all(path);
}
