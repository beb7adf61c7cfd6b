//! `/async/<function>/<path>` and `/invocations/<id>`: asynchronous invocations over HTTP.
//!
//! The request is read as a whole, stored durably, and then answered. What is decided about it is decided in
//! `unifaas_actors::inbox`.

use std::{
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::ConnectionType;
use actix_web::{
    HttpResponse,
    dev::Payload,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use unifaas_actors::{
    inbox::{Command, Enqueue, Found, InvocationId, RecordedResponse, Removal, StoredRequest},
    site::Call,
    spec::Durability,
};

use super::{
    answers::{Shown, accepted},
    enqueue_trace::EnqueueTrace,
};
use crate::{
    failure::{Failure, InboxFailure, Rejection},
    header_names::REQUEST_ID,
    http::{ActiveRequest, ClientWatch, Framing, RequestFacts},
    inbox::{IDEMPOTENCY_KEY, INVOCATION, Place},
    invocation::{
        client_body::take_body,
        dispatch::unless_left,
        headers::is_hop_by_hop,
        invoke::{HeadSource, reject},
        target::{ASYNC_SCOPE, INVOCATIONS_SCOPE, split_after},
    },
    shared::Shared,
};

const DELAY: &str = "x-unifaas-delay";
const MAX_AGE: &str = "x-unifaas-max-age";
const CALLBACK: &str = "x-callback-url";
/// The longest idempotency key.
const MAX_KEY: usize = 255;
/// The longest delay and age, in seconds: ten years.
const MAX_SECONDS: f64 = 315_360_000.0;
/// The longest wait for the end of an invocation.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A request about asynchronous invocations, until it is answered.
struct Asynchronous {
    shared: Arc<Shared>,
    head: HeadSource,
    facts: RequestFacts,
    client: ActiveRequest,
    /// Notified when the client may send the body that it withholds.
    body_wanted: Option<Rc<Notify>>,
    watch: ClientWatch,
}

/// Serves a request about asynchronous invocations.
pub fn serve_asynchronous(
    shared: Arc<Shared>,
    head: HeadSource,
    facts: RequestFacts,
    client: ActiveRequest,
    payload: Payload,
    body_wanted: Option<Rc<Notify>>,
) -> Pin<Box<dyn Future<Output = Result<HttpResponse, Rejection>>>> {
    Box::pin(async move {
        let watch = ClientWatch::new(&client, None);
        let mut request = Asynchronous { shared, head, facts, client, body_wanted, watch };
        let served = request.serve(payload).await;
        let Asynchronous { shared, head, facts, client, .. } = request;
        let head = head.get();
        match served {
            Ok(mut response) => {
                if head.connection_type() != ConnectionType::KeepAlive || shared.server.ends_connections() {
                    client.end_after_response();
                    response.head_mut().set_connection_type(ConnectionType::Close);
                }
                if let Ok(id) = HeaderValue::from_bytes(facts.request_id.as_bytes()) {
                    response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), id);
                }
                Ok(response)
            }
            Err(failure) => {
                let function = split_after(ASYNC_SCOPE, head).map(|(function, _)| function.into());
                let rejection = reject(failure, head, facts.request_id, &client, &shared);
                Err(Rejection { function, ..rejection })
            }
        }
    })
}

impl Asynchronous {
    async fn serve(&mut self, payload: Payload) -> Result<HttpResponse, Failure> {
        let head = self.head.get();
        let method = head.method.clone();
        if let Some((function, target)) = split_after(ASYNC_SCOPE, head) {
            let (function, target) = (function.to_owned(), target.to_owned());
            return self.enqueue(function, target, payload).await;
        }
        let (id, part) = split_after(INVOCATIONS_SCOPE, head).ok_or(Failure::NoSuchPage)?;
        let found = InvocationId::parse(id).ok_or(InboxFailure::NoSuchInvocation);
        match (part, method) {
            ("", Method::GET | Method::HEAD) => self.show(found?).await,
            ("", Method::DELETE) => self.remove(found?).await,
            ("/response", Method::GET | Method::HEAD) => self.response(found?).await,
            ("", _) => Err(Failure::MethodNotAllowed { allowed: "GET, HEAD, DELETE".to_owned() }),
            ("/response", _) => Err(Failure::MethodNotAllowed { allowed: "GET, HEAD".to_owned() }),
            _ => Err(Failure::NoSuchPage),
        }
    }

