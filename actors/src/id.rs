//! Names of instances: the public one and the secret one.

use std::fmt;

use serde::{Serialize, Serializer};

/// The public name of an instance: unique over restarts of the daemon, shown in logs, at `/debug` and in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(u64);

impl InstanceId {
    /// A fresh, random name.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads what `Display` wrote.
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

/// The secret in an instance's callback URL. Only the instance is told; it is never logged or shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadyToken(u128);

impl ReadyToken {
    /// A fresh token that nobody can guess.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads the token of a callback URL.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }

    /// The token as it stands in the callback URL.
    pub fn reveal(&self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Debug for ReadyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadyToken(…)")
    }
}
