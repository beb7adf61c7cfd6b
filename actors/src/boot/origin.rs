//! Where a running instance comes from.

use std::fmt;

use serde::Serialize;

/// How an instance came to serve: the rung of the warmth ladder that it was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It was booted.
    Cold,
    /// It was paused, and runs again.
    Resumed,
    /// It was restored from a snapshot.
    Restored,
}

impl Origin {
    /// Every origin, in the order of the discriminants.
    pub const ALL: [Origin; 3] = [Origin::Cold, Origin::Resumed, Origin::Restored];

    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Cold => "cold",
            Origin::Resumed => "resumed",
            Origin::Restored => "restored",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_has_its_position_and_its_name() {
        for (position, origin) in Origin::ALL.into_iter().enumerate() {
            assert_eq!(origin as usize, position);
            assert_eq!(serde_json::to_value(origin).unwrap(), origin.as_str());
        }
    }
}
