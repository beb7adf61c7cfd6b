//! Moves a client's request body to the instance, within the limits of size and time.
//!
//! Until the response's head is there the handler polls the pump, so that it answers a malformed body in the same turn in
//! which actix-http finds it. After that the pump runs as a task of its own, because a response that the client does not
//! take must not hold up the request.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_http::{BoxedPayloadStream, error::PayloadError};
use actix_rt::task::JoinHandle;
use actix_web::dev::Payload;
use bytes::Bytes;
use futures::{Stream as _, StreamExt as _, stream};
use tokio::{sync::Notify, time::timeout};

use crate::{
    failure::Failure,
    http::{ClientConnection, Framing},
    upstream::UploadSender,
};

/// Largest body that is read to be dropped, in bytes, and how long that may take.
const MAX_SKIPPED: usize = 256 * 1024;
const SKIP_TIMEOUT: Duration = Duration::from_millis(100);

/// Moves one body. Resolves when it has been sent, or the instance takes no more of it.
pub type Pump = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// How far a body has been moved.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// The body has been read to its end.
    complete: Cell<bool>,
    /// Bytes of it that were read.
    moved: Cell<u64>,
    /// The pump waits for the client rather than for the instance.
    waits_for_client: Cell<bool>,
    /// The response is there: how long the client takes is the function's matter from now on.
    answered: Cell<bool>,
    /// Why a pump that is a task of its own could not move it. The exchange breaks off along with it.
    failure: RefCell<Option<Failure>>,
}

impl BodyProgress {
    pub fn is_complete(&self) -> bool {
        self.complete.get()
    }

    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client.get()
    }

    pub fn set_answered(&self) {
        self.answered.set(true);
    }

    pub fn take_failure(&self) -> Option<Failure> {
        self.failure.take()
    }
}

/// Splits the payload of a request into its body, if it has one, and what over HTTP/2 tells of a reset of a stream without.
/// There only the first frame tells whether there is a body.
pub fn take_body(mut payload: Payload, framing: Framing, is_http2: bool) -> (Option<Payload>, Option<Payload>) {
    match framing {
        Framing::None | Framing::Length(0) | Framing::Tunnel => (None, is_http2.then_some(payload)),
        Framing::Unknown if is_http2 => {
            match Pin::new(&mut payload).poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(None) => (None, Some(payload)),
                Poll::Ready(first) => {
                    let whole: BoxedPayloadStream = Box::pin(stream::iter(first).chain(payload));
                    (Some(whole.into()), None)
                }
                Poll::Pending => (Some(payload), None),
            }
        }
        Framing::Unknown | Framing::Length(_) => (Some(payload), None),
    }
}

/// Reads a small body that is not wanted, so that another request can follow on the connection. Returns whether it has been
/// read to its end.
pub async fn skip(mut body: Payload, framing: Framing) -> bool {
    if matches!(framing, Framing::Length(length) if length > MAX_SKIPPED as u64) {
        return false;
    }
    let all = async {
        let mut skipped = 0;
        while let Some(chunk) = body.next().await {
            skipped += chunk.map_or(MAX_SKIPPED, |chunk| chunk.len());
            if skipped >= MAX_SKIPPED {
                return false;
            }
        }
        true
    };
    timeout(SKIP_TIMEOUT, all).await.unwrap_or(false)
}

/// Returns what moves a body.
pub fn pump(
    payload: Payload,
    framing: Framing,
    upload: UploadSender,
    limit: Option<u64>,
    connection: Rc<ClientConnection>,
    progress: Rc<BodyProgress>,
    wanted: Option<Rc<Notify>>,
) -> Pump {
    Box::pin(Moving { payload, framing, upload, limit, connection, progress }.run(wanted))
}

/// A pump that goes on as a task of its own, until dropped.
pub struct PumpTask(JoinHandle<()>);

impl PumpTask {
    /// Goes on moving what a handler has begun to move.
    pub fn spawn(pump: Pump, progress: Rc<BodyProgress>) -> Self {
        Self(actix_rt::spawn(async move { *progress.failure.borrow_mut() = pump.await.err() }))
    }
}

impl Drop for PumpTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body on its way.
struct Moving {
    payload: Payload,
    framing: Framing,
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
                None if matches!(self.framing, Framing::Length(length) if length != taken) => {
                    return Err(Failure::MalformedBody);
                }
                None => {
                    self.progress.complete.set(true);
                    self.upload.finish();
                    return Ok(());
                }
            };
            taken += chunk.len() as u64;
            self.progress.moved.set(taken);
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
