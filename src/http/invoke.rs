//! `/invoke/<function>/<path>`: one request from its head to the head of its response.
//!
//! Finds the function, gets a slot, has `dispatch.rs` send the request to the instance, and hands the rest to a
//! [`Relay`]. Which headers travel is `headers.rs`, what a failure says `status.rs`.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use actix_http::{
    BoxedPayloadStream, ConnectionType, HttpMessage, Method, Payload, Request, RequestHead, Response, StatusCode,
    Version,
    body::BodySize,
    header::{self, HeaderMap, HeaderValue},
};
use bytes::{BufMut, BytesMut};
use tokio::time::Instant;
use unifaas_actors::{Desk, Lease};

use super::{
    Shared,
    client::Client,
    dispatch::{self, Missed, Outgoing},
    headers::{REQUEST_ID, SERVER_TIMING, asks_for_websocket, strip_response_headers},
    relay::{Body, ClientEnd, Deadline, Record, Relay, blames_instance},
    status::Failure,
    upstream::{Answer, BodyLimits, Exchange, Framing, Pool, RequestBody, ResponseHead, content_length},
};

/// Where invocations live.
pub const PREFIX: &str = "/invoke/";
/// Instances that a request is offered to which turn out to be gone, before the client is told.
const ATTEMPTS: usize = 4;
/// Room for a `Server-Timing` header, in bytes.
const USUAL_TIMING: usize = 64;
/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// Serves invocations on one HTTP worker.
pub struct Invoker {
    shared: Arc<Shared>,
    pool: Rc<Pool>,
}

/// A request that was let in: a slot is held for it.
struct Admission {
    desk: Arc<Desk>,
    lease: Lease,
    record: Record,
    request_id: HeaderValue,
    framing: Framing,
    times: Times,
    deadline: Option<Deadline>,
}

/// When a request came and when it got its first slot.
#[derive(Clone, Copy)]
struct Times {
    asked: Instant,
    leased: Instant,
}

impl Invoker {
    pub fn new(shared: Arc<Shared>, pool: Rc<Pool>) -> Self {
        Self { shared, pool }
    }

    /// Lets a request in that waits for `100 Continue`: it is told to send its body once its instance has asked for it.
    ///
    /// # Errors
    /// The answer to a request whose body is not wanted, by the platform or by the instance; it is never sent.
    pub async fn invoke_expecting(&self, request: Request) -> Result<Request, Response<Body>> {
        let client = client_of(&request);
        let opened = {
            let opened = pin!(async {
                let admission = self.admit(request.head(), &client).await?;
                let body = RequestBody::withheld(admission.framing, self.body_limits(&admission));
                let opened = self.open(request.head(), &client, body, admission).await?;
                match opened.answer {
                    Answer::Continue => Ok(opened),
                    Answer::Head(_) => Err(self.respond(request.head(), &client, opened)),
                }
            });
            unless_left(&client, request.head(), opened).await?
        };
        request.extensions_mut().insert(opened);
        Ok(request)
    }

    /// Serves one request.
    pub async fn invoke(&self, mut request: Request) -> Response<Body> {
        let client = client_of(&request);
        let waiting = request.extensions_mut().remove::<Opened>();
        let payload = request.take_payload();
        let head = request.head();
        let opened = pin!(async {
            match waiting {
                Some(opened) => Box::pin(self.resume(head, &client, payload, opened)).await,
                None => {
                    let admission = self.admit(head, &client).await?;
                    let body = RequestBody::new(payload, admission.framing, self.body_limits(&admission));
                    self.open(head, &client, body, admission).await
                }
            }
        });
        match unless_left(&client, head, opened).await {
            Ok(opened) => self.respond(head, &client, opened),
            Err(refusal) => refusal,
        }
    }

    fn body_limits(&self, admission: &Admission) -> BodyLimits {
        let size = admission.lease.endpoint().spec.max_body;
        BodyLimits { size, silence: self.shared.limits.client_timeout }
    }