    async fn enqueue(&mut self, function: String, target: String, payload: Payload) -> Result<HttpResponse, Failure> {
        let (inbox, head) = (&self.shared.inbox.handle, self.head.get());
        let policy = inbox.policy(&function)?;
        if self.facts.is_websocket || self.facts.framing == Framing::Tunnel {
            return Err(Failure::BadRequest);
        }
        let key = idempotency_key(&head.headers)?;
        let delay = seconds(&head.headers, DELAY)?.unwrap_or_default();
        let max_age = seconds(&head.headers, MAX_AGE)?.map_or(policy.max_age, |age| age.min(policy.max_age));
        if delay >= max_age {
            let why = format!("{DELAY} has to be less than the age, {} s, at which it expires", max_age.as_secs_f64());
            return Err(Failure::BadHeader { why });
        }
        let callback = head.headers.get(CALLBACK).map(|url| String::from_utf8_lossy(url.as_bytes()).into_owned());
        if callback.as_ref().is_some_and(|url| !self.shared.inbox.delivers_to(url)) {
            return Err(InboxFailure::CallbackNotAllowed.into());
        }
        let trace = self.shared.tracer.as_ref().map(|tracer| EnqueueTrace::begin(tracer, &head.headers));
        let mut request = StoredRequest {
            method: head.method.as_str().to_owned(),
            target,
            headers: stored_headers(&head.headers, &self.facts),
            client: Some(self.client.addrs.peer.ip()),
            is_tls: self.client.peer.is_tls(),
            body: Bytes::new(),
        };
        if let Some(trace) = &trace {
            trace.set_headers(&mut request.headers);
        }
        request.body = self.read_body(payload, policy.max_body).await?;
        let enqueue = Enqueue { key, callback, delay, max_age: Some(max_age), ..Enqueue::new(&function, request) };
        let stored = self.shared.inbox.handle.enqueue(enqueue).await?;
        if let (Some(trace), Some(tracer)) = (trace, &self.shared.tracer) {
            trace.export(tracer, &function, stored.id);
        }
        let place = match &self.shared.inbox.site {
            Some(site) if policy.durability == Durability::Site => {
                let place = site.hand_over(stored.id).await;
                self.shared.inbox.stats.count_stored(matches!(place, Place::Site(_)));
                place
            }
            _ => Place::Node,
        };
        if place == Place::KeyReused {
            return Err(InboxFailure::KeyReused.into());
        }
        Ok(accepted(&function, stored, place))
    }

    /// Reads the body to its end.
    async fn read_body(&mut self, payload: Payload, limit: u64) -> Result<Bytes, Failure> {
        if matches!(self.facts.framing, Framing::Length(length) if length > limit) {
            return Err(Failure::BodyTooLarge { limit });
        }
        let (body, ended) = take_body(payload, self.facts.framing, self.client.is_http2);
        self.watch.keep_ended_body(ended);
        let Some(mut body) = body else { return Ok(Bytes::new()) };
        if let Some(wanted) = self.body_wanted.take() {
            wanted.notify_one();
        }
        let mut whole = BytesMut::new();
        loop {
            let next = match self.client.client_timeout {
                Some(after) => timeout(after, body.next()).await.map_err(|_| Failure::ClientSilent { after })?,
                None => body.next().await,
            };
            match next {
                Some(Ok(chunk)) if (whole.len() + chunk.len()) as u64 > limit => {
                    return Err(Failure::BodyTooLarge { limit });
                }
                Some(Ok(chunk)) => whole.extend_from_slice(&chunk),
                Some(Err(_)) if self.client.has_left() || self.client.is_http2 => return Err(Failure::ClientGone),
                Some(Err(_)) => return Err(Failure::MalformedBody),
                // Over HTTP/2 a stream may end with its head, whatever length that declares.
                None if matches!(self.facts.framing, Framing::Length(length) if length != whole.len() as u64) => {
                    return Err(Failure::MalformedBody);
                }
                None => break,
            }
        }
        self.client.set_body_unread(false);
        Ok(whole.freeze())
    }

