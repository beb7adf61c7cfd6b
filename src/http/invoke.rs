//! `/invoke/<function>/<path>`: one request from its head to the head of its response.
//!
//! Finds the function, gets a slot, has `dispatch.rs` send the request to the instance, and hands the rest to a
//! [`Relay`]. Which headers travel is `headers.rs`, what a failure says `status.rs`.

use std::{rc::Rc, sync::Arc};

use actix_http::{
    BoxedPayloadStream, ConnectionType, HttpMessage, Method, Payload, Request, RequestHead, Response, StatusCode,
    Version,
    body::BodySize,
    header::{self, HeaderMap, HeaderValue},
};
use tokio::time::Instant;
use unifaas_actors::{Desk, InstanceId, Lease};

use super::{
    Shared,
    dispatch::{self, Missed, Outgoing},
    headers::{REQUEST_ID, SERVER_TIMING, asks_for_websocket, strip_response_headers},
    relay::{Body, Deadline, Record, Relay, blames_instance},
    status::Failure,
    upstream::{Exchange, Framing, Pool, RequestBody, ResponseHead, content_length},
};

/// Where invocations live.
pub const PREFIX: &str = "/invoke/";
/// Instances that a request is offered to which turn out to be gone, before the client is told.
const ATTEMPTS: usize = 4;
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
    times: Times,
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

    /// Lets a request in that waits for `100 Continue`: its body is asked for only once a slot is held for it.
    ///
    /// # Errors
    /// The answer to a request that is refused; its body is never sent.
    pub async fn admit_expecting(&self, request: Request) -> Result<Request, Response<Body>> {
        let admission = self.admit(request.head()).await?;
        request.extensions_mut().insert(admission);
        Ok(request)
    }

    /// Serves one request.
    pub async fn invoke(&self, mut request: Request) -> Response<Body> {
        let admitted = request.extensions_mut().remove::<Admission>();
        let admission = match admitted {
            Some(admission) => admission,
            None => match self.admit(request.head()).await {
                Ok(admission) => admission,
                Err(refusal) => return refusal,
            },
        };
        let payload = request.take_payload();
        self.serve(request.head(), payload, admission).await
    }

    async fn admit(&self, head: &RequestHead) -> Result<Admission, Response<Body>> {
        let asked = Instant::now();
        let request_id = request_id(&head.headers);
        if self.shared.is_draining() {
            return Err(refuse(head, &Failure::Draining, &request_id));
        }
        let (name, _) = split(head);
        let Some(desk) = self.shared.directory.find(name) else {
            return Err(refuse(head, &Failure::NoSuchFunction, &request_id));
        };
        let mut record = Record::new(desk.clone(), self.shared.log.clone(), request_id.clone(), asked);
        let slot = match check_length(&desk, head) {
            Ok(()) => desk.acquire().await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match slot {
            Ok(lease) => {
                let times = Times { asked, leased: Instant::now() };
                Ok(Admission { desk, lease, record, request_id, times })
            }
            Err(failure) => {
                record.fail(&failure);
                Err(refuse(head, &failure, &request_id))
            }
        }
    }

    async fn serve(
        &self,
        head: &RequestHead,
        payload: Payload<BoxedPayloadStream>,
        admission: Admission,
    ) -> Response<Body> {
        let Admission { desk, mut lease, mut record, request_id, times } = admission;
        let spec = lease.endpoint().spec.clone();
        let websocket = asks_for_websocket(&head.headers);
        let framing = if websocket { Framing::UntilClose } else { request_framing(&head.headers) };
        let outgoing = Outgoing { head, target: split(head).1, framing, websocket, request_id: &request_id };
        let mut body = RequestBody::new(payload, framing, spec.max_body);
        let mut deadline = spec.timeout.map(|after| Deadline::new(times.leased + after, after));

        for attempt in 1.. {
            let Missed { failure, untouched } =
                match dispatch::send(&self.pool, &outgoing, body, &lease, deadline.as_mut()).await {
                    Ok((exchange, response)) => {
                        let relay = Incoming { exchange, response, lease, record, deadline, times };
                        return self.respond(&outgoing, relay);
                    }
                    Err(missed) => missed,
                };
            if blames_instance(&failure) {
                lease.condemn();
            }
            // The slot is free before the client hears of the failure.
            drop(lease);
            // A request that never reached its instance is offered to another one.
            let failure = match untouched {
                Some(again) if attempt < ATTEMPTS => match desk.acquire().await {
                    Ok(next) => {
                        (lease, body) = (next, again);
                        continue;
                    }
                    Err(refusal) => refusal.into(),
                },
                _ => failure,
            };
            record.fail(&failure);
            return refuse(head, &failure, &request_id);
        }
        unreachable!("the last attempt returns")
    }

    /// The response to the client; its body goes on from here by itself.
    fn respond(&self, outgoing: &Outgoing<'_>, incoming: Incoming) -> Response<Body> {
        let Incoming { exchange, mut response, lease, record, deadline, times } = incoming;
        let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let size = body_size(&outgoing.head.method, &response);
        let timing = times.header(&lease);
        strip_response_headers(&mut response.headers, upgraded);
        if response.status != StatusCode::NOT_MODIFIED {
            // The server writes it from the body's size.
            response.headers.remove(header::CONTENT_LENGTH);
        }
        response.headers.insert(REQUEST_ID, outgoing.request_id.clone());
        response.headers.append(SERVER_TIMING, timing);

        // A tunnel lasts as long as both sides want.
        let deadline = deadline.filter(|_| !upgraded);
        let mut relay = Relay::new(size, exchange, lease, deadline, record, self.pool.clone());
        if matches!(size, BodySize::None | BodySize::Sized(0)) {
            // The server does not poll a body that is known to be empty.
            relay.complete();
        }
        let mut answer = Response::with_body(response.status, Body::Relay(Box::new(relay)));
        let head = answer.head_mut();
        head.headers = response.headers;
        if upgraded {
            head.set_connection_type(ConnectionType::Upgrade);
        } else if outgoing.head.version < Version::HTTP_11 && size == BodySize::Stream {
            // Such a client knows no chunks: the end of the connection is the end of the body.
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        } else if self.shared.is_draining() {
            head.set_connection_type(ConnectionType::Close);
        }
        answer
    }
}