    async fn admit(&self, head: &RequestHead, client: &Option<Client>) -> Result<Admission, Response<Body>> {
        let asked = Instant::now();
        let request_id = request_id(&head.headers);
        if let Some(client) = client {
            client.manners().asks();
            if !client.is_welcome() {
                client.dismiss();
                return Err(refuse(head, &Failure::Crowded, &request_id));
            }
        }
        if self.shared.is_draining() {
            return Err(refuse(head, &Failure::Draining, &request_id));
        }
        let (name, _) = split(head);
        let Some(desk) = self.shared.directory.find(name) else {
            return Err(refuse(head, &Failure::NoSuchFunction, &request_id));
        };
        let mut record = Record::new(desk.clone(), self.shared.log.clone(), request_id.clone(), asked, client.clone());
        let slot = match request_framing(&head.headers).and_then(|framing| check_length(&desk, framing)) {
            Ok(framing) => desk.acquire_at(asked).await.map(|lease| (lease, framing)).map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match slot {
            Ok((lease, framing)) => {
                let times = Times { asked, leased: lease.since() };
                let timeout = lease.endpoint().spec.timeout;
                let deadline = timeout.map(|after| Deadline::new(times.leased + after, after));
                Ok(Admission { desk, lease, record, request_id, framing, times, deadline })
            }
            Err(failure) => Err(fail(head, &mut record, &request_id, failure)),
        }
    }

    /// Sends the request to an instance, or to another one if it never reached the first.
    async fn open(
        &self,
        head: &RequestHead,
        client: &Option<Client>,
        mut body: RequestBody,
        admission: Admission,
    ) -> Result<Opened, Response<Body>> {
        let Admission { desk, mut lease, mut record, request_id, framing, times, mut deadline } = admission;
        let outgoing = outgoing(head, client, framing, &request_id);
        for attempt in 1.. {
            let Missed { failure, untouched } =
                match dispatch::send(&self.pool, &outgoing, body, &lease, deadline.as_mut()).await {
                    Ok((exchange, answer)) => {
                        let admission = Admission { desk, lease, record, request_id, framing, times, deadline };
                        return Ok(Opened { admission, exchange, answer });
                    }
                    Err(missed) => missed,
                };
            let failure = Box::pin(dispatch::explain(failure, lease.endpoint())).await;
            if blames_instance(&failure) {
                lease.condemn();
            }
            // The slot is free before the client hears of the failure, and before another one is asked for.
            drop(lease);
            // An instance that died of the request itself must not take all others with it.
            let attempts = if matches!(failure, Failure::Unreachable { .. }) { ATTEMPTS } else { 2 };
            let failure = match untouched {
                Some(again) if attempt < attempts => match Box::pin(desk.acquire()).await {
                    Ok(next) => {
                        (lease, body) = (next, again);
                        continue;
                    }
                    Err(refusal) => refusal.into(),
                },
                _ => failure,
            };
            return Err(fail(head, &mut record, &request_id, failure));
        }
        unreachable!("the last attempt returns")
    }

    /// Sends the body that an instance has asked for.
    async fn resume(
        &self,
        head: &RequestHead,
        client: &Option<Client>,
        payload: Payload<BoxedPayloadStream>,
        opened: Opened,
    ) -> Result<Opened, Response<Body>> {
        let Opened { mut admission, mut exchange, .. } = opened;
        exchange.release(payload);
        let instance = admission.lease.endpoint().instance;
        let outgoing = outgoing(head, client, admission.framing, &admission.request_id);
        match dispatch::answer(&mut exchange, &outgoing, instance, admission.deadline.as_mut()).await {
            Ok(answer) => Ok(Opened { admission, exchange, answer }),
            Err(failure) => {
                let failure = dispatch::explain(failure, admission.lease.endpoint()).await;
                if blames_instance(&failure) {
                    admission.lease.condemn();
                }
                drop(admission.lease);
                Err(fail(head, &mut admission.record, &admission.request_id, failure))
            }
        }
    }

    /// The response to the client; its body goes on from here by itself.
    fn respond(&self, request: &RequestHead, client: &Option<Client>, opened: Opened) -> Response<Body> {
        let Opened { admission, exchange, answer } = opened;
        let Admission { lease, mut record, request_id, times, deadline, .. } = admission;
        record.answered();
        let mut response = match answer {
            Answer::Head(head) => head,
            Answer::Continue => unreachable!("it is asked for once, before the body was released"),
        };
        let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let size = body_size(&request.method, &response);
        let timing = times.header(&lease);
        strip_response_headers(&mut response.headers, upgraded);
        if response.status != StatusCode::NOT_MODIFIED {
            // The server writes it from the body's size.
            response.headers.remove(header::CONTENT_LENGTH);
        }
        response.headers.insert(REQUEST_ID, request_id);
        response.headers.append(SERVER_TIMING, timing);

        // A tunnel lasts as long as both sides want.
        let deadline = deadline.filter(|_| !upgraded);
        let ends_with_connection = request.version < Version::HTTP_11 && size == BodySize::Stream;
        let client = client.clone().map(|client| ClientEnd { client, reset_on_failure: ends_with_connection });
        let mut relay = Relay::new(size, exchange, lease, deadline, client, record, self.pool.clone());
        if matches!(size, BodySize::None | BodySize::Sized(0)) {
            // The server does not poll a body that is known to be empty.
            relay.complete();
        }
        let mut answer = Response::with_body(response.status, Body::Relay(Box::new(relay)));
        let head = answer.head_mut();
        head.headers = response.headers;
        if upgraded {
            head.set_connection_type(ConnectionType::Upgrade);
        } else if ends_with_connection {
            // Such a client knows no chunks: the end of the connection is the end of the body.
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        } else if self.shared.is_draining() {
            head.set_connection_type(ConnectionType::Close);
        }
        answer
    }
}

/// A request that has reached an instance, and what the instance says to it.
struct Opened {
    admission: Admission,
    exchange: Exchange,
    answer: Answer,
}

impl Times {
    /// `Server-Timing`: where the time went until the response's head came.
    fn header(&self, lease: &Lease) -> HeaderValue {
        let waited = self.leased - self.asked;
        // The first request of an instance waited for its boot, or for what was left of it.
        let boot = if lease.is_fresh() { lease.endpoint().boot().min(waited) } else { Duration::ZERO };
        let parts = [("queue;dur=", waited - boot), (", boot;dur=", boot), (", upstream;dur=", self.leased.elapsed())];
        let mut text = BytesMut::with_capacity(USUAL_TIMING);
        for (name, duration) in parts {
            text.put_slice(name.as_bytes());
            put_milliseconds(&mut text, duration);
        }
        HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Writes a duration as milliseconds with three decimals. Integers: a float costs ten times as much to write.
fn put_milliseconds(out: &mut BytesMut, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (whole, rest) = (micros / 1000, micros % 1000);
    out.put_slice(itoa::Buffer::new().format(whole).as_bytes());
    out.put_slice(&[b'.', digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)]);
}

/// The digit of a number below sixteen.
fn digit(value: u64) -> u8 {
    b"0123456789abcdef"[value as usize & 0xf]
}

fn outgoing<'a>(
    head: &'a RequestHead,
    client: &'a Option<Client>,
    framing: Framing,
    request_id: &'a HeaderValue,
) -> Outgoing<'a> {
    let websocket = framing == Framing::UntilClose;
    Outgoing { head, target: split(head).1, framing, websocket, client: client.as_ref(), request_id }
}

