//! The span of an asynchronous invocation's acceptance. Its attempts, which may be hours later, are below it.

use std::borrow::Cow;

use actix_http::header::HeaderMap;
use tokio::time::Instant;
use unifaas_actors::inbox::InvocationId;

use crate::{
    invocation::request_trace::{TRACEPARENT, TRACESTATE},
    trace::{Span, SpanId, SpanKind, TraceContext, Tracer, Value, WallClock},
};

/// The trace of a request that is to be stored.
pub struct EnqueueTrace {
    context: TraceContext,
    span: SpanId,
    began: Instant,
}

impl EnqueueTrace {
    /// Continues the trace of a request, or begins one.
    pub fn begin(tracer: &Tracer, headers: &HeaderMap) -> Self {
        let context = tracer.context(headers.get_all(TRACEPARENT.as_str()).map(|value| value.as_bytes()));
        Self { context, span: SpanId::random(), began: Instant::now() }
    }

    /// Replaces the headers that the attempts continue.
    pub fn set_headers(&self, headers: &mut Vec<(String, Vec<u8>)>) {
        let is_own = self.context.parent.is_none();
        headers.retain(|(name, _)| name != TRACEPARENT.as_str() && !(is_own && name == TRACESTATE.as_str()));
        headers.push((TRACEPARENT.as_str().to_owned(), self.context.header(self.span).into_bytes()));
    }

    /// Exports the span of a request that was stored, if it is sampled.
    pub fn export(self, tracer: &Tracer, function: &str, id: InvocationId) {
        if !self.context.is_sampled {
            return;
        }
        let now = Instant::now();
        let clock = WallClock::at(now);
        let text = |text: &str| Value::Text(text.to_owned());
        let attributes = vec![("faas.name", text(function)), ("unifaas.invocation", text(&id.to_string()))];
        tracer.export(vec![Span {
            trace_id: self.context.trace_id,
            span_id: self.span,
            parent: self.context.parent,
            name: Cow::Owned(format!("enqueue {function}")),
            kind: SpanKind::Producer,
            start: clock.nanos(self.began),
            end: clock.nanos(now),
            attributes,
            link: None,
            is_error: false,
        }]);
    }
}
