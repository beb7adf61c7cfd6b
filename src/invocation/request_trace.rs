//! The trace of a request: which span calls the function, and the spans that are exported at the end.
//!
//! Without `--otlp-endpoint` there is none, and `traceparent` and `tracestate` pass as they are. Spans are made at the end,
//! from times that are taken anyway.

use std::{borrow::Cow, time::Duration};

use actix_http::header::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;
use unifaas_actors::{BootClock, BootSpan, Endpoint, Lease, Origin, Outcome, Phase, Wait};

use super::{access_log::fruitless_wait, exchange::Exchange};
use crate::{
    failure::Failure,
    trace::{Span, SpanId, SpanKind, TraceContext, TraceId, Tracer, Value, WallClock},
};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace of one request.
pub struct RequestTrace {
    context: TraceContext,
    /// The span of the whole request.
    server: SpanId,
    /// The span that calls the function.
    upstream: SpanId,
    /// The asynchronous invocation, and the number of the attempt.
    attempt_of: Option<(String, String)>,
    /// Instances that were tried before the last one.
    resends: u32,
    /// Where the last one listens.
    address: Option<std::net::SocketAddr>,
    /// The start that the request waited for.
    boot: Option<BootClock>,
    /// The span of that start, if this request has caused it.
    caused: Option<SpanId>,
}

impl RequestTrace {
    /// Continues the trace of a request, or begins one.
    pub fn begin(tracer: &Tracer, headers: &HeaderMap) -> Box<Self> {
        let context = tracer.context(headers.get_all(TRACEPARENT.as_str()).map(|value| value.as_bytes()));
        let (server, upstream) = (SpanId::random(), SpanId::random());
        Box::new(Self {
            context,
            server,
            upstream,
            attempt_of: None,
            resends: 0,
            address: None,
            boot: None,
            caused: None,
        })
    }

    /// Returns the id of the trace.
    pub fn id(&self) -> TraceId {
        self.context.trace_id
    }

    /// Sets the headers of the request to the function.
    pub fn set_headers(&self, headers: &mut hyper::HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.context.header(self.upstream)) {
            headers.insert(TRACEPARENT, value);
        }
        if self.context.parent.is_none() {
            // What it says belongs to another trace.
            headers.remove(TRACESTATE);
        }
    }

    /// Notes the slot that the request got, and how long it waited for it.
    pub fn set_leased(&mut self, lease: &Lease, wait: &Wait) {
        if self.context.is_sampled && wait.is_cold() {
            let clock = lease.endpoint().clock.clone();
            // The first request of an instance has waited for it for longest.
            if lease.is_fresh() {
                self.claim(&clock);
            }
            self.boot = Some(clock);
        }
    }

    /// Notes that the request is an attempt of an asynchronous invocation.
    pub fn set_attempt_of(&mut self, invocation: &str, attempt: &str) {
        self.attempt_of = Some((invocation.to_owned(), attempt.to_owned()));
    }

    /// Notes an attempt to have the request answered.
    pub fn set_attempt(&mut self, attempt: usize, endpoint: &Endpoint) {
        self.resends = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.address = Some(endpoint.address());
    }

    fn claim(&mut self, clock: &BootClock) {
        let span = SpanId::random();
        let own = BootSpan { trace_id: self.context.trace_id.0, span_id: span.0 };
        if clock.claim(own) == own {
            self.caused = Some(span);
        }
    }
}

impl Exchange {
    /// Exports the spans of a request that has ended at `now`, if it is sampled.
    pub fn export_trace(&mut self, outcome: Outcome, failure: Option<&Failure>, took: Duration, now: Instant) {
        let shared = self.shared.clone();
        let (Some(trace), Some(tracer)) = (&mut self.trace, &shared.tracer) else { return };
        if !trace.context.is_sampled {
            return;
        }
        if self.access.instance().is_none()
            && let Some(failed) = failure.and_then(Failure::instance)
            && let Some(record) = shared.history.instances.find(failed)
        {
            // It has waited for a start that failed.
            trace.claim(&record.boot.clock);
            trace.boot = Some(record.boot.clock.clone());
        }
        let stats = self.function.stats();
        stats.note_trace(took, trace.context.trace_id.0);
        if let (Some(clock), Some(_)) = (&trace.boot, trace.caused)
            && !clock.boot().is_zero()
        {
            stats.note_start_trace(clock.started_from(), clock.boot(), trace.context.trace_id.0);
        }
        let spans = Spans { exchange: self, clock: WallClock::at(now), now };
        tracer.export(spans.all(outcome, failure, took));
    }
}

/// Makes the spans of a request.
struct Spans<'a> {
    exchange: &'a Exchange,
    clock: WallClock,
    now: Instant,
}

