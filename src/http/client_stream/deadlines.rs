//! When the connection's own task gives a client up that is idle, sends no head, takes nothing, or has reset its upload.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{io::Interest, time::Instant};

use crate::{
    failure::Failure,
    http::{
        client_stream::{ClientStream, HEAD_TIMEOUT},
        transport::socket,
    },
};

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Between two looks whether a client has reset its upload.
const RESET_INTERVAL: Duration = Duration::from_millis(500);

impl ClientStream {
    /// Ready when nothing more is to be read from a client that has no request being served.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.look();
        let connection = &self.connection;
        if connection.active() > 0 {
            return if connection.is_http2 { connection.poll_streams(cx) } else { Poll::Pending };
        }
        if connection.guard.is_evicted(cx) || connection.ends_after_response() {
            return self.poll_written(cx);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let in_head = self.unparsed > 0 && !connection.is_http2;
        let timeout = if in_head || self.begun == 0 { HEAD_TIMEOUT } else { KEEP_ALIVE };
        ready!(connection.poll_timer(cx, since + timeout));
        if in_head && !self.closing {
            connection.guard.count_evicted();
            // After an answer to a request whose body still comes there is nothing to say.
            if !connection.is_body_unread() {
                self.refuse(&Failure::HeadTimedOut);
            }
            self.closing = true;
        }
        Poll::Ready(())
    }

    /// Ready when the last responses of a connection that ends are written. Over HTTP/2, a stream is no longer in service
    /// when its last data is with actix-http, which writes after it reads, and writes nothing after the end.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.connection.is_http2 {
            return Poll::Ready(());
        }
        // Until the client takes more, there is nothing to do.
        if self.flushed {
            if self.written_at_end == Some(self.written) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
        }
        self.written_at_end = Some(self.written);
        Poll::Pending
    }

    /// Notices that the client has reset the connection while its upload is not taken: nothing is read then. Looks now and
    /// then, as long as there is an upload.
    pub(super) fn look_for_reset(&mut self, cx: &mut Context<'_>) {
        let connection = &self.connection;
        if connection.is_http2 || connection.active() == 0 || !connection.is_body_unread() {
            return;
        }
        let due = *self.since.get_or_insert_with(Instant::now) + RESET_INTERVAL;
        if connection.poll_timer(cx, due).is_pending() {
            return;
        }
        self.since = Some(Instant::now());
        let ready = self.transport.as_ref().and_then(|transport| {
            socket(transport).ready(Interest::READABLE | Interest::WRITABLE).now_or_never()?.ok()
        });
        if ready.is_some_and(|ready| ready.is_read_closed() && ready.is_write_closed()) {
            connection.set_left();
        }
        cx.waker().wake_by_ref();
    }

    /// The outcome of a write, or an error when the client has taken nothing for too long.
    pub(super) fn wrote<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            return outcome;
        }
        self.connection.set_write_blocked();
        let Some(timeout) = self.connection.client_timeout else { return Poll::Pending };
        let due = self.stalled.since(self.written) + timeout;
        ready!(self.connection.poll_timer(cx, due));
        self.connection.guard.count_evicted();
        self.connection.set_left();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}
