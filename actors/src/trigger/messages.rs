//! The messages of the TriggerActor, and what it reports.

use std::sync::Arc;

use actix::Message;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    inbox::UnixMillis,
    spec::{MqttSpec, NatsSpec},
};

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

/// Asks for a summary of what the triggers do.
#[derive(Debug, Message)]
#[rtype(result = "TriggerOverview")]
pub struct TriggerOverviewQuestion;

/// Asks what the triggers of a function do.
#[derive(Debug, Message)]
#[rtype(result = "FunctionTriggers")]
pub struct FunctionTriggersQuestion(pub Arc<str>);

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

/// A summary of what the triggers do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TriggerOverview {
    /// Schedules.
    pub schedules: usize,
    /// Of these, the ones whose firing is refused.
    pub refused: usize,
    /// The last instant for which any has fired.
    pub last: Option<UnixMillis>,
    /// The next instant of any.
    pub next: Option<UnixMillis>,
    /// The connections to brokers.
    pub sources: Vec<SourceReport>,
}

/// What the triggers of a function do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FunctionTriggers {
    /// Its schedules, in the order of its file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<CronReport>,
    /// Its subscriptions at brokers, in the order of its file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionReport>,
}

impl FunctionTriggers {
    /// Returns whether it has none.
    pub fn is_empty(&self) -> bool {
        self.cron.is_empty() && self.subscriptions.is_empty()
    }
}

/// What a subscription does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionReport {
    /// `nats` or `mqtt`.
    pub kind: &'static str,
    /// Its position among those of its kind in the function's file, from 0.
    pub index: usize,
    /// What the file says.
    #[serde(flatten)]
    pub spec: SubscriptionSpec,
    /// The state of the connection to the broker.
    pub state: SourceState,
    /// Why it gets no messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a subscription is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SubscriptionSpec {
    /// Messages of NATS.
    Nats(NatsSpec),
    /// Messages of MQTT.
    Mqtt(MqttSpec),
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

impl SubscriptionSpec {
    /// Returns the subject or the topic.
    pub fn subject(&self) -> &str {
        match self {
            Self::Nats(spec) => &spec.subject,
            Self::Mqtt(spec) => &spec.topic,
        }
    }
}

impl CronState {
    /// Returns the name on pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Waiting => "waiting",
            Self::WaitingForClock => "waiting for the clock",
            Self::Firing => "firing",
            Self::Refused => "refused",
        }
    }
}

impl SourceState {
    /// Returns the name on pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::NoBroker => "no broker",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Stopped => "stopped",
        }
    }
}
