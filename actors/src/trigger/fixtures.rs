//! Makes schedules and times for the tests of triggers.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use crate::spec::{CronScope, CronSpec, Missed, Schedule};

/// Returns a schedule in UTC. `missed_within` is in seconds.
pub fn spec(at: &str, missed: Missed, missed_within: i64) -> CronSpec {
    CronSpec {
        at: at.to_owned(),
        zone: "UTC".to_owned(),
        schedule: Schedule::new(at, TimeZone::UTC).unwrap(),
        path: "/".to_owned(),
        method: "POST".to_owned(),
        body: String::new(),
        missed,
        missed_within: Duration::from_secs(missed_within.unsigned_abs()),
        scope: CronScope::Node,
    }
}

/// Returns a time of 2026-05-01.
pub fn at(clock: &str) -> Timestamp {
    format!("2026-05-01T{clock}Z").parse().unwrap()
}