    async fn show(&mut self, id: InvocationId) -> Result<HttpResponse, Failure> {
        let wait = prefer_wait(&self.head.get().headers);
        let inbox = self.shared.inbox.handle.clone();
        let (mut found, began) = (None, Instant::now());
        if let Some(wait) = wait {
            let ended = pin!(timeout(wait, inbox.ask(|reply| Command::Find { id, awaits_end: true, reply })));
            // At the end of the wait, that it goes on is the answer.
            if let Ok(answer) = unless_left(&mut self.watch, ended).await? {
                found = Some(answer.map_err(unavailable)?);
            }
        }
        let record = match found {
            Some(record) => record,
            None => {
                let now = inbox.ask(|reply| Command::Find { id, awaits_end: false, reply });
                now.await.map_err(unavailable)?
            }
        };
        let (record, is_on_site) = match record {
            Some(record) => {
                let seen = pin!(self.shared.inbox.as_of_site(record));
                unless_left(&mut self.watch, seen).await?
            }
            None => {
                let left = wait.unwrap_or_default().saturating_sub(began.elapsed());
                let shared = self.shared.clone();
                let found = pin!(of_site(&shared, id, left));
                (unless_left(&mut self.watch, found).await??.record, true)
            }
        };
        let mut response = HttpResponse::Ok();
        if wait.is_some() {
            response.insert_header(("preference-applied", "wait"));
        }
        Ok(response.insert_header((header::CACHE_CONTROL, "no-store")).json(Shown::of(&record, is_on_site)))
    }

    async fn response(&self, id: InvocationId) -> Result<HttpResponse, Failure> {
        let found = self.shared.inbox.handle.ask(|reply| Command::Response(id, reply)).await;
        let Found { record, response } = match found.map_err(unavailable)? {
            Some(found) => *found,
            None => of_site(&self.shared, id, Duration::ZERO).await.map(|call| {
                let Call { record, response, .. } = call;
                Found { record, response }
            })?,
        };
        if !record.state.is_ended() {
            return Err(InboxFailure::NotFinished.into());
        }
        match response {
            Some(RecordedResponse { status, headers, body: Some(body) }) => {
                let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap_or_default());
                for (name, value) in &headers {
                    response.append_header((name.as_str(), value.as_slice()));
                }
                response.insert_header((INVOCATION, id.to_string()));
                Ok(response.body(body))
            }
            _ => Err(InboxFailure::ResponseGone.into()),
        }
    }

    async fn remove(&self, id: InvocationId) -> Result<HttpResponse, Failure> {
        match self.shared.inbox.remove(id).await.map_err(unavailable)? {
            Removal::Cancelled(_) | Removal::Forgotten { .. } => Ok(HttpResponse::NoContent().finish()),
            Removal::Running => Err(InboxFailure::NotFinished.into()),
            Removal::Unknown => Err(InboxFailure::NoSuchInvocation.into()),
        }
    }
}

/// Returns an invocation that the site has, and waits for its end for so long.
async fn of_site(shared: &Shared, id: InvocationId, wait: Duration) -> Result<Call, Failure> {
    let site = shared.inbox.site.as_ref().ok_or(InboxFailure::NoSuchInvocation)?;
    Ok(site.find(id, wait).await.map_err(unavailable)?.ok_or(InboxFailure::NoSuchInvocation)?)
}

fn unavailable(why: String) -> Failure {
    InboxFailure::Unavailable { why }.into()
}

/// Returns the headers that the function will get. What concerns the connection or this request alone is left out.
fn stored_headers(headers: &HeaderMap, facts: &RequestFacts) -> Vec<(String, Vec<u8>)> {
    let is_kept = |name: &str| {
        !is_hop_by_hop(name)
            && !name.starts_with("x-unifaas-")
            && ![REQUEST_ID, IDEMPOTENCY_KEY, CALLBACK, "expect", "prefer"].contains(&name)
    };
    let kept = headers.iter().filter(|(name, _)| is_kept(name.as_str()));
    let mut kept: Vec<_> = kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    kept.push((REQUEST_ID.to_owned(), facts.request_id.as_bytes().to_vec()));
    kept
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY).map(HeaderValue::as_bytes) else { return Ok(None) };
    if !(1..=MAX_KEY).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        let why = format!("{IDEMPOTENCY_KEY} has to be 1 to {MAX_KEY} visible ASCII characters");
        return Err(Failure::BadHeader { why });
    }
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

fn seconds(headers: &HeaderMap, name: &str) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds.filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds)) {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => {
            Err(Failure::BadHeader { why: format!("{name} has to be a number of seconds from 0 to {MAX_SECONDS}") })
        }
    }
}

/// Returns how long the client prefers to wait (RFC 7240, section 4.3).
fn prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(','));
    let wait = preferences.filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse().ok())?
    });
    wait.map(Duration::from_secs).next().map(|wait| wait.min(MAX_WAIT))
}
