//! Spans as OTLP has them: the messages of opentelemetry/proto/collector/trace/v1, as far as they are sent.

use prost::Message;

use super::{Span, SpanKind, Value};

/// The name of the service and of what makes the spans.
const NAME: &str = "unifaas";

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes, tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes, tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes, tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes, tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes, tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AnyValueKind", tags = "1, 2, 3")]
    value: Option<AnyValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyValueKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// The code of a status that is an error.
const STATUS_ERROR: i32 = 2;

/// Encodes a request to a collector.
pub fn encode(spans: Vec<Span>, host: &str) -> Vec<u8> {
    let text = |key: &str, value: &str| attribute(key, Value::Text(value.to_owned()));
    let version = env!("CARGO_PKG_VERSION");
    let attributes = vec![text("service.name", NAME), text("service.version", version), text("host.name", host)];
    let scope = Scope { name: NAME.to_owned(), version: version.to_owned() };
    let spans = spans.into_iter().map(SpanMessage::from).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource = Some(Resource { attributes });
    Request { resource_spans: vec![ResourceSpans { resource, scope_spans }] }.encode_to_vec()
}

impl From<Span> for SpanMessage {
    fn from(span: Span) -> Self {
        let id = |id: u64| id.to_be_bytes().to_vec();
        Self {
            trace_id: span.trace_id.0.to_be_bytes().to_vec(),
            span_id: id(span.span_id.0),
            parent_span_id: span.parent.map(|parent| id(parent.0)).unwrap_or_default(),
            name: span.name.into_owned(),
            kind: match span.kind {
                SpanKind::Internal => 1,
                SpanKind::Server => 2,
                SpanKind::Client => 3,
                SpanKind::Producer => 4,
            },
            start_time_unix_nano: span.start,
            end_time_unix_nano: span.end,
            attributes: span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
            links: span
                .link
                .map(|(trace, span)| Link { trace_id: trace.0.to_be_bytes().to_vec(), span_id: id(span.0) })
                .into_iter()
                .collect(),
            status: span.is_error.then_some(Status { code: STATUS_ERROR }),
        }
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => AnyValueKind::Text(text),
        Value::Number(number) => AnyValueKind::Number(number),
        Value::Flag(flag) => AnyValueKind::Flag(flag),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
