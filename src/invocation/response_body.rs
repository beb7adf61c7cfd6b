//! The body of an instance's response on its way to the client. It owns the slot until its last byte.
//!
//! actix-http polls it as fast as the client takes it. A body that breaks off ends the client's connection, after all
//! before has been written, so that the client never takes it for a whole one.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    http::response::Parts,
};

use super::{
    client_body::PumpTask,
    dispatch::Deadline,
    exchange::{Exchange, Server},
};
use crate::{failure::Failure, upstream::AnswerBody};

/// A response body.
pub struct ResponseBody {
    answer: AnswerBody,
    size: BodySize,
    /// Only the end of the connection ends it, so an early end has to be a reset.
    ends_with_connection: bool,
    /// How it broke off. What came before is written first.
    failure: Option<Failure>,
    exchange: Box<Exchange>,
    /// The rest of the request's body.
    _upload: Option<PumpTask>,
}

impl ResponseBody {
    /// Makes the body of a response. `announcement`: the head of a response to `HEAD`.
    pub fn new(
        answer: AnswerBody,
        announcement: Option<&Parts>,
        ends_with_connection: bool,
        mut exchange: Box<Exchange>,
    ) -> Self {
        let size = match announcement {
            Some(head) => announced_size(head),
            None => answer.size().map_or(BodySize::Stream, BodySize::Sized),
        };
        if answer.is_end() {
            exchange.complete();
        }
        let upload = exchange.pump.take().zip(exchange.progress.clone());
        let upload = upload.map(|(pump, progress)| PumpTask::spawn(pump, progress));
        Self { answer, size, ends_with_connection, failure: None, exchange, _upload: upload }
    }

    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let exchange = &mut self.exchange;
        if exchange.watch.poll_left(cx).is_ready() {
            return Poll::Ready(Failure::ClientGone);
        }
        let Some(Deadline { at, after }) = exchange.deadline else { return Poll::Pending };
        exchange.watch.poll_timer(cx, at).map(|()| match &exchange.server {
            // What the client has not taken yet is not the function's fault.
            Some(Server::Instance(lease)) if !exchange.client.is_client_slow() => {
                Failure::FunctionTimedOut { instance: lease.endpoint().instance, after }
            }
            _ => Failure::ClientGone,
        })
    }

    fn break_off(&mut self, failure: Failure, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        self.exchange.break_off(&failure);
        if self.ends_with_connection {
            self.exchange.client.reset_at_end();
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
            if !this.exchange.client.has_unwritten() || this.exchange.watch.poll_left(cx).is_ready() {
                return Poll::Ready(Some(Err(failure)));
            }
            this.failure = Some(failure);
            return Poll::Pending;
        }
        this.exchange.watch.set_given(false);
        match this.answer.poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                this.exchange.access.count_bytes(chunk.len());
                if this.answer.is_end() {
                    this.exchange.complete();
                }
                this.exchange.watch.set_given(true);
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(None) => {
                this.exchange.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let cause = this.exchange.progress.as_ref().and_then(|progress| progress.take_failure());
                let reused = this.answer.reused;
                let failure = match &this.exchange.server {
                    Some(Server::Instance(lease)) => {
                        Failure::ResponseBody { instance: lease.endpoint().instance, error, reused }
                    }
                    Some(Server::Node(peer)) => {
                        Failure::PeerFailed { peer: peer.beat.name.clone(), why: error.to_string() }
                    }
                    None => Failure::ClientGone,
                };
                this.break_off(cause.unwrap_or(failure), cx)
            }
            Poll::Pending => match this.poll_failure(cx) {
                Poll::Ready(failure) => this.break_off(failure, cx),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

/// Returns the size that the response to a `HEAD` announces.
fn announced_size(head: &Parts) -> BodySize {
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return BodySize::None;
    }
    match head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => BodySize::Sized(length),
        None if head.headers.contains_key(TRANSFER_ENCODING) => BodySize::Stream,
        None => BodySize::None,
    }
}
