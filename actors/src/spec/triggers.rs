//! `[[cron]]`, `[[nats]]` and `[[mqtt]]`: what invokes a function besides requests, with the checks.

use std::{fmt, time::Duration};

use jiff::tz::{self, TimeZone};
use serde::Serialize;

use super::{
    Durability, ExpressionError, Schedule,
    function::seconds,
    keys,
    raw::{Section, clipped},
};

/// How long after its instant a missed run is made up for.
const DEFAULT_WITHIN: Duration = Duration::from_secs(3600);
/// MQTT's limit, in bytes.
const MAX_TOPIC: usize = 65_535;

/// What invokes a function besides requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Triggers {
    /// Schedules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<CronSpec>,
    /// Messages of a NATS server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<NatsSpec>,
    /// Messages of an MQTT broker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mqtt: Vec<MqttSpec>,
    /// Whether other nodes of the site hand over invocations that this one may run.
    #[serde(skip)]
    pub shares_work: bool,
}

impl Triggers {
    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cron.is_empty() && self.nats.is_empty() && self.mqtt.is_empty()
    }
}

/// One `[[cron]]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CronSpec {
    /// The expression, as it was written.
    pub at: String,
    /// The time zone's name.
    pub zone: String,
    /// Both, parsed.
    #[serde(skip)]
    pub schedule: Schedule,
    /// Where the request goes, with its query.
    pub path: String,
    /// The request's method.
    pub method: String,
    /// The request's body.
    pub body: String,
    /// What is done about missed runs.
    pub missed: Missed,
    /// Older ones are given up.
    #[serde(serialize_with = "seconds")]
    pub missed_within: Duration,
    /// Where it fires.
    pub scope: CronScope,
}

/// Where a schedule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CronScope {
    /// On each node that has the function.
    Node,
    /// Once for all nodes of the site.
    Cluster,
}

/// What is done about runs that were missed, because no daemon ran or the clock jumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are given up.
    Skip,
    /// One run stands for all.
    Once,
    /// Each is made up for.
    All,
}

/// One `[[nats]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatsSpec {
    /// The subject, which may have wildcards.
    pub subject: String,
    /// Where the messages come from.
    #[serde(flatten)]
    pub source: NatsSource,
    /// Where the requests go, with their query.
    pub path: String,
}

/// Where messages of NATS come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NatsSource {
    /// Core messages. Each goes to one member of this queue group.
    Queue(String),
    /// This stream of JetStream.
    Stream(String),
}

impl fmt::Display for NatsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(group) => write!(f, "queue group {group}"),
            Self::Stream(name) => write!(f, "stream {name}"),
        }
    }
}

/// One `[[mqtt]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MqttSpec {
    /// The topic filter.
    pub topic: String,
    /// The quality of service.
    pub qos: u8,
    /// Where the requests go, with their query.
    pub path: String,
}

/// Reads the triggers of the function `name`. A wrong one is reported and left out.
pub(super) fn triggers(file: &Section<'_>, name: &str, durability: Durability) -> Triggers {
    let cron: Vec<_> = file.sections("cron").iter().filter_map(cron).collect();
    Triggers {
        shares_work: durability == Durability::Site || cron.iter().any(|cron| cron.scope == CronScope::Cluster),
        cron,
        nats: file.sections("nats").iter().filter_map(|table| nats(table, name)).collect(),
        mqtt: file.sections("mqtt").iter().filter_map(mqtt).collect(),
    }
}

fn cron(table: &Section<'_>) -> Option<CronSpec> {
    table.only(&keys::CRON);
    table.require("at");
    let at = table.string("at");
    let zone = match table.given("zone") {
        true => table.string("zone"),
        false => Some("UTC"),
    };
    let time_zone = zone.and_then(|name| time_zone(table, name));
    // In UTC if the zone is wrong, so that the expression is checked in any case.
    let schedule = at.and_then(|at| schedule(table, at, time_zone.clone().unwrap_or(TimeZone::UTC)));
    let (path, method) = (path(table), method(table));
    let missed = table.choice("missed", &[("skip", Missed::Skip), ("once", Missed::Once), ("all", Missed::All)]);
    let scope = table.choice("scope", &[("node", CronScope::Node), ("cluster", CronScope::Cluster)]);
    Some(CronSpec {
        at: at?.to_owned(),
        zone: time_zone?.iana_name().unwrap_or("UTC").to_owned(),
        schedule: schedule?,
        path,
        method,
        body: table.string("body").unwrap_or_default().to_owned(),
        missed: missed.unwrap_or(Missed::Once),
        missed_within: table.seconds("missed-within").unwrap_or(DEFAULT_WITHIN),
        scope: scope.unwrap_or(CronScope::Node),
    })
}

