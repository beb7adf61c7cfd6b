//! Identifiers: of functions inside the daemon, and the public and the secret one of an instance.

use std::fmt;

use serde::{Serialize, Serializer};

/// Identifies a function's actor. Unlike the name it is never used twice, so it tells a function from its predecessor.
pub type FunctionKey = u64;

/// The public id of an instance, shown in logs, at `/debug` and in errors. Unique across restarts of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(u64);

impl InstanceId {
    /// Returns a new random id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Parses the 16 hexadecimal digits that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The secret in an instance's callback URL. Known to the instance only; never logged or shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadyToken(u128);

impl ReadyToken {
    /// Returns a new random token.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Parses the 32 lower-case hexadecimal digits of a callback URL.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }

    /// Returns the token as it stands in the callback URL.
    pub fn reveal(&self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Debug for ReadyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadyToken(…)")
    }
}
