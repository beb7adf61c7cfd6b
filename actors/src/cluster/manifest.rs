//! The files of a version of a function: paths, modes, sizes and hashes.
//!
//! A manifest has one form only, so that equal directories are the same version. What comes from other nodes is checked
//! here before anything of it is used: a path cannot leave the directory, nor can a link.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blob_id::BlobId;
use crate::spec::SPEC_FILE;

/// Files of a version.
const MAX_FILES: usize = 10_000;
/// Largest version, in bytes.
pub const MAX_VERSION: u64 = 1 << 30;
/// Longest path and longest name in it, in bytes, as most file systems have them.
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;
/// The bits of a mode that count: no set-user-id.
const MODE: u32 = 0o777;
/// Largest encoded manifest.
pub const MAX_MANIFEST: usize = 4 << 20;

/// What a version consists of, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(BTreeMap<String, Content>);

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Content {
    /// A file.
    File {
        /// Its permissions.
        mode: u32,
        /// Its size in bytes.
        size: u64,
        /// The hash of its content.
        hash: BlobId,
    },
    /// A symbolic link to a place in the same directory.
    Link(String),
}

/// Why a directory cannot be published, or a manifest is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be parsed.
    #[error("it is no manifest: {0}")]
    Malformed(String),
    /// It can be parsed, and is written differently from how it is encoded.
    #[error("it is no manifest: it has another form")]
    NotCanonical,
    /// A path may lead elsewhere, or cannot be created.
    #[error("{0:?} is no path of a published file")]
    Path(String),
    /// A path is below a file or a link.
    #[error("{0:?} is below something that is no directory")]
    NotADirectory(String),
    /// A link may lead elsewhere.
    #[error("the link {path:?} leads to {target:?}, which is not known to be within the directory")]
    Link {
        /// Where the link is.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// The mode has other bits.
    #[error("{path:?} has mode {mode:o}, and only permissions are published")]
    Mode {
        /// Which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// There is no function.
    #[error("there is no {SPEC_FILE}")]
    NoFunction,
    /// It has too many files.
    #[error("it has more than {MAX_FILES} files")]
    TooMany,
    /// It is too large.
    #[error("it has {0} bytes or more, and may have {MAX_VERSION}")]
    TooLarge(u64),
}

impl Manifest {
    /// Checks what was found in a directory.
    ///
    /// # Errors
    /// The first thing that cannot be published.
    pub fn new(files: BTreeMap<String, Content>) -> Result<Self, ManifestError> {
        if files.len() > MAX_FILES {
            return Err(ManifestError::TooMany);
        }
        let mut bytes = 0_u64;
        for (path, content) in &files {
            check_path(path, &files)?;
            match content {
                Content::File { mode, .. } if mode & !MODE != 0 => {
                    return Err(ManifestError::Mode { path: path.clone(), mode: *mode });
                }
                Content::File { size, .. } => bytes = bytes.saturating_add(*size),
                Content::Link(target) => check_link(path, target)?,
            }
        }
        if bytes > MAX_VERSION {
            return Err(ManifestError::TooLarge(bytes));
        }
        if !matches!(files.get(SPEC_FILE), Some(Content::File { .. })) {
            return Err(ManifestError::NoFunction);
        }
        Ok(Self(files))
    }

    /// Reads an encoded manifest.
    ///
    /// # Errors
    /// It is none, or has something that is not to be created.
    pub fn decode(encoded: &[u8]) -> Result<Self, ManifestError> {
        if encoded.len() > MAX_MANIFEST {
            return Err(ManifestError::TooMany);
        }
        let files = serde_json::from_slice(encoded).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        let manifest = Self::new(files)?;
        if manifest.encode() == encoded { Ok(manifest) } else { Err(ManifestError::NotCanonical) }
    }

    /// Returns the one form of it.
    pub fn encode(&self) -> Vec<u8> {
        // Only maps with keys that are no strings fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the version that it describes.
    pub fn version(&self) -> BlobId {
        BlobId::of(&self.encode())
    }

    /// Returns what is at each path, in the order of paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.0.iter().map(|(path, content)| (path.as_str(), content))
    }

    /// Returns the content of all files, each once, with its size.
    pub fn blobs(&self) -> BTreeMap<BlobId, u64> {
        let blob = |content: &Content| match content {
            Content::File { size, hash, .. } => Some((*hash, *size)),
            Content::Link(_) => None,
        };
        self.0.values().filter_map(blob).collect()
    }

    /// Returns the bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |content: &Content| if let Content::File { size, .. } = content { *size } else { 0 };
        self.0.values().map(size).sum()
    }
}

