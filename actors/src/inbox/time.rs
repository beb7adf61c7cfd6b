//! Wall-clock time in milliseconds since 1970, as it is stored.
//!
//! What is due after a restart must be due by the wall clock. A jump of the clock moves due times by as much.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use crate::wall_time::WallTime;

/// Milliseconds since 1970. Shown as RFC 3339.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Returns the current time.
    pub fn now() -> Self {
        Self(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// Returns the time so long after this one.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns how long before `later` this time is. Zero: it is not before.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// Rounds up, so that nothing is due too early.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<UnixMillis> for WallTime {
    fn from(UnixMillis(millis): UnixMillis) -> Self {
        // The last year that RFC 3339 can express.
        const LAST: u64 = 253_402_300_799_999;
        Self::from(UNIX_EPOCH + Duration::from_millis(millis.min(LAST)))
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WallTime::from(*self).serialize(serializer)
    }
}
