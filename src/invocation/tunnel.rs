//! What follows a `101`: bytes both ways between a client and an instance, until either side ends. It owns the slot.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_http::body::{BodySize, MessageBody};
use actix_rt::task::JoinHandle;
use actix_web::dev::Payload;
use bytes::Bytes;
use futures::{Stream as _, TryStreamExt as _};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, copy, split};
use tokio_util::io::{ReaderStream, StreamReader};

use super::exchange::Exchange;
use crate::{
    failure::Failure,
    upstream::{self, AnswerBody},
};

/// Largest read from the instance, in bytes.
const MAX_READ: usize = 64 * 1024;

/// The instance's side, as the body of the response. The client's side is moved by a task of its own.
pub struct Tunnel {
    /// `None`: the instance has ended.
    from_instance: Option<ReaderStream<ReadHalf<upstream::Tunnel>>>,
    to_instance: Option<JoinHandle<()>>,
    exchange: Box<Exchange>,
}

impl Tunnel {
    /// Begins to move bytes.
    pub fn new(answer: AnswerBody, mut exchange: Box<Exchange>) -> Self {
        let (from_instance, to_instance) = answer.into_upgraded().map(split).unzip();
        let client = exchange.tunnel.take();
        let to_instance = client.zip(to_instance).map(|(client, instance)| actix_rt::spawn(send(client, instance)));
        let from_instance = from_instance.map(|instance| ReaderStream::with_capacity(instance, MAX_READ));
        Self { from_instance, to_instance, exchange }
    }
}

/// Sends what comes from the client. Its end ends the instance's side.
async fn send(client: Payload, mut instance: WriteHalf<upstream::Tunnel>) {
    let mut client = StreamReader::new(client.map_err(io::Error::other));
    // An error means that one of the sides has ended already.
    let _ = copy(&mut client, &mut instance).await;
    let _ = instance.shutdown().await;
}

impl MessageBody for Tunnel {
    type Error = Failure;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let this = self.get_mut();
        let read = match &mut this.from_instance {
            Some(instance) => Pin::new(instance).poll_next(cx),
            None => Poll::Ready(None),
        };
        if read.is_pending() {
            // Either side ends the tunnel.
            ready!(this.exchange.watch.poll_left(cx));
        }
        // A broken connection ends the tunnel like an orderly end.
        if let Poll::Ready(Some(Ok(chunk))) = read {
            this.exchange.access.count_bytes(chunk.len());
            return Poll::Ready(Some(Ok(chunk)));
        }
        this.from_instance = None;
        this.exchange.complete();
        Poll::Ready(None)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(task) = &self.to_instance {
            task.abort();
        }
    }
}
