//! Traces: W3C trace context of requests, and their spans over OTLP to a collector.
//!
//! `context.rs` reads and writes `traceparent`, `span.rs` is a span, `endpoint.rs` the address of a collector. `otlp.rs` encodes
//! spans and `exporter.rs` sends them. Which spans a request has is decided in `invocation/request_trace.rs`.

mod context;
mod endpoint;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(not(feature = "otlp"))]
#[path = "without_exporter.rs"]
mod exporter;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nothing exports spans"))]
mod span;

use std::io;

pub use context::{SpanId, TraceContext, TraceId};
pub use endpoint::OtlpEndpoint;
use exporter::Exporter;
use slog::Logger;
pub use span::{Span, SpanKind, Value, WallClock};

/// Continues and begins traces, and exports those that are sampled.
#[derive(Debug)]
pub struct Tracer {
    exporter: Exporter,
    /// The share of new traces that are sampled.
    sample: f64,
}

impl Tracer {
    /// Starts the export to a collector, which need not be there.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(endpoint: OtlpEndpoint, sample: f64, log: Logger) -> io::Result<Self> {
        Ok(Self { exporter: Exporter::start(endpoint, log)?, sample })
    }

    /// Returns the context of a request with these `traceparent` headers.
    pub fn context<'h>(&self, mut headers: impl Iterator<Item = &'h [u8]>) -> TraceContext {
        let only = headers.next().filter(|_| headers.next().is_none());
        only.and_then(TraceContext::parse).unwrap_or_else(|| TraceContext::new(self.sample))
    }

    /// Exports the spans of a request.
    pub fn export(&self, spans: Vec<Span>) {
        self.exporter.queue(spans);
    }

    /// Returns how many spans were lost.
    pub fn lost(&self) -> u64 {
        self.exporter.lost()
    }

    /// Exports what is left, for a short time at most.
    pub fn shut_down(&self) {
        self.exporter.shut_down();
    }
}
