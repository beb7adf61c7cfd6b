//! What a client's connection and the handlers of its requests know of each other.
//!
//! The stream (`client_stream.rs`) sees bytes, the end of the connection and stalls; handlers see requests and responses.
//! Both run on the worker's one thread. Over HTTP/1.1 they are one task. Over HTTP/2 each handler is a task of its own that
//! actix-http never ends, so the connection wakes them when the client has left, and now and then to look at the time.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_web::{
    HttpRequest,
    dev::{Payload, RequestHead},
    http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
};
use bytes::Bytes;
use futures::Stream as _;
use slab::Slab;
use tokio::time::Instant;

use super::{
    accept_policy::ConnAddrs, client_stream::Transport, connections::ConnectionGuard, headers::Peer,
    timer::ReusableTimer,
};

/// The size of a body that only its end tells.
pub const UNKNOWN_SIZE: u64 = u64::MAX;
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
    /// Requests being served.
    active: Cell<usize>,
    /// Requests begun, ever.
    begun: Cell<u64>,
    /// Bytes of the last request's body that are still to be read. [`UNKNOWN_SIZE`]: its chunks, or a tunnel, tell.
    body_left: Cell<u64>,
    /// The last request was answered before its body had been read to its end.
    body_unread: Cell<bool>,
    /// The client has closed its side, or the connection has broken.
    left: Cell<bool>,
    /// The handlers of HTTP/2 that wait.
    watchers: RefCell<Slab<Waker>>,
    /// How often those have been woken to look at the time.
    pulses: Cell<u64>,
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
    /// Since when HTTP/2 streams wait for the client to take what they have.
    waiting_streams: RefCell<Vec<Rc<Cell<Option<Instant>>>>>,
    /// The connection is to end behind the response that is being made.
    last: Cell<bool>,
    /// A further request was received behind the last one in service.
    cut: Cell<bool>,
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
        is_tls: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            addrs,
            peer: Peer::new(addrs.peer.ip(), is_tls),
            is_http2,
            client_timeout,
            max_head,
            guard,
            active: Cell::default(),
            begun: Cell::default(),
            body_left: Cell::default(),
            body_unread: Cell::default(),
            left: Cell::default(),
            watchers: RefCell::default(),
            pulses: Cell::default(),
            flushed: Cell::new(true),
            write_blocked: Cell::default(),
            reset: Cell::default(),
            interim: RefCell::default(),
            timer: RefCell::default(),
            waiting_streams: RefCell::default(),
            last: Cell::default(),
            cut: Cell::default(),
            unanswered: Cell::default(),
            returned: RefCell::default(),
        })
    }

    /// Notes the beginning of a request.
    pub fn begin_request(self: &Rc<Self>, head: &RequestHead) -> ActiveRequest {
        if self.is_http2 && self.active.get() == 0 {
            // The connection's task begins to pulse.
            self.guard.wake();
        }
        self.active.set(self.active.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.body_left.set(body_size(head));
        self.body_unread.set(false);
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

    /// Returns how many bytes of the last request's body are still to be read.
    pub fn body_left(&self) -> u64 {
        self.body_left.get()
    }

    /// Notes that bytes of a body of known size have been read.
    pub fn count_body(&self, bytes: usize) {
        if self.body_left.get() != UNKNOWN_SIZE {
            self.body_left.set(self.body_left.get().saturating_sub(bytes as u64));
        }
    }

    /// Notes whether the last request was answered before its body had been read to its end. Over HTTP/2 that ends with
    /// the stream.
    pub fn set_body_unread(&self, unread: bool) {
        self.body_unread.set(unread && !self.is_http2);
    }

    /// Whether what comes from the client is the rest of a body that is not wanted any more.
    pub fn is_body_unread(&self) -> bool {
        self.body_unread.get()
    }

    /// Notes that the client has left.
    pub fn set_left(&self) {
        if !self.left.replace(true) {
            self.wake_watchers();
        }
    }

    /// Whether the client has left.
    pub fn has_left(&self) -> bool {
        self.left.get()
    }

    /// Has the handlers of HTTP/2 look at the time, and whether their streams were reset.
    pub fn pulse(&self) {
        self.pulses.set(self.pulses.get() + 1);
        self.wake_watchers();
    }

    fn wake_watchers(&self) {
        self.watchers.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
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

    /// Registers an HTTP/2 stream: the cell says since when it waits for the client to take what it has.
    pub fn register_stream(&self) -> Rc<Cell<Option<Instant>>> {
        let waiting = Rc::new(Cell::new(None));
        let mut streams = self.waiting_streams.borrow_mut();
        streams.retain(|stream| Rc::strong_count(stream) > 1);
        streams.push(waiting.clone());
        waiting
    }

    /// Returns since when the longest-waiting HTTP/2 stream waits for the client.
    pub fn longest_wait(&self) -> Option<Instant> {
        // Those of ended streams are still listed.
        self.waiting_streams
            .borrow()
            .iter()
            .filter(|stream| Rc::strong_count(stream) > 1)
            .filter_map(|at| at.get())
            .min()
    }

    /// Has a connection of HTTP/1.1 end behind the response that is being made.
    pub fn end_after_response(&self) {
        self.last.set(!self.is_http2);
    }

    /// Never resolves if the connection ends behind an earlier response. What follows that is no request, even if actix-http
    /// has read it as one already.
    pub async fn unless_ended(&self) {
        if self.last.get() {
            self.cut.set(true);
            std::future::pending().await
        }
    }

    /// Returns whether a further request was received behind the last one in service.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
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

/// Returns the size of a request's body over HTTP/1.1, as far as the head tells.
fn body_size(head: &RequestHead) -> u64 {
    if head.headers.contains_key(TRANSFER_ENCODING) || head.headers.contains_key(UPGRADE) {
        return UNKNOWN_SIZE;
    }
    head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok()).unwrap_or(0)
}

/// Returns the connection that a request came on. `None` only for requests that came on no connection of ours.
pub fn client_of(request: &HttpRequest) -> Option<&Rc<ClientConnection>> {
    request.conn_data()
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

/// Watches the client of an HTTP/2 stream.
pub struct StreamWatch {
    connection: Rc<ClientConnection>,
    /// In the connection's watchers.
    key: Option<usize>,
    pulses: u64,
    /// The request's body, which has ended. Only a reset comes after that.
    ended_body: Option<Payload>,
}

impl ClientWatch {
    /// Watches the client of a request. `ended_body`: of a request without a body over HTTP/2.
    pub fn new(connection: &Rc<ClientConnection>, ended_body: Option<Payload>) -> Self {
        let connection = connection.clone();
        if connection.is_http2 {
            Self::Http2(StreamWatch { pulses: connection.pulses.get(), connection, key: None, ended_body })
        } else {
            Self::Http1(connection)
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

    /// Ready when `due` has come; over HTTP/2, at the first pulse after that.
    pub fn poll_timer(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.poll_timer(cx, due),
            Self::Http2(stream) => {
                stream.register(cx);
                if due <= Instant::now() { Poll::Ready(()) } else { Poll::Pending }
            }
        }
    }
}

impl StreamWatch {
    fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        self.register(cx);
        let pulses = self.connection.pulses.get();
        if std::mem::replace(&mut self.pulses, pulses) != pulses
            && let Some(body) = &mut self.ended_body
            && matches!(Pin::new(body).poll_next(cx), Poll::Ready(Some(Err(_))))
        {
            return true;
        }
        self.connection.has_left()
    }

    fn register(&mut self, cx: &Context<'_>) {
        let mut watchers = self.connection.watchers.borrow_mut();
        match self.key.and_then(|key| watchers.get_mut(key)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.key = Some(watchers.insert(cx.waker().clone())),
        }
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.watchers.borrow_mut().try_remove(key);
        }
    }
}