/// Who is at the other end of the request's connection.
fn client_of(request: &Request) -> Option<Client> {
    request.conn_data::<Client>().cloned()
}

/// `served`, given up as soon as the client has left. Borrowed, because whatever is passed by value into a future is kept
/// in there twice, and this one is the largest of all.
async fn unless_left<T>(
    client: &Option<Client>,
    head: &RequestHead,
    mut served: Pin<&mut impl Future<Output = Result<T, Response<Body>>>>,
) -> Result<T, Response<Body>> {
    poll_fn(|cx| {
        match (served.as_mut().poll(cx), client) {
            (Poll::Pending, Some(client)) => client.poll_left(cx).map(|()| {
                // Nobody reads this answer.
                Err(refuse(head, &Failure::ClientGone, &request_id(&head.headers)))
            }),
            (served, _) => served,
        }
    })
    .await
}

/// Ends a request with the platform's answer.
fn fail(head: &RequestHead, record: &mut Record, request_id: &HeaderValue, failure: Failure) -> Response<Body> {
    let failure = record.judge(failure);
    record.fail(&failure);
    refuse(head, &failure, request_id)
}

fn refuse(head: &RequestHead, failure: &Failure, request_id: &HeaderValue) -> Response<Body> {
    let (name, _) = split(head);
    failure.response(Some(name).filter(|name| !name.is_empty()), request_id).map_body(|_, text| text.into())
}

