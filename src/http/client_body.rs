//! Moves a client's request body to the instance, within the limits of size and time.
//!
//! Until the response's head is there the handler polls the pump, so that it answers a malformed body in the same turn in
//! which actix-http finds it. After that the pump runs as a task of its own, because a response that the client does not
//! take must not hold up the request.

use std::{cell::Cell, future::poll_fn, pin::Pin, rc::Rc, task::Poll, time::Duration};

use actix_http::{BoxedPayloadStream, RequestHead, error::PayloadError};
use actix_web::{
    dev::Payload,
    http::header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use bytes::Bytes;
use futures::{Stream as _, StreamExt as _};
use tokio::{sync::Notify, time::timeout};

use super::{client_connection::ClientConnection, status::Failure, upstream::UploadSender};

/// Largest body that is read to be dropped, in bytes, and how long that may take.
const MAX_SKIPPED: u64 = 256 * 1024;
const SKIP_TIMEOUT: Duration = Duration::from_millis(100);

/// Moves one body. Resolves when it has been sent, or the instance takes no more of it.
pub type Pump = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// How far a body has been moved.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// The body has been read to its end.
    complete: Cell<bool>,
    /// The pump waits for the client rather than for the instance.
    waits_for_client: Cell<bool>,
    /// The response is there: how long the client takes is the function's matter from now on.
    answered: Cell<bool>,
}

impl BodyProgress {
    /// Returns the progress of a request without a body.
    pub fn none() -> Rc<Self> {
        let progress = Self::default();
        progress.complete.set(true);
        Rc::new(progress)
    }

    pub fn is_complete(&self) -> bool {
        self.complete.get()
    }

    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client.get()
    }

    pub fn set_answered(&self) {
        self.answered.set(true);
    }
}

/// What a request's head tells of the length of its body, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Known(u64),
    Unknown,
}

/// A request body, as its head declares it.
pub enum ClientBody {
    /// None. Over HTTP/2 the ended stream is kept: it tells of a reset.
    None(Option<Payload>),
    Some(Payload, BodyLength),
    /// What follows a request for WebSocket, and is for the tunnel.
    Tunnel(Payload),
}

/// Takes the body of a request. Over HTTP/2 only its first frame tells whether there is one.
pub async fn take_body(head: &RequestHead, mut payload: Payload, is_http2: bool) -> ClientBody {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let size = match length {
        // HTTP/1.1 has no body without one of the two.
        None if !is_http2 && !head.headers.contains_key(TRANSFER_ENCODING) => return ClientBody::None(None),
        None => BodyLength::Unknown,
        Some(0) => return ClientBody::None(is_http2.then_some(payload)),
        Some(length) => BodyLength::Known(length),
    };
    if is_http2 && length.is_none() {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut payload).poll_next(cx))).await;
        match first {
            Poll::Ready(None) => return ClientBody::None(Some(payload)),
            Poll::Ready(Some(first)) => {
                let rest = futures::stream::iter([first]).chain(payload);
                let rest: BoxedPayloadStream = Box::pin(rest);
                return ClientBody::Some(rest.into(), size);
            }
            Poll::Pending => {}
        }
    }
    ClientBody::Some(payload, size)
}

/// Reads a small body that is not wanted, so that another request can follow on the connection. Returns whether it has been
/// read to its end.
pub async fn skip(mut payload: Payload, length: BodyLength) -> bool {
    if matches!(length, BodyLength::Known(length) if length > MAX_SKIPPED) {
        return false;
    }
    let all = async {
        let mut skipped = 0;
        while let Some(chunk) = payload.next().await {
            skipped += chunk.map_or(MAX_SKIPPED, |chunk| chunk.len() as u64);
            if skipped >= MAX_SKIPPED {
                return false;
            }
        }
        true
    };
    timeout(SKIP_TIMEOUT, all).await.unwrap_or(false)
}

/// Returns what moves the body, and how far that has come.
pub fn pump(
    (payload, length): (Payload, BodyLength),
    upload: UploadSender,
    limit: Option<u64>,
    connection: &Rc<ClientConnection>,
    wanted: Option<Rc<Notify>>,
) -> (Pump, Rc<BodyProgress>) {
    let (connection, progress) = (connection.clone(), Rc::new(BodyProgress::default()));
    let body = Moving { payload, length, upload, limit, connection, progress: progress.clone() };
    (Box::pin(body.run(wanted)), progress)
}

struct Moving {
    payload: Payload,
    length: BodyLength,
    upload: UploadSender,
    limit: Option<u64>,
    connection: Rc<ClientConnection>,
    progress: Rc<BodyProgress>,
}

impl Moving {
    async fn run(mut self, wanted: Option<Rc<Notify>>) -> Result<(), Failure> {
        if let Some(wanted) = wanted {
            if !self.upload.continue_requested().await {
                return Ok(());
            }
            wanted.notify_one();
        }
        let mut taken = 0;
        loop {
            if poll_fn(|cx| self.upload.poll_ready(cx)).await.is_err() {
                return Ok(());
            }
            self.progress.waits_for_client.set(true);
            let next = self.next().await?;
            self.progress.waits_for_client.set(false);
            let chunk = match next {
                Some(Ok(chunk)) => chunk,
                Some(Err(_)) if self.connection.has_left() || self.connection.is_http2 => {
                    return Err(Failure::ClientGone);
                }
                Some(Err(_)) => return Err(Failure::MalformedBody),
                // Over HTTP/2 a stream may end with its head, whatever length that declares.
                None if matches!(self.length, BodyLength::Known(length) if length != taken) => {
                    return Err(Failure::MalformedBody);
                }
                None => {
                    self.progress.complete.set(true);
                    self.upload.finish();
                    return Ok(());
                }
            };
            taken += chunk.len() as u64;
            if let Some(limit) = self.limit.filter(|limit| taken > *limit) {
                return Err(Failure::BodyTooLarge { limit });
            }
            if self.upload.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Waits for the next chunk, as long as a client may be silent.
    async fn next(&mut self) -> Result<Option<Result<Bytes, PayloadError>>, Failure> {
        let Some(after) = self.connection.client_timeout else { return Ok(self.payload.next().await) };
        loop {
            match timeout(after, self.payload.next()).await {
                Ok(next) => return Ok(next),
                Err(_) if self.progress.answered.get() => {}
                Err(_) => return Err(Failure::ClientSilent { after }),
            }
        }
    }
}