/// Checks that a path stays within the directory, and can be created beside the others.
fn check_path(path: &str, files: &BTreeMap<String, Content>) -> Result<(), ManifestError> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && !name.contains('\0');
    if path.len() > MAX_PATH || !path.split('/').all(is_name) {
        return Err(ManifestError::Path(path.to_owned()));
    }
    let mut parents = path.match_indices('/').map(|(end, _)| &path[..end]);
    if parents.any(|parent| files.contains_key(parent)) {
        return Err(ManifestError::NotADirectory(path.to_owned()));
    }
    Ok(())
}

/// Checks that a link stays within the directory, whatever other links it leads through: it may go up only at its beginning,
/// where it is in a real directory.
fn check_link(path: &str, target: &str) -> Result<(), ManifestError> {
    let depth = path.matches('/').count();
    let names: Vec<_> = target.split('/').collect();
    let up = names.iter().take_while(|name| **name == "..").count();
    let is_name = |name: &&str| !matches!(*name, "" | "..") && !name.contains('\0');
    if target.len() > MAX_PATH || up > depth || !names[up..].iter().all(is_name) || target.is_empty() {
        return Err(ManifestError::Link { path: path.to_owned(), target: target.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Content {
        Content::File { mode: 0o644, size: content.len() as u64, hash: BlobId::of(content) }
    }

    fn with(more: impl IntoIterator<Item = (&'static str, Content)>) -> Result<Manifest, ManifestError> {
        let more = more.into_iter().map(|(path, content)| (path.to_owned(), content));
        Manifest::new(more.chain([(SPEC_FILE.to_owned(), file(b"x"))]).collect())
    }

    #[test]
    fn version_is_known_by_the_manifest_alone() {
        let manifest = with([("bin/run", file(b"abc")), ("run", Content::Link("bin/run".to_owned()))]).unwrap();
        let encoded = manifest.encode();
        let text = concat!(
            r#"{"bin/run":{"file":{"mode":420,"size":3,"hash":"#,
            r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}},"#,
            r#""function.toml":{"file":{"mode":420,"size":1,"hash":"#,
            r#""2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}},"run":{"link":"bin/run"}}"#
        );
        assert_eq!(str::from_utf8(&encoded), Ok(text));
        assert_eq!(Manifest::decode(&encoded), Ok(manifest.clone()));
        assert_eq!((manifest.version(), manifest.bytes()), (BlobId::of(text.as_bytes()), 4));
        assert_eq!(Manifest::decode(format!("{text} ").as_bytes()), Err(ManifestError::NotCanonical));
        assert!(matches!(Manifest::decode(b"{"), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn nothing_leaves_the_directory() {
        for path in ["/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "", "a\0b"] {
            assert_eq!(with([(path, file(b""))]), Err(ManifestError::Path(path.to_owned())), "{path:?}");
        }
        for (path, target) in
            [("l", "/etc"), ("l", ".."), ("a/l", "../.."), ("l", "a/../.."), ("l", "a/.."), ("l", ""), ("l", "a//b")]
        {
            let refused = ManifestError::Link { path: path.to_owned(), target: target.to_owned() };
            assert_eq!(with([(path, Content::Link(target.to_owned()))]), Err(refused), "{target:?}");
        }
        for (path, target) in [("l", "a/b"), ("a/l", "../b"), ("a/b/l", "../../c"), ("a/l", "..")] {
            assert!(with([(path, Content::Link(target.to_owned()))]).is_ok(), "{target:?}");
        }
        let below = with([("l", Content::Link("a".to_owned())), ("l/b", file(b""))]);
        assert_eq!(below, Err(ManifestError::NotADirectory("l/b".to_owned())));
    }

    #[test]
    fn size_count_and_modes_are_bounded() {
        let large = Content::File { mode: 0o644, size: MAX_VERSION, hash: BlobId::of(b"") };
        assert_eq!(with([("large", large)]), Err(ManifestError::TooLarge(MAX_VERSION + 1)));
        let many = (0..MAX_FILES).map(|index| (format!("f{index}"), file(b"")));
        let many = many.chain([(SPEC_FILE.to_owned(), file(b"x"))]).collect();
        assert_eq!(Manifest::new(many), Err(ManifestError::TooMany));
        let setuid = Content::File { mode: 0o4755, size: 0, hash: BlobId::of(b"") };
        assert_eq!(with([("s", setuid)]), Err(ManifestError::Mode { path: "s".to_owned(), mode: 0o4755 }));
        assert_eq!(Manifest::new(BTreeMap::new()), Err(ManifestError::NoFunction));
    }
}