impl Spans<'_> {
    fn all(&self, outcome: Outcome, failure: Option<&Failure>, took: Duration) -> Vec<Span> {
        let Some(trace) = &self.exchange.trace else { return Vec::new() };
        let mut spans = vec![self.server(trace, outcome, failure)];
        let (wait, arrived) = (self.exchange.access.wait(), self.exchange.arrived);
        let queue = match self.exchange.access.instance() {
            Some(_) => wait.queue_for.map(|reason| (reason.as_str(), wait.queue)),
            None => fruitless_wait(outcome, took).0.map(|(cause, waited)| (cause.as_str(), waited)),
        };
        if let Some((reason, waited)) = queue {
            let attributes = vec![("unifaas.waits_for", Value::Text(reason.to_owned()))];
            spans.push(Span { attributes, ..self.child(trace, "queue", arrived, arrived + waited) });
        }
        match (&trace.boot, trace.caused) {
            (Some(clock), Some(span_id)) => self.add_boot(&mut spans, trace, clock, span_id),
            (Some(clock), None) => {
                let from = arrived + wait.queue;
                let other = clock.claimed().map(|other| (TraceId(other.trace_id), SpanId(other.span_id)));
                spans.push(Span { link: other, ..self.child(trace, "boot", from, from + wait.boot) });
            }
            (None, _) if wait.boot_from == Some(Origin::Resumed) => {
                let from = arrived + wait.queue;
                spans.push(self.child(trace, "resume", from, from + wait.boot));
            }
            (None, _) => {}
        }
        if let Some(address) = trace.address {
            let mut attributes = vec![
                ("server.address", Value::Text(address.ip().to_string())),
                ("server.port", Value::Number(address.port().into())),
            ];
            if trace.resends > 0 {
                attributes.push(("http.request.resend_count", Value::Number(trace.resends.into())));
            }
            if let Some(status) = self.exchange.access.status() {
                attributes.push(("http.response.status_code", Value::Number(status.into())));
            }
            let upstream = self.child(trace, "upstream", self.exchange.leased(), self.now);
            let is_error = self.exchange.access.status().is_none_or(|status| status >= 400);
            let (span_id, kind) = (trace.upstream, SpanKind::Client);
            spans.push(Span { span_id, kind, attributes, is_error, ..upstream });
        }
        spans
    }

    /// The span of the whole request.
    fn server(&self, trace: &RequestTrace, outcome: Outcome, failure: Option<&Failure>) -> Span {
        let Exchange { head, function, facts, access, arrived, .. } = self.exchange;
        let (head, status) = (head.get(), access.sent_status(failure));
        let text = |text: &str| Value::Text(text.to_owned());
        let mut attributes = vec![
            ("http.request.method", text(head.method.as_str())),
            ("http.response.status_code", Value::Number(status.into())),
            ("url.path", text(head.uri.path())),
            ("faas.name", text(function.name())),
            ("faas.coldstart", Value::Flag(access.wait().is_cold())),
            ("faas.invocation_id", text(facts.request_id.as_str())),
        ];
        if let Some(instance) = access.instance().or(failure.and_then(Failure::instance)) {
            attributes.push(("faas.instance", Value::Text(instance.to_string())));
        }
        if let Some((invocation, attempt)) = &trace.attempt_of {
            attributes.extend([("unifaas.invocation", text(invocation)), ("unifaas.attempt", text(attempt))]);
        }
        let is_error = status >= 500;
        if outcome != Outcome::Ok {
            attributes.push(("error.type", text(outcome.code())));
        } else if is_error {
            attributes.push(("error.type", Value::Text(status.to_string())));
        }
        let name = Cow::Owned(format!("{} {}", head.method, function.name()));
        let (span_id, parent, kind) = (trace.server, trace.context.parent, SpanKind::Server);
        let span = self.child(trace, name, *arrived, self.now);
        Span { span_id, parent, kind, attributes, is_error, ..span }
    }

    /// Adds the spans of a start that the request has caused: the whole, and each phase.
    fn add_boot(&self, spans: &mut Vec<Span>, trace: &RequestTrace, clock: &BootClock, span_id: SpanId) {
        let origin = clock.origin();
        let mut before = origin;
        let mut phases = Vec::new();
        for (phase, offset) in clock.boot_phases() {
            let end = origin + offset;
            let span = self.child(trace, phase.as_str(), before, end);
            phases.push(Span { parent: Some(span_id), ..span });
            before = end;
        }
        // A start that failed has lasted until now.
        let end = clock.at(Phase::Ready).unwrap_or(self.now);
        let is_error = clock.at(Phase::Ready).is_none();
        spans.push(Span { span_id, is_error, ..self.child(trace, "boot", origin, end) });
        spans.append(&mut phases);
    }

    fn child(&self, trace: &RequestTrace, name: impl Into<Cow<'static, str>>, start: Instant, end: Instant) -> Span {
        Span {
            trace_id: trace.context.trace_id,
            span_id: SpanId::random(),
            parent: Some(trace.server),
            name: name.into(),
            kind: SpanKind::Internal,
            start: self.clock.nanos(start),
            end: self.clock.nanos(end),
            attributes: Vec::new(),
            link: None,
            is_error: false,
        }
    }
}
