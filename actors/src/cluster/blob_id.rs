//! What identifies published content: its SHA-256. A version of a function is the id of its manifest.

use std::{fmt, str::FromStr};

use ring::digest::{Context, Digest, SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::node::{parse_hex, write_hex};

/// Digits that tell versions apart for people.
const SHORT: usize = 12;

/// The SHA-256 of a file, or of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 32]);

/// Computes the id of content that comes in pieces.
#[derive(Clone)]
pub struct BlobHasher(Context);

impl BlobId {
    /// Returns the id of content.
    pub fn of(content: &[u8]) -> Self {
        digest(&SHA256, content).into()
    }

    /// Returns the first digits.
    pub fn short(&self) -> String {
        let mut digits = self.to_string();
        digits.truncate(SHORT);
        digits
    }

    /// Returns a number that is evenly distributed over ids.
    pub(super) fn number(&self) -> u64 {
        self.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl BlobHasher {
    /// Begins with no content.
    #[allow(clippy::new_without_default, reason = "there is no default content")]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Returns the id of all pieces.
    pub fn finish(self) -> BlobId {
        self.0.finish().into()
    }
}

impl From<Digest> for BlobId {
    fn from(digest: Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self)
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_the_sha256_of_the_content() {
        let id = BlobId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((id.to_string().parse(), id.short().as_str()), (Ok(id), "ba7816bf8f01"));
        assert_eq!(id.number(), 0xba78_16bf_8f01_cfea);
        let mut hasher = BlobHasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), id);
    }
}
