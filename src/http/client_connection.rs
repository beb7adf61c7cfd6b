//! What a client's connection and the handlers of its requests know of each other.
//!
//! The stream (`client_stream.rs`) sees bytes, the end of the connection and stalls; handlers see requests and responses.
//! Both run on the worker's one thread. Over HTTP/1.1 they are one task; `http2_streams.rs` has what differs over HTTP/2.

use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{HttpRequest, dev::Payload, http::Version};
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    accept_policy::ConnAddrs,
    connections::ConnectionGuard,
    forwarded::Peer,
    http2_streams::{StreamTable, StreamWatch},
    request_facts::{Framing, RequestFacts},
    timer::ReusableTimer,
    transport::Transport,
};

/// How long a client that took no more counts as the slower side.
const SLOW_CLIENT: Duration = Duration::from_millis(500);

/// One client's connection.
#[derive(Debug)]
pub struct ClientConnection {
    pub addrs: ConnAddrs,
    pub peer: Peer,
    pub is_http2: bool,
    /// How long the client may take nothing of a response, or send nothing of a request body.
    pub client_timeout: Option<Duration>,
    /// Largest request head in bytes, where that is less than actix-http takes.
    pub max_head: Option<usize>,
    pub guard: ConnectionGuard,
    pub streams: StreamTable,
    /// Requests being served.
    active: Cell<usize>,
    /// Requests begun, ever.
    begun: Cell<u64>,
    /// Of the request that began last.
    framing: Cell<Framing>,
    /// The last request was answered before its body had been read to its end.
    body_unread: Cell<bool>,
    /// The client has closed its side, or the connection has broken.
    left: Cell<bool>,
    /// actix-http's dispatcher holds nothing that is to be written.
    flushed: Cell<bool>,
    /// When the client last took no more.
    write_blocked: Cell<Option<Instant>>,
    /// The connection is to end with a reset, since an orderly end would look like the end of the response.
    reset: Cell<bool>,
    /// Interim responses that are to be written before anything else.
    interim: RefCell<Vec<u8>>,
    /// Of whatever is waited for in the connection's own task.
    timer: RefCell<ReusableTimer>,
    /// The connection is to end behind the response that is being made.
    last: Cell<bool>,
    /// A request has been dropped before its response was made.
    unanswered: Cell<bool>,
    /// The transport, once the protocol has ended, and what is still to be written.
    returned: RefCell<Option<(Transport, Bytes)>>,
}

/// A request that is being served, until its response has been handed on.
#[derive(Debug)]
pub struct ActiveRequest(Rc<ClientConnection>);

impl ClientConnection {
    /// Makes the state of a connection that has just been accepted.
    pub fn new(
        addrs: ConnAddrs,
        guard: ConnectionGuard,
        client_timeout: Option<Duration>,
        max_head: Option<usize>,
        is_http2: bool,
        peer: Peer,
    ) -> Rc<Self> {
        Rc::new(Self {
            addrs,
            peer,
            is_http2,
            client_timeout,
            max_head,
            guard,
            streams: StreamTable::default(),
            active: Cell::default(),
            begun: Cell::default(),
            framing: Cell::default(),
            body_unread: Cell::default(),
            left: Cell::default(),
            flushed: Cell::new(true),
            write_blocked: Cell::default(),
            reset: Cell::default(),
            interim: RefCell::default(),
            timer: RefCell::default(),
            last: Cell::default(),
            unanswered: Cell::default(),
            returned: RefCell::default(),
        })
    }

