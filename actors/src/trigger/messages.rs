//! The messages of the TriggerActor, and what it reports.

use std::sync::Arc;

use actix::Message;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::inbox::UnixMillis;

/// Connects to brokers from now on, if functions subscribe. A daemon that replaces another one waits until that has let go.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartSources;

/// Closes the connections to brokers, for good. The sender is answered or dropped when no message is taken any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopSources(pub oneshot::Sender<()>);

/// Asks what the triggers do.
#[derive(Debug, Message)]
#[rtype(result = "TriggerReport")]
pub struct TriggerQuestion;

/// What the triggers do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TriggerReport {
    /// Firings since the daemon started.
    pub fired: u64,
    /// The schedules, by function.
    pub cron: Vec<CronReport>,
    /// The connections to brokers.
    pub sources: Vec<SourceReport>,
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

/// The state of a connection to a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// `nats` or `mqtt`.
    pub kind: &'static str,
    /// The address of the broker. `None`: no option says it.
    pub broker: Option<String>,
    /// Whether there is a connection.
    pub state: SourceState,
    /// When that began.
    pub since: UnixMillis,
    /// The last error of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Subscriptions of functions.
    pub subscriptions: usize,
    /// Subscriptions that do not work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<SubscriptionProblem>,
    /// Messages that have come, repeated ones included.
    pub received: u64,
    /// Invocations that have been stored.
    pub stored: u64,
    /// Messages that were given up: their function does not take them.
    pub refused: u64,
    /// Messages without a guarantee of delivery that were dropped, as too many waited for the inbox.
    pub dropped: u64,
}

/// Why a subscription does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionProblem {
    /// Its function.
    pub function: Arc<str>,
    /// Its position among those of its kind in the function's file, from 0.
    pub index: usize,
    /// The reason.
    pub error: String,
}

/// Whether a broker is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// No function needs it.
    Unused,
    /// A function needs it, and no option says where it is.
    NoBroker,
    /// There is no connection, and one is tried.
    Connecting,
    /// There is a connection.
    Connected,
    /// The connection was closed, as the daemon ends.
    Stopped,
}
