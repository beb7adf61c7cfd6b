//! `[async]`: how asynchronous invocations of a function are accepted, retried and kept.

use std::{num::NonZeroUsize, time::Duration};

use serde::{Serialize, Serializer};

use super::{keys, raw::Section};

/// Upper bound of all counts.
const MAX_COUNT: u64 = 1_000_000;
const BYTES_PER_MIB: f64 = 1_048_576.0;
/// Largest `max-body` and `max-response`, in MiB.
const MAX_MIB: f64 = 16.0;

/// How asynchronous invocations of a function are treated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AsyncSpec {
    /// Whether they are accepted.
    pub allow: bool,
    /// Attempts at the same time.
    pub concurrency: NonZeroUsize,
    /// Invocations that may wait for their end; the next one is refused.
    pub queue: NonZeroUsize,
    /// Attempts until an invocation is given up.
    pub attempts: NonZeroUsize,
    /// The longest wait after the first failed attempt; it doubles with each attempt.
    #[serde(serialize_with = "seconds")]
    pub backoff: Duration,
    /// The longest wait after any failed attempt.
    #[serde(serialize_with = "seconds")]
    pub backoff_max: Duration,
    /// How long after its acceptance an invocation may be tried.
    #[serde(serialize_with = "seconds")]
    pub max_age: Duration,
    /// The function's statuses that are tried again.
    pub retry_on: StatusSet,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// Largest response body that is kept, in bytes.
    pub max_response: u64,
    /// How long results and idempotency keys are kept.
    #[serde(serialize_with = "seconds")]
    pub keep: Duration,
    /// How long dead letters are kept.
    #[serde(serialize_with = "seconds")]
    pub keep_dead: Duration,
    /// Where they are stored.
    pub durability: Durability,
}

/// Where asynchronous invocations are stored, and where they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On the node that has accepted them.
    Node,
    /// On the server of the site, for each of its nodes.
    Site,
}

impl Default for AsyncSpec {
    fn default() -> Self {
        Self {
            allow: true,
            concurrency: count_of(4),
            queue: count_of(10_000),
            attempts: count_of(3),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            max_age: Duration::from_secs(6 * 3600),
            retry_on: StatusSet::default(),
            max_body: BYTES_PER_MIB as u64,
            max_response: BYTES_PER_MIB as u64,
            keep: Duration::from_secs(3600),
            keep_dead: Duration::from_secs(7 * 24 * 3600),
            durability: Durability::Node,
        }
    }
}

const fn count_of(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    }
}

/// A set of error statuses of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet(Vec<StatusPattern>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusPattern {
    /// All of a class, such as 5 for `5xx`.
    Class(u16),
    One(u16),
}

impl Default for StatusSet {
    fn default() -> Self {
        use StatusPattern::{Class, One};
        Self(vec![Class(5), One(408), One(425), One(429)])
    }
}

impl StatusSet {
    /// Returns whether the status is in the set.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|pattern| match pattern {
            StatusPattern::Class(class) => status / 100 == *class,
            StatusPattern::One(one) => status == *one,
        })
    }
}

impl StatusPattern {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "4xx" => Some(Self::Class(4)),
            "5xx" => Some(Self::Class(5)),
            _ if text.len() == 3 => text.parse().ok().filter(|status| (400..600).contains(status)).map(Self::One),
            _ => None,
        }
    }
}

impl Serialize for StatusSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|pattern| match pattern {
            StatusPattern::Class(class) => format!("{class}xx"),
            StatusPattern::One(status) => status.to_string(),
        }))
    }
}

/// Reads `[async]`. A value that is wrong is reported, and replaced by its default.
pub(super) fn async_spec(file: &Section<'_>) -> AsyncSpec {
    let mut spec = AsyncSpec::default();
    let Some(table) = file.section("async") else { return spec };
    table.only(&keys::ASYNC);
    set(&mut spec.allow, table.boolean("allow"));
    for (key, what, count) in [
        ("concurrency", "attempts", &mut spec.concurrency),
        ("queue", "invocations", &mut spec.queue),
        ("attempts", "attempts", &mut spec.attempts),
    ] {
        let given = table.integer(key, what, 1..=MAX_COUNT);
        set(count, given.and_then(|given| usize::try_from(given).ok()?.try_into().ok()));
    }
    set(&mut spec.backoff, table.seconds("backoff"));
    set(&mut spec.backoff_max, table.seconds("backoff-max"));
    for (key, time) in [("max-age", &mut spec.max_age), ("keep", &mut spec.keep), ("keep-dead", &mut spec.keep_dead)] {
        set(time, table.positive_seconds(key));
    }
    for (key, size) in [("max-body", &mut spec.max_body), ("max-response", &mut spec.max_response)] {
        let expected = format!("MiB, a number above 0 and up to {MAX_MIB}");
        let mib = table.number(key, &expected, |mib| mib > 0.0 && mib <= MAX_MIB);
        set(size, mib.map(|mib| (mib * BYTES_PER_MIB).ceil() as u64));
    }
    set(&mut spec.retry_on, retry_on(&table));
    let durability = [("node", Durability::Node), ("site", Durability::Site)];
    set(&mut spec.durability, table.choice("durability", &durability));
    if spec.backoff > spec.backoff_max {
        let (first, most) = (spec.backoff.as_secs_f64(), spec.backoff_max.as_secs_f64());
        table.fail("backoff", format!("{first} is more than backoff-max, which is {most}"));
    }
    spec
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

fn retry_on(table: &Section<'_>) -> Option<StatusSet> {
    let patterns = table.strings("retry-on")?;
    let parse = |text: &String| {
        let pattern = StatusPattern::parse(text);
        if pattern.is_none() {
            let expected = "expected \"4xx\", \"5xx\" and statuses from \"400\" to \"599\"";
            table.fail("retry-on", format!("{expected}, found the string {text:?}"));
        }
        pattern
    };
    Some(StatusSet(patterns.iter().map(parse).collect::<Option<_>>()?))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
