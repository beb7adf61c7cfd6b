//! `/invoke/<function>/<path>`: one request from its head to the last byte of its answer.
//!
//! Finds the function, gets a slot, has `dispatch.rs` send the request to the instance and the answer's body to the client.
//! Which headers travel is `headers.rs`, what a failure says `status.rs`. The slot is the [`Lease`] that this future holds:
//! it returns when the last byte of the instance's answer has been handed on or either side is gone, panics included.

use std::{pin::pin, sync::Arc, time::Duration};

use actix_http::StatusCode;
use tokio::time::Instant;
use unifaas_actors::{FunctionHandle, Lease, Outcome};

use super::{
    Shared,
    client::{Client, put_status},
    dispatch::{self, Deadline, Missed},
    headers::{REQUEST_ID, SERVER_TIMING, put_response_headers},
    record::Record,
    request_id::RequestId,
    status::Failure,
    transfer::Transfer,
    upstream::{Exchange, Pool},
    wire::{Framing, RequestHead, put_header},
};

/// Where invocations live.
pub const PREFIX: &[u8] = b"/invoke/";
/// Instances that a request is offered to which turn out to be gone, before the client is told.
const ATTEMPTS: usize = 4;

/// Serves invocations on one HTTP worker.
pub struct Invoker {
    shared: Arc<Shared>,
    pool: Pool,
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// There is an answer in the client's output.
    Answered,
    /// The client has left, or its answer broke off: the connection is of no use.
    BrokenOff,
}

/// When a request came and when it got its first slot.
#[derive(Clone, Copy)]
struct Times {
    asked: Instant,
    leased: Instant,
}

impl Invoker {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pool: Pool::default() }
    }

    /// Looks after the connections to instances. To be called every second or so.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Serves the client's request.
    pub async fn invoke(&self, client: &mut Client) -> Fate {
        let asked = Instant::now();
        let request_id = RequestId::of(client.request.fields.get(REQUEST_ID.as_bytes()));
        if self.shared.is_draining() {
            return refuse(client, &Failure::Draining, &request_id);
        }
        let found = str::from_utf8(split(&client.request).0).ok().and_then(|name| self.shared.directory.find(name));
        let Some(handle) = found else { return refuse(client, &Failure::NoSuchFunction, &request_id) };
        let mut record = Record::new(&handle, &self.shared.log, &request_id, asked);
        match self.serve(client, &handle, &request_id, &mut record, asked).await {
            Ok(fate) => fate,
            Err(failure) => {
                record.fail(&failure);
                refuse(client, &failure, &request_id)
            }
        }
    }

    /// Gets the request answered by an instance, and the answer to the client.
    async fn serve(
        &self,
        client: &mut Client,
        handle: &Arc<FunctionHandle>,
        request_id: &RequestId,
        record: &mut Record<'_>,
        asked: Instant,
    ) -> Result<Fate, Failure> {
        check_length(handle, client.request.framing)?;
        let lease = client.unless_left(pin!(handle.acquire_at(asked))).await??;
        let times = Times { asked, leased: lease.since() };
        let spec = &lease.endpoint().spec;
        client.side.body.limit(spec.max_body);
        let deadline = spec.timeout.map(|after| Deadline { at: times.leased + after, after });
        let (lease, mut exchange) = self.open(client, handle, request_id, lease, deadline).await?;

        let upgraded = client.response.status == StatusCode::SWITCHING_PROTOCOLS;
        // Nothing, unless the client has not taken the word yet that it is to send its body.
        let before = client.side.socket.output.total();
        let ends_with_connection = self.put_head(client, &mut exchange, request_id, times, &lease);
        // A tunnel lasts as long as both sides want.
        let deadline = deadline.filter(|_| !upgraded);
        let instance = lease.endpoint().instance;
        let moved = match client.response.framing {
            Framing::None => Ok(()),
            _ => dispatch::relay(&mut exchange, client, instance, deadline).await,
        };
        if !exchange.is_sent() {
            // What follows on the connection is no request.
            client.keep_alive = false;
        }
        match moved {
            Ok(()) => {
                // Slot and connection are free before the client knows that it can send another request.
                if let Some(connection) = exchange.into_connection() {
                    self.pool.give_back(lease.endpoint(), connection);
                }
                record.end(Outcome::Ok);
                Ok(Fate::Answered)
            }
            Err(failure) => {
                condemn_if_blamed(lease, &failure);
                if client.side.socket.output.total() == before && !matches!(failure, Failure::ClientGone) {
                    // The client has seen nothing of the answer, so it can have another one.
                    client.side.socket.output.clear();
                    return Err(failure);
                }
                record.fail(&failure);
                if ends_with_connection {
                    client.end_with_reset();
                }
                Ok(Fate::BrokenOff)
            }
        }
    }

    /// Sends the request to an instance, or to another one if it never reached the first.
    async fn open(
        &self,
        client: &mut Client,
        handle: &Arc<FunctionHandle>,
        request_id: &RequestId,
        mut lease: Lease,
        deadline: Option<Deadline>,
    ) -> Result<(Lease, Exchange), Failure> {
        for attempt in 1.. {
            let Missed { failure, untouched } =
                match dispatch::send(&self.pool, client, request_id, &lease, deadline).await {
                    Ok(exchange) => return Ok((lease, exchange)),
                    Err(missed) => missed,
                };
            let failure = Box::pin(dispatch::explain(failure, lease.endpoint())).await;
            // The slot is free before the client hears of the failure, and before another one is asked for.
            condemn_if_blamed(lease, &failure);
            // An instance that died of the request itself must not take all others with it.
            let attempts = if matches!(failure, Failure::Unreachable { .. }) { ATTEMPTS } else { 2 };
            if !untouched || attempt >= attempts {
                return Err(failure);
            }
            lease = match client.unless_left(Box::pin(dispatch::by(deadline, handle.acquire())).as_mut()).await? {
                Ok(lease) => lease?,
                Err(_) => return Err(failure),
            };
        }
        unreachable!("the last attempt returns")
    }

    /// Writes the head of the answer to the client; its body is to follow. Tells whether only the end of the connection ends
    /// it.
    fn put_head(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        request_id: &RequestId,
        times: Times,
        lease: &Lease,
    ) -> bool {
        let upgraded = client.response.status == StatusCode::SWITCHING_PROTOCOLS;
        let unmeasured = !upgraded && matches!(client.response.framing, Framing::Chunked | Framing::UntilClose);
        // Old clients know no chunks.
        let (chunked, ends_with_connection) =
            (unmeasured && !client.request.is_old, unmeasured && client.request.is_old);
        client.keep_alive &= !upgraded && !ends_with_connection && !self.shared.is_draining();
        if upgraded {
            client.side.body = Transfer::new(Framing::UntilClose, false);
        }
        exchange.start_body(&client.response, chunked);

        let out = &mut client.side.socket.output.head;
        put_status(out, client.response.status, client.response.reason());
        let dated = put_response_headers(out, &client.response);
        put_header(out, REQUEST_ID.as_bytes(), [request_id.as_bytes()]);
        times.put(out, lease);
        if chunked {
            put_header(out, b"transfer-encoding", [&b"chunked"[..]]);
        }
        client.end_head(dated);
        ends_with_connection
    }
}

