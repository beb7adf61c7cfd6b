//! `/invoke/<function>/<path>`: one request from its head to the head of its response.
//!
//! Finds the function, gets a slot, has `dispatch.rs` send the request to the instance, and makes the response. Its body is
//! `response_body.rs`, what follows a `101` `tunnel.rs`; both own the slot (a [`Lease`]) until their last byte.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{ConnectionType, HttpMessage as _, Request, RequestHead, body::BoxBody};
use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    dev::Payload,
    http::{
        Version,
        header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE},
    },
    web,
};
use futures::FutureExt as _;
use hyper::{Method, StatusCode};
use tokio::{sync::Notify, time::Instant};
use unifaas_actors::{FunctionHandle, Lease, Refusal};

use super::{
    access_log::AccessLog,
    client_body::{BodyLength, BodyProgress, ClientBody, pump, skip, take_body},
    client_connection::{ActiveRequest, ClientConnection, ClientWatch},
    debug,
    dispatch::{Deadline, Transfer, dispatch, unless_left},
    headers::{ForwardContext, REQUEST_ID, SERVER_TIMING, copy_response_headers, host, is_host, request_headers},
    request_id::RequestId,
    response_body::{ResponseBody, ResponseEnd, announced_size},
    shared::Shared,
    status::{Failure, Rejection},
    tunnel::Tunnel,
    upstream::{Answer, InterimResponses, upload},
};

/// Where invocations are served.
pub const SCOPE: &str = "/invoke";
/// Most headers of a request, and its largest head in bytes, as in actix-http's parser of HTTP/1.1.
const MAX_HEADERS: usize = 96;
const MAX_HEAD: usize = 128 * 1024;
/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS: usize = 256;

