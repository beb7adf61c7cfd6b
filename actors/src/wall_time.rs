//! Wall-clock times and durations as logs and `/debug` show them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

/// A wall-clock time. Shown in UTC, as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(SystemTime);

impl WallTime {
    /// Returns the current time.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// Returns the time so long before now.
    pub fn before(ago: Duration) -> Self {
        let now = SystemTime::now();
        Self(now.checked_sub(ago).unwrap_or(now))
    }

    /// Returns how long ago it was; zero if the clock was set back.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.0).fmt(f)
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Returns a duration in milliseconds, with three decimals at most.
pub fn rounded_ms(duration: Duration) -> f64 {
    // The quotient of two integers is the float that is written with the fewest digits.
    duration.as_micros() as f64 / 1e3
}

/// Returns a duration in seconds, with three decimals at most.
pub fn rounded_seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        let time = WallTime(SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456));
        assert_eq!(time.to_string(), "2009-02-13T23:31:30.123Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2009-02-13T23:31:30.123Z\"");
    }

    #[test]
    fn durations_have_three_decimals_at_most() {
        let long = Duration::from_nanos(24_394_978_123);
        assert_eq!(
            (rounded_ms(long).to_string(), rounded_seconds(long).to_string()),
            ("24394.978".into(), "24.394".into())
        );
        assert_eq!(rounded_ms(Duration::from_nanos(24_394_978)).to_string(), "24.394");
        assert_eq!(rounded_ms(Duration::from_nanos(999)).to_string(), "0");
    }
}
