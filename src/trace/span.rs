//! A span: a part of what was done for a request, with its times.

use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{SpanId, TraceId};

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    /// A request was served.
    Server,
    /// Another server was called.
    Client,
    /// Work was stored for later.
    Producer,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// A span that has ended.
#[derive(Debug)]
pub struct Span {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub attributes: Vec<(&'static str, Value)>,
    /// A span of another trace that it has to do with.
    pub link: Option<(TraceId, SpanId)>,
    pub is_error: bool,
}

/// Turns moments into nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    now: Instant,
    wall: u64,
}

impl WallClock {
    /// Reads the clock of the host at `now`.
    pub fn at(now: Instant) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now, wall: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) }
    }

    /// Returns when `moment` was, or is.
    pub fn nanos(&self, moment: Instant) -> u64 {
        let difference = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match moment.checked_duration_since(self.now) {
            Some(later) => self.wall.saturating_add(difference(later)),
            None => self.wall.saturating_sub(difference(self.now - moment)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_have_the_hosts_time() {
        let now = Instant::now();
        let clock = WallClock::at(now);
        let at = |moment| clock.nanos(moment);
        assert_eq!(at(now + Duration::from_millis(3)) - at(now), 3_000_000);
        assert_eq!(at(now) - at(now - Duration::from_micros(5)), 5_000);
        assert!(at(now) > 1_600_000_000_000_000_000);
    }
}