/// Serves a request at `/invoke`.
pub async fn invoke(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Rejection> {
    // `expect` has begun with it.
    let begun = request.head().expect().then(|| request.extensions_mut().remove::<Begun>()).flatten();
    if let Some(Begun(serving)) = begun {
        return serving.await;
    }
    let connection = request.conn_data::<Rc<ClientConnection>>().cloned();
    if let Some(connection) = &connection {
        connection.unless_ended().await;
    }
    let head = HeadSource::Request(request.clone());
    match Invocation::begin(head, connection, shared.into_inner(), None) {
        Ok(invocation) => invocation.serve(payload.into_inner()).await,
        Err(rejection) => {
            if declares_body(request.head()) && !rejection.failure.closes() {
                skip_body(request.head(), payload.into_inner()).await;
            }
            Err(rejection)
        }
    }
}

/// Reads a body that no instance will read, if it is small.
async fn skip_body(head: &RequestHead, payload: Payload) -> bool {
    match take_body(head, payload, false).await {
        ClientBody::Some(payload, length) => skip(payload, length).await,
        ClientBody::None(_) | ClientBody::Tunnel(_) => false,
    }
}

/// A request that was begun before its client was asked for the body.
struct Begun(Pin<Box<dyn Future<Output = Result<HttpResponse, Rejection>>>>);

/// Decides about `Expect: 100-continue`. The request gets a slot and goes to the instance; the client is asked for the body
/// when the instance wants it, or gets the response without having sent it.
pub async fn expect(mut request: Request, shared: Arc<Shared>) -> Result<Request, actix_http::Response<BoxBody>> {
    if debug::is_page(request.path()) {
        // It reads no body.
        return Ok(request);
    }
    let connection = request.conn_data::<Rc<ClientConnection>>().cloned();
    if let Some(connection) = &connection {
        connection.unless_ended().await;
    }
    let (head, payload) = (HeadSource::Copy(Box::new(request.head().clone())), request.take_payload());
    let body_wanted = Rc::new(Notify::new());
    let wanted = body_wanted.clone();
    let mut serving: Pin<Box<dyn Future<Output = _>>> =
        Box::pin(async move { Invocation::begin(head, connection, shared, Some(wanted))?.serve(payload).await });
    tokio::select! {
        biased;
        response = &mut serving => {
            if body_wanted.notified().now_or_never().is_none() {
                let response = response.unwrap_or_else(|rejection: Rejection| rejection.error_response());
                return Err(response.into());
            }
            // The instance has asked for the body and begun its response at once.
            serving = Box::pin(std::future::ready(response));
        }
        () = body_wanted.notified() => {}
    }
    request.extensions_mut().insert(Begun(serving));
    Ok(request)
}

/// Where the head of a request is.
enum HeadSource {
    Request(HttpRequest),
    /// Its own copy: the request itself is with actix-http until the body is wanted.
    Copy(Box<RequestHead>),
}

/// One request that is being served.
pub struct Invocation {
    pub shared: Arc<Shared>,
    pub connection: Rc<ClientConnection>,
    pub handle: Arc<FunctionHandle>,
    pub is_websocket: bool,
    /// To be notified when the instance wants the body that the client withholds.
    pub body_wanted: Option<Rc<Notify>>,
    /// Of its body.
    pub progress: RefCell<Rc<BodyProgress>>,
    /// `None`: no body.
    body_length: Cell<Option<BodyLength>>,
    head: HeadSource,
    log: AccessLog,
    arrived: Instant,
    active: ActiveRequest,
}

impl Invocation {
    /// Finds the function, and begins to count the request.
    fn begin(
        head: HeadSource,
        client: Option<Rc<ClientConnection>>,
        shared: Arc<Shared>,
        body_wanted: Option<Rc<Notify>>,
    ) -> Result<Self, Rejection> {
        let arrived = Instant::now();
        let request = head.get();
        let request_id = RequestId::of(request.headers.get(REQUEST_ID).map(|id| id.as_bytes()));
        let name = split_target(request).map(|(name, _)| name);
        let reject = |failure: Failure| {
            if failure.closes()
                && let Some(connection) = &client
            {
                connection.end_after_response();
            }
            let function = name.filter(|name| !name.is_empty()).map(str::to_owned);
            Rejection { failure, function, request_id: request_id.clone() }
        };
        // Every connection has one; see `server.rs`.
        let Some(connection) = client.clone() else { return Err(reject(Refusal::Lost.into())) };
        let active = connection.begin_request(request);
        connection.set_body_unread(declares_body(request));
        let is_websocket = asks_for_websocket(request);
        if name.is_none() {
            return Err(reject(Failure::NoSuchPage));
        }
        if !connection.guard.is_within_limit() {
            return Err(reject(Failure::TooManyConnections));
        }
        if connection.active() > MAX_STREAMS {
            return Err(reject(Failure::TooManyStreams));
        }
        if shared.is_draining() {
            return Err(reject(Failure::Draining));
        }
        let is_ambiguous = reads_as_websocket(request) && declares_body(request);
        if connection.is_http2 && !is_head_within_limits(request) {
            return Err(reject(Failure::HeadTooLarge));
        }
        // The answer to `CONNECT` would be a tunnel (RFC 9110, section 9.3.6).
        let is_connect = request.method == actix_web::http::Method::CONNECT;
        // actix-http's parser of HTTP/1.1 refuses several lengths itself.
        let has_lengths = request.headers.get_all(CONTENT_LENGTH).nth(1).is_some();
        if is_ambiguous || is_connect || has_lengths || !host(request).is_none_or(is_host) {
            return Err(reject(Failure::BadRequest));
        }
        let Some(handle) = name.and_then(|name| shared.directory.find(name)) else {
            return Err(reject(Failure::NoSuchFunction));
        };
        let log = AccessLog::new(handle.clone(), shared.clone(), connection.clone(), request_id, arrived);
        let (progress, body_length) = (RefCell::new(BodyProgress::none()), Cell::default());
        Ok(Self {
            shared,
            connection,
            handle,
            is_websocket,
            body_wanted,
            progress,
            body_length,
            head,
            log,
            arrived,
            active,
        })
    }

    /// Gets the request answered by an instance.
    async fn serve(mut self, payload: Payload) -> Result<HttpResponse, Rejection> {
        self.connection.set_unanswered(true);
        let outcome = self.exchange(payload).await;
        self.connection.set_unanswered(false);
        match outcome {
            Ok((lease, answer, transfer)) => Ok(self.respond(lease, answer, transfer)),
            Err(failure) => {
                self.log.fail(&failure);
                self.connection.set_body_unread(!self.progress.borrow().is_complete());
                if failure.closes() {
                    self.connection.end_after_response();
                }
                let function = Some(self.handle.name().to_owned());
                Err(Rejection { failure, function, request_id: self.log.request_id.clone() })
            }
        }
    }

    async fn exchange(&self, payload: Payload) -> Result<(Lease, Answer, Transfer), Failure> {
        let body = if self.is_websocket {
            ClientBody::Tunnel(payload)
        } else {
            take_body(self.head(), payload, self.connection.is_http2).await
        };
        let (body, ended, tunnel) = match body {
            ClientBody::None(ended) => (None, ended, None),
            ClientBody::Tunnel(payload) => (None, None, Some(payload)),
            ClientBody::Some(payload, length) => {
                self.progress.replace(Rc::default());
                (Some((payload, length)), None, None)
            }
        };
        self.body_length.set(body.as_ref().map(|(_, length)| *length));
        if let Some((_, BodyLength::Known(length))) = &body
            && let Some(limit) = self.handle.max_body().filter(|limit| length > limit)
        {
            return Err(Failure::BodyTooLarge { limit });
        }
        let mut watch = ClientWatch::new(&self.connection, ended);
        let lease = match unless_left(&mut watch, pin!(self.handle.acquire_at(self.arrived))).await? {
            Ok(lease) => lease,
            Err(refusal) => {
                // A withheld body does not come.
                if let Some((payload, length)) = body.filter(|_| self.body_wanted.is_none())
                    && skip(payload, length).await
                {
                    self.progress.replace(BodyProgress::none());
                }
                return Err(refusal.into());
            }
        };
        let (leased, spec) = (lease.since(), lease.endpoint().spec.clone());
        let deadline = spec.timeout.map(|after| Deadline { at: leased + after, after });
        let mut transfer = Transfer { leased, deadline, watch, tunnel, pump: None, upload: None };
        if let Some(body) = body {
            let (sender, upload) = upload();
            let (pump, progress) = pump(body, sender, spec.max_body, &self.connection, self.body_wanted.clone());
            (transfer.pump, transfer.upload) = (Some(pump), Some(upload));
            self.progress.replace(progress);
        }
        let (lease, answer) = dispatch(self, &mut transfer, lease).await?;
        self.shared.malformed_responses.reset(lease.endpoint().instance);
        Ok((lease, answer, transfer))
    }

    /// Makes the response from that of the instance.
    fn respond(self, lease: Lease, answer: Answer, transfer: Transfer) -> HttpResponse {
        let Self { shared, connection, head, log, arrived, active, progress, .. } = self;
        let (Answer { head: from, body }, request) = (answer, head.get());
        let progress = progress.into_inner();
        progress.set_answered();
        connection.settle_interim();
        let is_upgrade = from.status == StatusCode::SWITCHING_PROTOCOLS;
        let is_head = request.method == actix_web::http::Method::HEAD;
        // Clients of HTTP/1.0 know no chunks: the end of the connection ends the body.
        let ends_with_connection =
            !is_upgrade && !is_head && body.size().is_none() && request.version < Version::HTTP_11;
        let server_timing = server_timing(arrived, transfer.leased, &lease);
        let request_id = HeaderValue::from_bytes(log.request_id.as_bytes());
        let connection_type = match () {
            () if is_upgrade => Some(ConnectionType::Upgrade),
            // actix-http closes the connection after an upgrade that it was asked for, whatever the answer.
            () if ends_with_connection || request.upgrade() || shared.is_draining() => Some(ConnectionType::Close),
            () => None,
        };

        let end = ResponseEnd { shared, connection, log, progress, lease: Some(lease), _active: active };
        let body = match is_upgrade {
            true => BoxBody::new(Tunnel::new(body, transfer, end)),
            false => {
                let announced = is_head.then(|| announced_size(&from));
                BoxBody::new(ResponseBody::new(body, announced, ends_with_connection, transfer, end))
            }
        };
        // Both libraries know the same statuses.
        let status = actix_web::http::StatusCode::from_u16(from.status.as_u16()).unwrap_or_default();
        let mut response = HttpResponse::with_body(status, body);
        let fields = response.headers_mut();
        copy_response_headers(&from.headers, from.status, fields);
        if let Ok(request_id) = request_id {
            fields.insert(HeaderName::from_static(REQUEST_ID), request_id);
        }
        fields.append(HeaderName::from_static(SERVER_TIMING), server_timing);
        let head = response.head_mut();
        head.no_chunking(ends_with_connection);
        if let Some(connection_type) = connection_type {
            head.set_connection_type(connection_type);
        }
        response
    }

    /// Returns the head of the request as the instance at that address gets it.
    pub fn request_head(&self, instance: SocketAddr) -> hyper::Request<()> {
        let head = self.head();
        let context = ForwardContext {
            client: &self.connection.peer,
            request_id: &self.log.request_id,
            is_websocket: self.is_websocket,
            expects_continue: self.body_wanted.is_some(),
            body: self.body_length.get(),
            instance,
        };
        let mut request = hyper::Request::new(());
        *request.headers_mut() = request_headers(head, context);
        let target = split_target(head).map_or("/", |(_, target)| target);
        // What actix-http accepts as a target, hyper does as well.
        let target = if target.starts_with('/') { target.parse() } else { format!("/{target}").parse() };
        *request.uri_mut() = target.unwrap_or_default();
        *request.method_mut() = self.method();
        request
    }

    fn head(&self) -> &RequestHead {
        self.head.get()
    }

    fn method(&self) -> Method {
        // Both sides accept the same tokens.
        Method::from_bytes(self.head().method.as_str().as_bytes()).unwrap_or_default()
    }

    /// Whether sending the request twice does no harm (RFC 9110, section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        self.method().is_idempotent()
    }

    /// Returns a queue for interim responses if they can be passed on. actix-http cannot send them over HTTP/2.
    pub fn interim_responses(&self) -> Option<Arc<InterimResponses>> {
        let takes_them = !self.connection.is_http2 && self.head().version == Version::HTTP_11;
        takes_them.then(Arc::default)
    }
}

