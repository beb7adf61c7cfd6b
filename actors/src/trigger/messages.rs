//! The messages of the TriggerActor, and what it reports.

use std::sync::Arc;

use actix::Message;
use serde::Serialize;

use crate::inbox::UnixMillis;

/// Asks what the triggers do.
#[derive(Debug, Message)]
#[rtype(result = "TriggerReport")]
pub struct TriggerQuestion;

/// What the triggers do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TriggerReport {
    /// The schedules, by function.
    pub cron: Vec<CronReport>,
}

/// What a schedule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CronReport {
    /// Its function.
    pub function: Arc<str>,
    /// Its position in the function's file, from 0.
    pub index: usize,
    /// Its expression.
    pub at: String,
    /// Its time zone.
    pub zone: String,
    /// What it waits for.
    pub state: CronState,
    /// The last instant that has fired.
    pub last: Option<UnixMillis>,
    /// The next instant.
    pub next: Option<UnixMillis>,
    /// Firings since the daemon started.
    pub fired: u64,
    /// Why the last firing was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// What a schedule waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CronState {
    /// For the store, to say what has fired last.
    Unknown,
    /// For its next instant.
    Waiting,
    /// For the clock, which is before the last firing.
    WaitingForClock,
    /// For the commit of a firing.
    Firing,
    /// For the inbox, which has refused a firing.
    Refused,
}
