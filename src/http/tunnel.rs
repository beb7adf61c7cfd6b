//! What follows a `101`: bytes both ways between a client and an instance, until either side ends. It owns the slot.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_http::body::{BodySize, MessageBody};
use actix_rt::task::JoinHandle;
use actix_web::dev::Payload;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio_util::io::poll_read_buf;

use super::{
    client_connection::ClientWatch,
    dispatch::Transfer,
    response_body::ResponseEnd,
    status::Failure,
    upstream::{self, AnswerBody},
};

/// Largest read from the instance, in bytes.
const MAX_READ: usize = 64 * 1024;

/// The instance's side, as the body of the response. The client's side is moved by a task of its own.
pub struct Tunnel {
    /// `None`: the instance has ended.
    from_instance: Option<ReadHalf<upstream::Tunnel>>,
    to_instance: Option<JoinHandle<()>>,
    watch: ClientWatch,
    end: ResponseEnd,
}

impl Tunnel {
    /// Begins to move bytes.
    pub fn new(answer: AnswerBody, transfer: Transfer, end: ResponseEnd) -> Self {
        let Transfer { watch, tunnel, .. } = transfer;
        let (from_instance, to_instance) = answer.into_upgraded().map(split).unzip();
        let to_instance = tunnel.zip(to_instance).map(|(client, instance)| actix_rt::spawn(send(client, instance)));
        Self { from_instance, to_instance, watch, end }
    }
}

/// Sends what comes from the client. Its end ends the instance's side.
async fn send(mut client: Payload, mut instance: WriteHalf<upstream::Tunnel>) {
    while let Some(Ok(chunk)) = client.next().await {
        if instance.write_all(&chunk).await.is_err() || instance.flush().await.is_err() {
            return;
        }
    }
    // An error means that the instance has ended already.
    let _ = instance.shutdown().await;
}

impl MessageBody for Tunnel {
    type Error = Failure;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let this = self.get_mut();
        let mut chunk = BytesMut::with_capacity(MAX_READ);
        let read = match &mut this.from_instance {
            Some(instance) => match poll_read_buf(Pin::new(instance), cx, &mut chunk) {
                Poll::Pending => {
                    // Either side ends the tunnel.
                    ready!(this.watch.poll_left(cx));
                    0
                }
                // A broken connection ends the tunnel like an orderly end.
                Poll::Ready(read) => read.unwrap_or(0),
            },
            None => 0,
        };
        if read > 0 {
            return Poll::Ready(Some(Ok(chunk.freeze())));
        }
        this.from_instance = None;
        this.end.complete();
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