impl HeadSource {
    fn get(&self) -> &RequestHead {
        match self {
            Self::Request(request) => request.head(),
            Self::Copy(head) => head,
        }
    }
}

/// Returns the function's name, and the path and query for it, both as they were sent. `None`: the target is not below
/// [`SCOPE`].
///
/// The name is not decoded: only the exact name of a registry entry finds a function, so no spelling of `..` or `/` can
/// mean anything else.
fn split_target(head: &RequestHead) -> Option<(&str, &str)> {
    let rest = head.uri.path_and_query()?.as_str().strip_prefix(SCOPE)?.strip_prefix('/')?;
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

fn asks_for_websocket(head: &RequestHead) -> bool {
    let mut options = head.headers.get_all(CONNECTION).filter_map(|value| value.to_str().ok());
    reads_as_websocket(head)
        && options.any(|options| options.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")))
}

/// Whether actix-http takes all that follows the head for its body, to the end of the connection.
fn reads_as_websocket(head: &RequestHead) -> bool {
    let mut protocols = head.headers.get_all(UPGRADE).filter_map(|value| value.to_str().ok());
    head.version == Version::HTTP_11 && protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// Whether the head is no larger than actix-http takes over HTTP/1.1. Over HTTP/2 it takes any.
fn is_head_within_limits(head: &RequestHead) -> bool {
    let sizes = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let (count, size) = sizes.fold((0, head.uri.path().len()), |(count, sum), size| (count + 1, sum + size));
    count <= MAX_HEADERS && size <= MAX_HEAD
}

fn declares_body(head: &RequestHead) -> bool {
    head.headers.contains_key(TRANSFER_ENCODING)
        || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// Returns `Server-Timing`: where the time went until the response's head came.
fn server_timing(arrived: Instant, leased: Instant, lease: &Lease) -> HeaderValue {
    let waited = leased - arrived;
    // The first request of an instance waited for its boot, or for what was left of it.
    let boot = if lease.is_fresh() { lease.endpoint().boot().min(waited) } else { Duration::ZERO };
    let mut text = Vec::with_capacity(64);
    for (name, duration) in
        [("queue;dur=", waited - boot), (", boot;dur=", boot), (", upstream;dur=", leased.elapsed())]
    {
        text.extend_from_slice(name.as_bytes());
        put_milliseconds(&mut text, duration);
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Writes a duration as milliseconds with three decimals. Integers: a float costs ten times as much to write.
fn put_milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (whole, rest) = (micros / 1000, micros % 1000);
    out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    out.push(b'.');
    out.extend([rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &str, expected: Option<(&str, &str)>) {
        let mut head = RequestHead::default();
        head.uri = sent.parse().unwrap();
        assert_eq!(split_target(&head), expected);
    }

    #[test]
    fn the_path_is_passed_on_as_it_was_sent() {
        check("/invoke/f", Some(("f", "")));
        check("/invoke/f/", Some(("f", "/")));
        check("/invoke/f/a/b%20c?q=1", Some(("f", "/a/b%20c?q=1")));
        check("/invoke/f?q=1", Some(("f", "?q=1")));
        check("/invoke/f//x/../y%2F", Some(("f", "//x/../y%2F")));
        check("http://host/invoke/f/x", Some(("f", "/x")));
    }

    #[test]
    fn a_name_is_not_decoded() {
        check("/invoke/%2e%2e/x", Some(("%2e%2e", "/x")));
        check("/invoke/../x", Some(("..", "/x")));
        check("/invoke/", Some(("", "")));
        check("/invoke//x", Some(("", "/x")));
        check("/%69nvoke/f/", None);
        check("/invoke", None);
    }

    #[test]
    fn durations_are_milliseconds() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_230, "1.230"), (12_345_678, "12345.678")] {
            let mut out = Vec::new();
            put_milliseconds(&mut out, Duration::from_micros(micros));
            assert_eq!(out, text.as_bytes());
        }
    }
}