impl Times {
    /// `Server-Timing`: where the time went until the response's head came.
    fn put(self, out: &mut Vec<u8>, lease: &Lease) {
        let waited = self.leased - self.asked;
        // The first request of an instance waited for its boot, or for what was left of it.
        let boot = if lease.is_fresh() { lease.endpoint().boot().min(waited) } else { Duration::ZERO };
        let parts =
            [(&b"queue;dur="[..], waited - boot), (b", boot;dur=", boot), (b", upstream;dur=", self.leased.elapsed())];
        out.extend_from_slice(SERVER_TIMING.as_bytes());
        out.extend_from_slice(b": ");
        for (name, duration) in parts {
            out.extend_from_slice(name);
            put_milliseconds(out, duration);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes a duration as milliseconds with three decimals. Integers: a float costs ten times as much to write.
fn put_milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (whole, rest) = (micros / 1000, micros % 1000);
    out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    out.push(b'.');
    out.extend([rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}

/// Gives the slot back. An instance that failed a request like this should get no other.
fn condemn_if_blamed(mut lease: Lease, failure: &Failure) {
    if matches!(failure.outcome(), Outcome::InstanceFailed | Outcome::FunctionTimedOut) {
        lease.mark_failed();
    }
}

/// Answers with the failure.
fn refuse(client: &mut Client, failure: &Failure, request_id: &RequestId) -> Fate {
    if failure.outcome() == Outcome::ClientGone {
        return Fate::BrokenOff;
    }
    let name = String::from_utf8_lossy(split(&client.request).0).into_owned();
    client.refuse(failure, Some(name.as_str()).filter(|name| !name.is_empty()), request_id);
    Fate::Answered
}

/// The path and query for the function: may be empty or begin with `?`.
pub fn target_for_function(request: &RequestHead) -> &[u8] {
    split(request).1
}

/// The function's name and the path and query for it, both as they were sent.
///
/// The name is not decoded: only the exact name of a registry entry finds a function, so no spelling of `..` or `/` can
/// mean anything else.
pub fn split(request: &RequestHead) -> (&[u8], &[u8]) {
    let rest = request.path_and_query().strip_prefix(PREFIX).unwrap_or_default();
    rest.split_at(rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len()))
}

/// Refuses a body whose declared length is past the function's limit, before an instance is bothered.
fn check_length(handle: &FunctionHandle, framing: Framing) -> Result<(), Failure> {
    if let Framing::Length(length) = framing
        && let Some(limit) = handle.max_body()
        && length > limit
    {
        return Err(Failure::BodyTooLarge { limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &str, name: &str, target: &str) {
        let mut request = RequestHead::default();
        let head = format!("GET {sent} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(request.take(&mut head.as_bytes().into(), head.len()).unwrap());
        assert_eq!(split(&request), (name.as_bytes(), target.as_bytes()));
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
    fn durations_are_milliseconds() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_230, "1.230"), (12_345_678, "12345.678")] {
            let mut out = Vec::new();
            put_milliseconds(&mut out, Duration::from_micros(micros));
            assert_eq!(out, text.as_bytes());
        }
    }
}
