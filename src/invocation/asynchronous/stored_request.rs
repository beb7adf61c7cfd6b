//! Serves a stored request through the same acquire-and-dispatch code as a request that has just arrived, with a client
//! that never leaves and takes everything at once.

use std::{
    future::{poll_fn, ready},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_http::{
    BoxedPayloadStream, RequestHead,
    body::MessageBody as _,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use actix_web::{
    HttpResponse,
    dev::Payload,
    http::{Method, Version},
};
use bytes::{Bytes, BytesMut};
use futures::{future::LocalBoxFuture, stream};
use unifaas_actors::{
    FunctionHandle,
    inbox::{Outcome, RecordedResponse, StoredRequest},
};

use crate::{
    failure::Failure,
    http::{ClientConnection, ConnAddrs, ConnectionGuard, Connections, Peer, RequestFacts},
    inbox::{ATTEMPT, Ended, INVOCATION, Invoker},
    invocation::{exchange::Exchange, function::TargetFunction, invoke::HeadSource, target::SCOPE},
    shared::Shared,
};

/// More attempts than there can be at once.
const MAX_ATTEMPTS: usize = 1 << 20;
/// Where a request comes from that a trigger of the daemon has made.
const OWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Makes the attempts of the inbox.
pub struct StoredInvoker {
    shared: Arc<Shared>,
    clients: Arc<Connections>,
}

impl StoredInvoker {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, clients: Connections::new(MAX_ATTEMPTS, MAX_ATTEMPTS) }
    }
}

impl Invoker for StoredInvoker {
    fn invoke(&self, function: &str, request: StoredRequest, max_response: u64) -> LocalBoxFuture<'static, Ended> {
        let handle = self.shared.directory.find(function);
        let (Some(handle), Some(guard)) = (handle, self.clients.admit(OWN_ADDRESS)) else {
            return Box::pin(ready((Outcome::Untouched { retry_after: None }, None)));
        };
        Box::pin(serve(self.shared.clone(), guard, handle, request, max_response))
    }
}

async fn serve(
    shared: Arc<Shared>,
    guard: ConnectionGuard,
    handle: Arc<FunctionHandle>,
    request: StoredRequest,
    max_response: u64,
) -> Ended {
    let peer = SocketAddr::new(request.client.unwrap_or(OWN_ADDRESS), 0);
    let Some(head) = head_of(handle.name(), &request) else { return (Outcome::Unservable, None) };
    let facts = RequestFacts::of(&head, false);
    let addrs = ConnAddrs { peer, local: SocketAddr::new(OWN_ADDRESS, 0) };
    let client = ClientConnection::new(addrs, guard, None, None, false, Peer::new(addrs.peer.ip(), request.is_tls))
        .begin_request(&facts);
    let (invocation, attempt) = (header(&head, INVOCATION), header(&head, ATTEMPT));
    let body: BoxedPayloadStream = Box::pin(stream::iter((!request.body.is_empty()).then_some(Ok(request.body))));
    let (head, function) = (HeadSource::Copy(Box::new(head)), TargetFunction::Here(handle));
    let mut exchange = Exchange::new(head, facts, client, function, shared, None);
    if let Some(trace) = &mut exchange.trace {
        trace.set_attempt_of(&invocation, &attempt);
    }
    match exchange.serve(Payload::from(body)).await {
        Ok(response) => read(response, max_response).await,
        Err(rejection) => (outcome_of(&rejection.failure), None),
    }
}

/// Returns a header as text.
fn header(head: &RequestHead, name: &str) -> String {
    head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Makes the head that a client would have sent. `None`: that is no request.
fn head_of(function: &str, request: &StoredRequest) -> Option<RequestHead> {
    let mut head = RequestHead::default();
    head.method = Method::from_bytes(request.method.as_bytes()).ok()?;
    head.uri = format!("{SCOPE}/{function}{}", request.target).parse().ok()?;
    head.version = Version::HTTP_11;
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    if !request.body.is_empty() {
        head.headers.insert(actix_http::header::CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    }
    Some(head)
}

/// Reads a response to its end: only then the function has done its work.
async fn read(response: HttpResponse, max_response: u64) -> Ended {
    let (head, body) = response.into_parts();
    let status = head.status().as_u16();
    let (mut body, mut kept) = (pin!(body), Some(BytesMut::new()));
    while let Some(chunk) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        let Ok(chunk) = chunk else { return (Outcome::Failed, None) };
        if let Some(bytes) = &mut kept {
            if (bytes.len() + chunk.len()) as u64 > max_response {
                kept = None;
            } else {
                bytes.extend_from_slice(&chunk);
            }
        }
    }
    let retry_after = retry_after(head.headers());
    let headers = head.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let response = RecordedResponse { status, headers: headers.collect(), body: kept.map(Bytes::from) };
    (Outcome::Answered { status, retry_after }, Some(response))
}

/// Returns how long the function wants to be left alone: seconds, or until a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(actix_http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

fn outcome_of(failure: &Failure) -> Outcome {
    match failure {
        Failure::Refused(_) | Failure::Draining => {
            Outcome::Untouched { retry_after: failure.retry_after().map(Duration::from_secs) }
        }
        Failure::BodyTooLarge { .. } | Failure::BadRequest | Failure::MalformedBody | Failure::HeadTooLarge => {
            Outcome::Unservable
        }
        _ => Outcome::Failed,
    }
}
