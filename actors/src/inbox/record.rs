//! An invocation: its identity, its states, its request and its recorded response.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::{settle::DeadReason, time::UnixMillis};

/// The public id of an invocation: 128 random bits. Any client that knows it may ask for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(pub u128);

/// The number of an invocation in the store, in the order of acceptance. Never used twice.
pub type Seq = u64;

impl InvocationId {
    /// Returns a new random id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Parses the 32 lower-case hexadecimal digits that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for InvocationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an invocation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits for its first attempt, or for the next one.
    Queued {
        /// When it may be tried.
        due: UnixMillis,
    },
    /// An attempt has begun.
    Running,
    /// The function has answered it.
    Done {
        /// When it ended.
        ended: UnixMillis,
        /// The function's status.
        status: u16,
    },
    /// It was given up.
    Dead {
        /// When it was.
        ended: UnixMillis,
        /// Why it was.
        reason: DeadReason,
        /// The function's last status, if it has answered at all.
        status: Option<u16>,
    },
}

impl State {
    /// Whether nothing more happens to it by itself.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Dead { .. })
    }

    /// Returns the name that clients see.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running => "running",
            Self::Done { .. } => "done",
            Self::Dead { .. } => "dead",
        }
    }
}

/// All that is known of an invocation, except for its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: Seq,
    /// Its public id.
    pub id: InvocationId,
    /// The function it is for.
    pub function: Arc<str>,
    /// Where it stands.
    pub state: State,
    /// Increases with each attempt and each redrive.
    pub epoch: u32,
    /// Attempts that have begun and that count.
    pub attempts: u32,
    /// When it was accepted, or redriven.
    pub accepted: UnixMillis,
    /// When it expires unless it has ended.
    pub deadline: UnixMillis,
    /// What the client or the trigger calls it.
    pub key: Option<Arc<str>>,
    /// Where the result goes.
    pub callback: Option<Callback>,
}

impl Record {
    /// Returns what the scheduler keeps of a queued record.
    pub fn entry(&self) -> Option<Entry> {
        let State::Queued { due } = self.state else { return None };
        let Record { seq, ref function, epoch, attempts, deadline, .. } = *self;
        Some(Entry { seq, function: function.clone(), due, deadline, epoch, attempts })
    }

    /// Returns the delivery of its result, if that is to be sent: an entry with the receiver in the place of the function.
    /// It is given up after as long as the invocation itself would have been. `due`: when it may be sent.
    pub fn delivery(&self, due: UnixMillis) -> Option<Entry> {
        let (State::Done { ended, .. } | State::Dead { ended, .. }) = self.state else { return None };
        let Callback { url, attempts, .. } = self.callback.as_ref().filter(|it| it.state == CallbackState::Waiting)?;
        let deadline = ended.after(self.accepted.until(self.deadline));
        let (seq, epoch, attempts) = (self.seq, self.epoch, *attempts);
        Some(Entry { seq, function: receiver_of(url).into(), due, deadline, epoch, attempts })
    }
}

/// Returns scheme, host and port of a URL.
fn receiver_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let path = url[host..].find(['/', '?']);
    path.map_or(url, |path| &url[..host + path])
}

/// The delivery of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Where the result is sent.
    pub url: Arc<str>,
    /// Attempts to send it.
    pub attempts: u32,
    /// Whether it has arrived, or was given up.
    pub state: CallbackState,
}

/// Where the delivery of a result stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallbackState {
    /// The result is not there, or has not arrived.
    Waiting,
    /// The receiver has confirmed it.
    Delivered,
    /// It was given up.
    Failed,
}

/// A queued invocation, as the scheduler knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub seq: Seq,
    /// The function it is for.
    pub function: Arc<str>,
    /// When it may be tried.
    pub due: UnixMillis,
    /// When it expires.
    pub deadline: UnixMillis,
    /// That of its record.
    pub epoch: u32,
    /// Attempts that have begun and that count.
    pub attempts: u32,
}

/// A request as it is stored, without what concerns only the client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRequest {
    /// The method.
    pub method: String,
    /// The path and the query for the function, as they were sent. May be empty.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The address of the client. `None`: a trigger of the daemon.
    pub client: Option<IpAddr>,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// The body.
    #[serde(skip)]
    pub body: Bytes,
}

impl StoredRequest {
    /// Makes a request of a trigger.
    pub fn new(method: &str, target: &str, body: Bytes) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), client: None, is_tls: false, body }
    }

    /// Adds a header. The name is in lower case.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// The function's answer, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedResponse {
    /// The function's status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body. `None`: it was larger than the function's `max-response`, or there was no space for it.
    #[serde(skip)]
    pub body: Option<Bytes>,
}

/// The firing of a schedule, recorded together with its invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// What fires, such as `cron/<function>/<index>`.
    pub trigger: String,
    /// The instant that it fires for.
    pub instant: UnixMillis,
}

/// How far a schedule has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggerRecord {
    /// Every instant up to this one is settled: the last firing, or the time when the schedule was first seen.
    pub settled: UnixMillis,
    /// Whether any instant has fired.
    pub has_fired: bool,
}

/// An invocation that is to be stored, with the limits of its function in force.
#[derive(Debug, Clone)]
pub struct NewInvocation {
    /// The function it is for.
    pub function: Arc<str>,
    /// What the function gets.
    pub request: StoredRequest,
    /// What makes a repeat recognisable.
    pub key: Option<Arc<str>>,
    /// Where the result goes.
    pub callback: Option<Arc<str>>,
    /// How long it waits before its first attempt.
    pub delay: Duration,
    /// How long after its acceptance it may be tried.
    pub max_age: Duration,
    /// Unended invocations that the function may have.
    pub queue: usize,
    /// Recorded in the same transaction. An invocation for a firing that is not newer than the recorded one is not stored.
    pub firing: Option<Firing>,
    /// Whether it waits to be handed over to the site. Nothing of it runs here meanwhile, but it expires.
    pub for_site: bool,
}