/// A response whose head has come, and what goes with it.
struct Incoming {
    exchange: Exchange,
    response: ResponseHead,
    lease: Lease,
    record: Record,
    deadline: Option<Deadline>,
    times: Times,
}

impl Times {
    /// `Server-Timing`: where the time went until the response's head came.
    fn header(&self, lease: &Lease) -> HeaderValue {
        let waited = self.leased - self.asked;
        // The first request of an instance waited for its boot, or for what was left of it.
        let boot = if lease.is_fresh() { lease.endpoint().boot().min(waited) } else { std::time::Duration::ZERO };
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let (queue, boot, upstream) = (ms(waited - boot), ms(boot), ms(self.leased.elapsed()));
        let text = format!("queue;dur={queue:.3}, boot;dur={boot:.3}, upstream;dur={upstream:.3}");
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
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
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let reasonable = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(reasonable) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(InstanceId::random().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
    }
}

/// Refuses a body whose declared length is past the function's limit, before an instance is bothered.
fn check_length(desk: &Desk, head: &RequestHead) -> Result<(), Failure> {
    match content_length(&head.headers) {
        Ok(Some(length)) if length > 0 => match desk.max_body() {
            Some(limit) if length > limit => Err(Failure::BodyTooLarge { limit }),
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::BadRequest("the Content-Length header is not a length")),
    }
}

/// How the client framed its body. The server has refused heads that say it in two ways.
fn request_framing(headers: &HeaderMap) -> Framing {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    match content_length(headers) {
        Ok(Some(length)) => Framing::Length(length),
        _ => Framing::None,
    }
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
