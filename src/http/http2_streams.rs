//! The requests in service on one HTTP/2 connection.
//!
//! Each handler is a task that actix-http never ends, and has no timer. So the connection's task wakes all of them when the
//! client has left, and now and then (a pulse) to look at the time and whether their stream was reset.

use std::{
    cell::{Cell, RefCell},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_web::dev::Payload;
use futures::Stream as _;
use slab::Slab;
use tokio::time::Instant;

use super::client_connection::ClientConnection;

/// Between two looks of handlers at the time.
const PULSE_INTERVAL: Duration = Duration::from_millis(200);

/// The streams that are watched. Empty over HTTP/1.1.
#[derive(Debug, Default)]
pub struct StreamTable {
    streams: RefCell<Slab<WatchedStream>>,
    /// How often they have been woken to look at the time.
    pulses: Cell<u64>,
    /// When they are woken next.
    next_pulse: Cell<Option<Instant>>,
}

#[derive(Debug, Default)]
struct WatchedStream {
    waker: Option<Waker>,
    /// Since when the client has been given something to take.
    given_at: Option<Instant>,
}

impl StreamTable {
    /// Has the handlers look at the time, and whether their streams were reset.
    fn pulse(&self) {
        self.pulses.set(self.pulses.get() + 1);
        self.wake();
    }

    /// Wakes the handlers.
    pub fn wake(&self) {
        self.streams.borrow().iter().filter_map(|(_, stream)| stream.waker.as_ref()).for_each(Waker::wake_by_ref);
    }

    /// Returns since when the longest-waiting stream waits for the client.
    fn longest_wait(&self) -> Option<Instant> {
        self.streams.borrow().iter().filter_map(|(_, stream)| stream.given_at).min()
    }
}

impl ClientConnection {
    /// Pulses while streams are served. Ready when one has waited too long for the client to take its data: its task, which
    /// is actix-http's, has no timer, so the whole connection ends.
    pub fn poll_streams(&self, cx: &mut Context<'_>) -> Poll<()> {
        let streams = &self.streams;
        loop {
            let pulse = streams.next_pulse.get().unwrap_or_else(|| Instant::now() + PULSE_INTERVAL);
            streams.next_pulse.set(Some(pulse));
            ready!(self.poll_timer(cx, pulse));
            streams.next_pulse.set(None);
            streams.pulse();
            let longest = streams.longest_wait().map_or(Duration::ZERO, |since| since.elapsed());
            if self.client_timeout.is_some_and(|timeout| longest > timeout) {
                self.guard.count_evicted();
                return Poll::Ready(());
            }
        }
    }
}

/// Watches the client of a stream.
pub struct StreamWatch {
    connection: Rc<ClientConnection>,
    key: usize,
    pulses: u64,
    /// The request's body, which has ended. Only a reset comes after that.
    pub ended_body: Option<Payload>,
}

impl StreamWatch {
    /// Watches a stream. `ended_body`: of a request without a body.
    pub fn new(connection: Rc<ClientConnection>, ended_body: Option<Payload>) -> Self {
        let key = connection.streams.streams.borrow_mut().insert(WatchedStream::default());
        let pulses = connection.streams.pulses.get();
        Self { connection, key, pulses, ended_body }
    }

    /// Whether the client has left or reset the stream. If not, the task is woken to look again.
    pub fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        self.with(|stream| match &mut stream.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        });
        let pulses = self.connection.streams.pulses.get();
        if mem::replace(&mut self.pulses, pulses) != pulses
            && let Some(body) = &mut self.ended_body
            && matches!(Pin::new(body).poll_next(cx), Poll::Ready(Some(Err(_))))
        {
            return true;
        }
        self.connection.has_left()
    }

    /// Notes whether the client has been given something to take.
    pub fn set_given(&self, given: bool) {
        self.with(|stream| stream.given_at = given.then(Instant::now));
    }

    fn with(&self, change: impl FnOnce(&mut WatchedStream)) {
        if let Some(stream) = self.connection.streams.streams.borrow_mut().get_mut(self.key) {
            change(stream);
        }
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        self.connection.streams.streams.borrow_mut().try_remove(self.key);
    }
}
