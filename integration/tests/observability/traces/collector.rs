//! A collector of OTLP over HTTP that decodes with OpenTelemetry's own messages.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, sync::Mutex};

use integration::{SOON, eventually};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span as Message, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A span, with its ids in hexadecimal and its attributes as text.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub start: u64,
    pub end: u64,
    pub attributes: HashMap<String, String>,
    pub links: Vec<(String, String)>,
    pub is_error: bool,
}

impl From<Message> for Span {
    fn from(span: Message) -> Self {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8), "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        let text = |value: Value| match value {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(flag) => flag.to_string(),
            other => panic!("{other:?}"),
        };
        let attribute = |key: String, value: Option<Value>| (key, text(value.expect("a value")));
        let attributes =
            span.attributes.into_iter().map(|it| attribute(it.key, it.value.and_then(|value| value.value)));
        Self {
            attributes: attributes.collect(),
            kind: SpanKind::try_from(span.kind).expect("a kind"),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            is_error: span.status.is_some_and(|status| status.code == StatusCode::Error as i32),
            name: span.name,
        }
    }
}

/// A running collector.
pub struct Collector {
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    server: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, spans) = (listener.local_addr().expect("its address"), Arc::<Mutex<Vec<Span>>>::default());
        let received = Arc::clone(&spans);
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let request = receive(&mut stream).await;
                received.lock().expect("no panic").extend(request);
            }
        });
        Self { address, spans, server }
    }

    /// Returns the option for the daemon.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("no panic").clone()
    }

    /// Waits for the trace of a request, by its request id, and returns its spans with that of the request first.
    pub async fn trace_of(&self, request_id: &str) -> Vec<Span> {
        let is_it = |span: &Span| span.attributes.get("faas.invocation_id").is_some_and(|id| id == request_id);
        let what = format!("the trace of {request_id}");
        let spans = eventually(SOON, what, async || self.spans(), |all| all.iter().any(is_it)).await;
        let request = spans.iter().find(|span| is_it(span)).expect("it was there").clone();
        let belongs = |span: &&Span| span.trace == request.trace && span.id != request.id;
        let mut trace = vec![request.clone()];
        trace.extend(spans.iter().filter(belongs).cloned());
        trace
    }
}

/// Reads a request, answers it, and returns its spans.
async fn receive(stream: &mut TcpStream) -> Vec<Span> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        assert!(stream.read_buf(&mut bytes).await.expect("bytes") > 0, "a whole request");
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            break (head.clone(), end + 4 + length.parse::<usize>().expect("a number"));
        }
    };
    while bytes.len() < length {
        assert!(stream.read_buf(&mut bytes).await.expect("bytes") > 0, "a whole body");
    }
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let body = bytes.split_off(bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4);
    let request = ExportTraceServiceRequest::decode(&*body).expect("a message");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.expect("it reads");
    let resources = request.resource_spans;
    for resource in &resources {
        let attributes = &resource.resource.as_ref().expect("a resource").attributes;
        let name = attributes.iter().find(|attribute| attribute.key == "service.name").expect("a name");
        assert!(format!("{:?}", name.value).contains("unifaas"), "{name:?}");
    }
    let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(Span::from).collect()
}
