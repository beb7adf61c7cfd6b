//! The manifest of a snapshot: what it is of, and what its files must contain.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::key::{SnapshotKey, hex};

/// The name of the file.
const FILE: &str = "manifest.json";
/// The largest manifest that is read, in bytes.
const MAX_SIZE: u64 = 64 << 10;
const READ_SIZE: usize = 1 << 20;

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub key: String,
    /// The function whose template it is of.
    pub function: String,
    /// The version of the monitor that has written it, in its own words.
    pub monitor: String,
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// The space that its files take, without zeros.
    pub bytes: u64,
    pub parts: BTreeMap<Part, Content>,
}

/// A file of a snapshot, by the name that it has in its directory and in those of clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The saved machine; that of QEMU with its memory.
    State,
    /// The memory of a guest of Firecracker. Its clones map it.
    Memory,
    /// The private root disk of the template. Each clone gets a copy.
    Disk,
}

impl Part {
    /// All parts. No snapshot has more.
    pub const ALL: [Self; 3] = [Self::State, Self::Memory, Self::Disk];

    /// Returns the name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// What a file must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub bytes: u64,
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest in the directory of a snapshot.
    ///
    /// # Errors
    /// When it is missing, damaged or of another snapshot.
    pub fn read(directory: &Path, key: &SnapshotKey) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(directory.join(FILE))?.take(MAX_SIZE).read_to_end(&mut text)?;
        let manifest: Self = serde_json::from_slice(&text)?;
        if manifest.key != key.to_string() {
            return Err(io::Error::other("it is of another snapshot"));
        }
        Ok(manifest)
    }

    /// Writes the manifest into the directory of a snapshot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(FILE), serde_json::to_vec_pretty(self)?)
    }

    /// Returns when it was taken.
    pub fn taken(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.taken)
    }
}

impl Content {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(file: &mut File) -> io::Result<Self> {
        let (mut digest, mut bytes, mut buffer) = (Context::new(&SHA256), 0, vec![0; READ_SIZE]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self { bytes, sha256: hex(digest.finish().as_ref()) });
            }
            digest.update(&buffer[..count]);
            bytes += count as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_read_as_it_was_written() {
        let place = tempfile::tempdir().unwrap();
        let key = SnapshotKey::parse(&"0a".repeat(16)).unwrap();
        let parts = BTreeMap::from([(Part::State, Content { bytes: 3, sha256: "x".to_owned() })]);
        let (function, monitor) = ("f".to_owned(), "7.2".to_owned());
        let (taken, bytes) = (1_700_000_000, 3);
        let manifest = Manifest { key: key.to_string(), function, monitor, taken, bytes, parts };
        manifest.write(place.path()).unwrap();
        assert_eq!(Manifest::read(place.path(), &key).unwrap(), manifest);
        let other = SnapshotKey::parse(&"0b".repeat(16)).unwrap();
        assert!(Manifest::read(place.path(), &other).unwrap_err().to_string().contains("another"));
        fs::write(place.path().join(FILE), "{}").unwrap();
        assert!(Manifest::read(place.path(), &key).is_err());
    }

    #[test]
    fn content_is_length_and_hash() {
        let mut file = tempfile::tempfile().unwrap();
        let empty = Content::of(&mut file).unwrap();
        assert!(empty.bytes == 0 && empty.sha256.starts_with("e3b0c442"));
    }
}