    /// Notes the beginning of a request.
    pub fn begin_request(self: &Rc<Self>, facts: &RequestFacts) -> ActiveRequest {
        if self.is_http2 && self.active.get() == 0 {
            // The connection's task begins to pulse.
            self.guard.wake();
        }
        self.active.set(self.active.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.framing.set(facts.framing);
        self.set_body_unread(facts.declares_body());
        self.guard.set_busy();
        ActiveRequest(self.clone())
    }

    /// Returns how many requests are being served.
    pub fn active(&self) -> usize {
        self.active.get()
    }

    /// Returns how many requests have begun, ever.
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Returns the framing of the request that began last.
    pub fn framing(&self) -> Framing {
        self.framing.get()
    }

    /// Notes whether a part of the last request's body has not been read. Over HTTP/2 that ends with the stream.
    pub fn set_body_unread(&self, unread: bool) {
        self.body_unread.set(unread && !self.is_http2);
    }

    /// Whether what comes from the client may be the rest of a body that is not wanted any more.
    pub fn is_body_unread(&self) -> bool {
        self.body_unread.get()
    }

    /// Notes that the client has left.
    pub fn set_left(&self) {
        if !self.left.replace(true) {
            self.streams.wake();
        }
    }

    /// Whether the client has left.
    pub fn has_left(&self) -> bool {
        self.left.get()
    }

    /// Notes whether actix-http's dispatcher holds nothing that is to be written.
    pub fn set_flushed(&self, flushed: bool) {
        self.flushed.set(flushed);
    }

    /// Whether a part of what was to be written still is. Over HTTP/2 this is not known.
    pub fn has_unwritten(&self) -> bool {
        !self.is_http2 && !self.flushed.get()
    }

    /// Notes that the client takes no more at the moment.
    pub fn set_write_blocked(&self) {
        self.write_blocked.set(Some(Instant::now()));
    }

    /// Whether the client is slower than the instance, or was a moment ago.
    pub fn is_client_slow(&self) -> bool {
        self.write_blocked.get().is_some_and(|at| at.elapsed() < SLOW_CLIENT)
    }

    /// Has the connection end with a reset.
    pub fn reset_at_end(&self) {
        self.reset.set(true);
    }

    /// Whether the connection is to end with a reset.
    pub fn ends_with_reset(&self) -> bool {
        self.reset.get()
    }

    /// Whether interim responses to a request of that version can be sent. actix-http cannot send them over HTTP/2.
    pub fn takes_interim(&self, version: Version) -> bool {
        !self.is_http2 && version == Version::HTTP_11
    }

    /// Queues an interim response of HTTP/1.1, to be written when all before it has been.
    pub fn queue_interim(&self, head: &[u8]) {
        self.interim.borrow_mut().extend_from_slice(head);
    }

    /// Drops queued interim responses that can no longer precede the final one, which is encoded now.
    pub fn settle_interim(&self) {
        if !self.flushed.get() {
            self.interim.borrow_mut().clear();
        }
    }

    /// Returns queued interim responses if they may be written now.
    pub fn take_interim(&self) -> Option<Vec<u8>> {
        let mut interim = self.interim.borrow_mut();
        (!interim.is_empty() && self.flushed.get()).then(|| std::mem::take(&mut *interim))
    }

    /// Ready when `due` has come. Only for the connection's own task.
    pub fn poll_timer(&self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        self.timer.borrow_mut().poll_at(cx, due)
    }

    /// Has a connection of HTTP/1.1 end behind the response that is being made.
    pub fn end_after_response(&self) {
        self.last.set(!self.is_http2);
    }

    /// Whether the connection is to end behind the response that is being made.
    pub fn ends_after_response(&self) -> bool {
        self.last.get()
    }

    /// Notes whether a response is being made. A handler that is dropped meanwhile leaves the request unanswered.
    pub fn set_unanswered(&self, unanswered: bool) {
        self.unanswered.set(unanswered);
    }

    /// Whether a request has been dropped before its response was made.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered.get()
    }

    /// Keeps the transport for a lingering close, and what is to be written before.
    pub fn return_transport(&self, transport: Transport, last: Bytes) {
        *self.returned.borrow_mut() = Some((transport, last));
    }

    /// Returns the transport if it is to be closed gently, and what is to be written before.
    pub fn take_transport(&self) -> Option<(Transport, Bytes)> {
        self.returned.borrow_mut().take()
    }
}

/// Returns the connection that a request came on. `None` only for requests that came on no connection of ours.
pub fn client_of(request: &HttpRequest) -> Option<&Rc<ClientConnection>> {
    request.conn_data()
}

impl Deref for ActiveRequest {
    type Target = Rc<ClientConnection>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.active.set(connection.active.get() - 1);
        if connection.active.get() == 0 {
            connection.guard.set_idle();
        }
    }
}

/// Watches for the client's leaving while a request of it is served.
pub enum ClientWatch {
    /// The handler runs in the connection's own task, so a look at the connection is enough.
    Http1(Rc<ClientConnection>),
    /// The handler runs in a task of its own.
    Http2(StreamWatch),
}

impl ClientWatch {
    /// Watches the client of a request. `ended_body`: of a request without a body, which tells of a reset over HTTP/2.
    pub fn new(connection: &Rc<ClientConnection>, ended_body: Option<Payload>) -> Self {
        if connection.is_http2 {
            Self::Http2(StreamWatch::new(connection.clone(), ended_body))
        } else {
            Self::Http1(connection.clone())
        }
    }

    /// Keeps the payload of a request that has turned out to have no body.
    pub fn keep_ended_body(&mut self, payload: Option<Payload>) {
        if let Self::Http2(stream) = self {
            stream.ended_body = payload;
        }
    }

    /// Ready when the client has left, or has reset the stream.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = match self {
            Self::Http1(connection) => connection.has_left(),
            Self::Http2(stream) => stream.has_left(cx),
        };
        if left { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when `due` has come; over HTTP/2, at the first pulse after that, for which [`poll_left`](Self::poll_left)
    /// registers the task.
    pub fn poll_timer(&self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.poll_timer(cx, due),
            Self::Http2(_) if due <= Instant::now() => Poll::Ready(()),
            Self::Http2(_) => Poll::Pending,
        }
    }

    /// Notes whether the client has been given something to take. Over HTTP/1.1 the connection knows.
    pub fn set_given(&self, given: bool) {
        if let Self::Http2(stream) = self {
            stream.set_given(given);
        }
    }
}
