//! The body of an instance's response on its way to the client. It owns the slot until its last byte.
//!
//! actix-http polls it as fast as the client takes it. A body that breaks off ends the client's connection, after all
//! before has been written, so that the client never takes it for a whole one.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use actix_http::body::{BodySize, MessageBody};
use actix_rt::task::JoinHandle;
use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    http::response::Parts,
};
use tokio::time::Instant;
use unifaas_actors::{InstanceId, Lease, Outcome};

use super::{
    access_log::AccessLog,
    client_body::BodyProgress,
    client_connection::{ActiveRequest, ClientConnection, ClientWatch},
    dispatch::{Deadline, Transfer, release},
    shared::Shared,
    status::Failure,
    upstream::AnswerBody,
};

/// What a response holds until it has ended.
pub struct ResponseEnd {
    pub shared: Arc<Shared>,
    pub connection: Rc<ClientConnection>,
    pub log: AccessLog,
    /// Of the request's body.
    pub progress: Rc<BodyProgress>,
    /// `None`: the response has ended.
    pub lease: Option<Lease>,
    pub _active: ActiveRequest,
}

impl ResponseEnd {
    /// The response is complete. Slot and connection are free before the client knows that it can send another request.
    pub fn complete(&mut self) {
        if self.lease.take().is_some() {
            self.log.end(Outcome::Ok);
            self.note_unread_body();
        }
    }

    /// The response broke off.
    pub fn fail(&mut self, failure: &Failure) {
        if let Some(lease) = self.lease.take() {
            release(&self.shared, lease, failure);
            self.log.fail(failure);
            self.note_unread_body();
        }
    }

    fn note_unread_body(&self) {
        self.connection.set_body_unread(!self.progress.is_complete());
    }
}

/// The rest of a request's body, moved by a task of its own.
struct MovingBody {
    task: JoinHandle<()>,
    /// Why it could not be moved. The exchange breaks off along with it.
    failure: Rc<Cell<Option<Failure>>>,
}

impl MovingBody {
    /// Goes on moving what the handler has begun to move.
    fn of(transfer: &mut Transfer) -> Option<Self> {
        let pump = transfer.pump.take()?;
        let failure = Rc::<Cell<_>>::default();
        let cause = failure.clone();
        let task = actix_rt::spawn(async move { cause.set(pump.await.err()) });
        Some(Self { task, failure })
    }
}

impl Drop for MovingBody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A response body.
pub struct ResponseBody {
    answer: AnswerBody,
    size: BodySize,
    instance: InstanceId,
    /// Only the end of the connection ends it, so an early end has to be a reset.
    ends_with_connection: bool,
    watch: ClientWatch,
    deadline: Option<Deadline>,
    /// How it broke off. What came before is written first.
    failure: Option<Failure>,
    /// Over HTTP/2: since when the client has been given something to take.
    given_at: Option<Rc<Cell<Option<Instant>>>>,
    end: ResponseEnd,
    upload: Option<MovingBody>,
}

impl ResponseBody {
    /// Makes the body of a response. `announced`: what a response to `HEAD` announces.
    pub fn new(
        answer: AnswerBody,
        announced: Option<BodySize>,
        ends_with_connection: bool,
        mut transfer: Transfer,
        mut end: ResponseEnd,
    ) -> Self {
        let size = announced.unwrap_or_else(|| answer.size().map_or(BodySize::Stream, BodySize::Sized));
        if answer.is_end() {
            end.complete();
        }
        let instance = end.lease.as_ref().map_or_else(InstanceId::random, |lease| lease.endpoint().instance);
        let given_at = end.connection.is_http2.then(|| end.connection.register_stream());
        let upload = MovingBody::of(&mut transfer);
        let Transfer { watch, deadline, .. } = transfer;
        Self { answer, size, instance, ends_with_connection, watch, deadline, failure: None, given_at, end, upload }
    }

    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if self.watch.poll_left(cx).is_ready() {
            return Poll::Ready(Failure::ClientGone);
        }
        let Some(Deadline { at, after }) = self.deadline else { return Poll::Pending };
        let instance = self.instance;
        self.watch.poll_timer(cx, at).map(|()| match self.end.connection.is_client_slow() {
            // What the client has not taken yet is not the function's fault.
            true => Failure::ClientGone,
            false => Failure::FunctionTimedOut { instance, after },
        })
    }

    fn break_off(&mut self, failure: Failure, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        self.end.fail(&failure);
        if self.ends_with_connection {
            self.end.connection.reset_at_end();
        }
        // An error that comes in the same turn as data would take that with it.
        self.failure = Some(failure);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl MessageBody for ResponseBody {
    type Error = Failure;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let this = self.get_mut();
        if let Some(failure) = this.failure.take() {
            if !this.end.connection.has_unwritten() || this.watch.poll_left(cx).is_ready() {
                return Poll::Ready(Some(Err(failure)));
            }
            this.failure = Some(failure);
            return Poll::Pending;
        }
        if let Some(given_at) = &this.given_at {
            given_at.set(None);
        }
        match this.answer.poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                if this.answer.is_end() {
                    this.end.complete();
                }
                if let Some(given_at) = &this.given_at {
                    given_at.set(Some(Instant::now()));
                }
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(None) => {
                this.end.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let cause = this.upload.as_ref().and_then(|upload| upload.failure.take());
                let (instance, reused) = (this.instance, this.answer.reused);
                this.break_off(cause.unwrap_or(Failure::ResponseBody { instance, error, reused }), cx)
            }
            Poll::Pending => match this.poll_failure(cx) {
                Poll::Ready(failure) => this.break_off(failure, cx),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

/// Returns the size that the response to a `HEAD` announces.
pub fn announced_size(head: &Parts) -> BodySize {
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return BodySize::None;
    }
    match head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => BodySize::Sized(length),
        None if head.headers.contains_key(TRANSFER_ENCODING) => BodySize::Stream,
        None => BodySize::None,
    }
}
