//! What identifies a node: its id, its run and its public key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A node: the random number of its state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A run of a node's daemon. A later run has a greater one, and no two runs have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

/// An Ed25519 public key, by which the other nodes know a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Bits of the random part of an epoch.
const RANDOM_BITS: u32 = 32;

impl Epoch {
    /// Makes the epoch of a run: how many there were before, and a random number, which tells two nodes with copies of one
    /// state directory apart.
    pub fn new(runs: u32, random: u32) -> Self {
        Self((u64::from(runs) << RANDOM_BITS) | u64::from(random))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or("expected 16 hexadecimal digits")
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self)
    }
}

/// Writes bytes as hexadecimal digits.
pub(super) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads 32 bytes of hexadecimal digits.
pub(super) fn parse_hex(text: &str) -> Result<[u8; 32], &'static str> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("expected 64 hexadecimal digits");
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..][..2], 16).unwrap_or_default();
    }
    Ok(bytes)
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys_are_read_as_they_are_written() {
        let (node, key) = (NodeId(0x0123_4567_89ab_cdef), PublicKey(std::array::from_fn(|index| 7 * index as u8)));
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "xyz", "0123456789abcdeg", "+123456789abcdef0"] {
            assert!(text.parse::<NodeId>().is_err() && text.parse::<PublicKey>().is_err(), "{text}");
        }
        assert!(format!("+{}", &key.to_string()[1..]).parse::<PublicKey>().is_err());
        assert!("é".repeat(32).parse::<PublicKey>().is_err());
    }

    #[test]
    fn later_runs_have_greater_epochs() {
        assert!(Epoch::new(2, 0) > Epoch::new(1, u32::MAX));
        assert_ne!(Epoch::new(1, 0), Epoch::new(1, 1));
    }
}