/// The function's name and the path and query for it, both as they were sent.
///
/// The name is not decoded: only the exact name of a registry entry finds a function, so no spelling of `..` or `/` can
/// mean anything else.
fn split(head: &RequestHead) -> (&str, &str) {
    let sent = head.uri.path_and_query().map_or("", |path| path.as_str());
    let rest = sent.strip_prefix(PREFIX).unwrap_or_default();
    rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
}

/// The client's id for the request if it is a reasonable one, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let reasonable = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(reasonable) {
        Some(id) => id.clone(),
        None => {
            let random: u64 = rand::random();
            let text: [u8; 16] = std::array::from_fn(|at| digit(random >> (60 - 4 * at)));
            HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        }
    }
}

/// Refuses a body whose declared length is past the function's limit, before an instance is bothered.
fn check_length(desk: &Desk, framing: Framing) -> Result<Framing, Failure> {
    if let Framing::Length(length) = framing
        && let Some(limit) = desk.max_body()
        && length > limit
    {
        return Err(Failure::BodyTooLarge { limit });
    }
    Ok(framing)
}

/// How the client framed its body. The server has refused heads that say it in two ways. A request to switch to
/// WebSocket, and no other, is followed by whatever comes.
fn request_framing(headers: &HeaderMap) -> Result<Framing, Failure> {
    let length =
        content_length(headers).map_err(|_| Failure::BadRequest("the Content-Length header is not a length"))?;
    Ok(match length {
        _ if asks_for_websocket(headers) => Framing::UntilClose,
        _ if headers.contains_key(header::TRANSFER_ENCODING) => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::None,
    })
}

/// What the server is told about the body of a response.
fn body_size(method: &Method, response: &ResponseHead) -> BodySize {
    match response.framing {
        Framing::Length(length) => BodySize::Sized(length),
        Framing::Chunked | Framing::UntilClose => BodySize::Stream,
        Framing::None if *method == Method::HEAD => match content_length(&response.headers) {
            // The length that a GET would have; no byte of it follows.
            Ok(Some(length)) => BodySize::Sized(length),
            _ => BodySize::None,
        },
        Framing::None if response.status == StatusCode::NO_CONTENT => BodySize::None,
        Framing::None if response.status == StatusCode::NOT_MODIFIED => BodySize::None,
        Framing::None => BodySize::Sized(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &'static str, name: &str, target: &str) {
        let mut request = Request::new();
        *request.uri_mut() = actix_http::Uri::from_static(sent);
        assert_eq!(split(request.head()), (name, target));
    }

    #[test]
    fn the_path_travels_as_it_was_sent() {
        check("/invoke/f", "f", "");
        check("/invoke/f/", "f", "/");
        check("/invoke/f/a/b%20c?q=1", "f", "/a/b%20c?q=1");
        check("/invoke/f?q=1", "f", "?q=1");
        check("/invoke/f//x/../y%2F", "f", "//x/../y%2F");
        check("http://host/invoke/f/x", "f", "/x");
    }

    #[test]
    fn a_name_is_taken_literally() {
        check("/invoke/%2e%2e/x", "%2e%2e", "/x");
        check("/invoke/../x", "..", "/x");
        check("/invoke/", "", "");
        check("/invoke//x", "", "/x");
    }

    #[test]
    fn a_request_id_is_taken_over_if_it_is_reasonable() {
        let id = |sent: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(sent).unwrap());
            request_id(&headers)
        };
        assert_eq!(id(b"abc-1"), "abc-1");
        for unreasonable in [&b""[..], b"two words", b"\xff", &[b'x'; 129]] {
            assert_eq!(id(unreasonable).len(), 16);
        }
    }
}