fn schedule(table: &Section<'_>, at: &str, zone: TimeZone) -> Option<Schedule> {
    match Schedule::new(at, zone) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            let expected = match error {
                ExpressionError::NeverMatches => "expected a cron expression that matches some date",
                _ => "expected a cron expression of 5 fields, or of 6 with seconds first",
            };
            table.fail("at", format!("{expected}, found the string {:?}: {error}", clipped(at)));
            None
        }
    }
}

fn time_zone(table: &Section<'_>, name: &str) -> Option<TimeZone> {
    let zone = TimeZone::get(name).ok();
    if zone.is_none() {
        let hint = similar_zone(name).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        let expected = "expected a time zone of the IANA's list, such as \"Europe/Berlin\"";
        table.fail("zone", format!("{expected}, found the string {:?}{hint}", clipped(name)));
    }
    zone
}

fn similar_zone(name: &str) -> Option<String> {
    // The longest name has 32 bytes.
    if name.len() > 40 {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |known: &String| strsim::damerau_levenshtein(&lower, &known.to_lowercase());
    let nearest = tz::db().available().map(|known| known.to_string()).min_by_key(distance)?;
    (distance(&nearest) * 3 <= nearest.len()).then_some(nearest)
}

/// Reads the path of the request, with its query.
fn path(table: &Section<'_>) -> String {
    let Some(path) = table.string("path") else { return "/".to_owned() };
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        let rule = "a path that starts with '/' and has only visible ASCII characters and no '#'";
        let _: Option<()> = table.value("path").and_then(|value| table.mismatch("path", rule, value));
    }
    path.to_owned()
}

fn method(table: &Section<'_>) -> String {
    let choices = ["GET", "POST", "PUT", "PATCH", "DELETE"].map(|name| (name, name));
    table.choice("method", &choices).unwrap_or("POST").to_owned()
}

fn nats(table: &Section<'_>, function: &str) -> Option<NatsSpec> {
    table.only(&keys::NATS);
    table.require("subject");
    let subject = checked(table, "subject", "a subject of NATS, such as \"orders.*\" or \"orders.>\"", is_subject);
    let queue = checked(table, "queue", "the name of a queue group, a word without wildcards", |queue| {
        is_subject(queue) && !queue.contains(['*', '>'])
    });
    let is_name = |name: &str| is_subject(name) && !name.contains(['*', '>', '.', '/', '\\']);
    let stream = checked(table, "stream", "the name of a stream, a word without '.', '*', '>' and '/'", is_name);
    if table.given("queue") && table.given("stream") {
        table.fail("queue", "a stream has no queue groups: leave out one of both");
    }
    let source = stream.map(NatsSource::Stream);
    let source = source.unwrap_or_else(|| NatsSource::Queue(queue.unwrap_or_else(|| function.to_owned())));
    Some(NatsSpec { path: path(table), subject: subject?, source })
}

fn mqtt(table: &Section<'_>) -> Option<MqttSpec> {
    table.only(&keys::MQTT);
    table.require("topic");
    let topic =
        checked(table, "topic", "a topic filter of MQTT, such as \"home/+/temperature\" or \"home/#\"", is_topic);
    let qos = table.integer("qos", "a quality of service", 0..=2).and_then(|qos| qos.try_into().ok());
    Some(MqttSpec { path: path(table), topic: topic?, qos: qos.unwrap_or(1) })
}

/// Reads a string that `accept` accepts.
fn checked(table: &Section<'_>, key: &str, expected: &str, accept: impl Fn(&str) -> bool) -> Option<String> {
    let string = table.string(key)?;
    if accept(string) { Some(string.to_owned()) } else { table.mismatch(key, expected, table.value(key)?) }
}

/// Returns whether a text is a subject of NATS. Wildcards are whole tokens, and `>` is the last one.
fn is_subject(text: &str) -> bool {
    let tokens: Vec<_> = text.split('.').collect();
    let is_token = |(index, token): (usize, &&str)| match *token {
        ">" => index + 1 == tokens.len(),
        "*" => true,
        token => !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.contains(['*', '>']),
    };
    tokens.iter().enumerate().all(is_token)
}

/// Returns whether a text is a topic filter of MQTT. Wildcards are whole levels, and `#` is the last one.
fn is_topic(text: &str) -> bool {
    let levels: Vec<_> = text.split('/').collect();
    let is_level = |(index, level): (usize, &&str)| match *level {
        "#" => index + 1 == levels.len(),
        "+" => true,
        level => !level.contains(['#', '+']) && !level.contains(char::is_control),
    };
    !text.is_empty() && text.len() <= MAX_TOPIC && levels.iter().enumerate().all(is_level)
}
