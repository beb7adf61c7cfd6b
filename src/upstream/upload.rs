//! The request body on its way from the client's task to the connection's.
//!
//! One chunk is in flight, so the client is read as fast as the instance takes it. The first chunks stay for a replay
//! until the instance answers: a request that was not read goes to another connection whole.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::meter::Meter;

/// Bytes that are kept for a replay.
const MAX_REPLAY: usize = 256 * 1024;

/// The exchange takes no more of the request body.
#[derive(Debug, thiserror::Error)]
#[error("the exchange with the instance takes no more of the request body")]
pub struct UploadClosed;

/// The client's end. Dropped without [`finish`](Self::finish), it breaks the connection off, so that the instance sees no
/// clean end.
#[derive(Debug)]
pub struct UploadSender(Arc<Channel>);

/// The instance's end, for all attempts. The channel is open while this or an attempt lives.
#[derive(Debug)]
pub struct Upload(pub(super) Arc<Channel>);

/// A request body that attempts read one after the other.
#[derive(Debug, Default)]
pub(super) struct Channel(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    chunk: Option<Bytes>,
    end: Option<End>,
    /// Bytes that attempts have taken.
    taken: usize,
    /// What was taken, until it is too much or answered.
    replay: Vec<Bytes>,
    /// `replay` is not the whole of it.
    is_partial: bool,
    /// Counts attempts; the last one may read.
    attempt: usize,
    /// Where the current attempt writes to.
    meter: Option<Arc<Meter>>,
    /// A withheld body may go.
    is_released: bool,
    is_answered: bool,
    /// There will be no other attempt.
    is_last: bool,
    sender: Option<Waker>,
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Aborted,
}

impl Upload {
    /// Lets a withheld body go.
    pub fn release(&self) {
        self.0.release();
    }
}

/// Returns both ends of a channel for one request body.
pub fn upload() -> (UploadSender, Upload) {
    let channel = Arc::<Channel>::default();
    (UploadSender(channel.clone()), Upload(channel))
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.is_last && self.meter.is_none()
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        wake(&mut self.reader);
    }
}

impl UploadSender {
    /// Ready when there is room for a chunk.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadClosed>> {
        let mut state = self.0.state();
        if state.is_closed() {
            return Poll::Ready(Err(UploadClosed));
        }
        if state.chunk.is_none() {
            return Poll::Ready(Ok(()));
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Sends a chunk. It is in flight, not yet taken, when this resolves.
    pub async fn send(&mut self, chunk: Bytes) -> Result<(), UploadClosed> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        if !chunk.is_empty() {
            let mut state = self.0.state();
            state.chunk = Some(chunk);
            wake(&mut state.reader);
        }
        Ok(())
    }

    /// Ends the body.
    pub fn finish(self) {
        self.0.state().end(End::Finished);
    }

    /// Waits until a withheld body may go: the instance asked for it, or did not ask in time. Returns `false` if it
    /// answered instead.
    pub async fn continue_requested(&mut self) -> bool {
        poll_fn(|cx| {
            let mut state = self.0.state();
            if state.is_released || state.is_answered || state.is_closed() {
                return Poll::Ready(state.is_released);
            }
            state.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for UploadSender {
    fn drop(&mut self) {
        self.0.state().end(End::Aborted);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_last = true;
        wake(&mut state.sender);
    }
}

impl Channel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether no attempt has taken anything.
    pub fn is_untouched(&self) -> bool {
        self.state().taken == 0
    }

    /// Returns whether another attempt can send the body from its beginning.
    pub fn is_replayable(&self) -> bool {
        !self.state().is_partial
    }

    /// Returns whether the client's end was dropped without [`UploadSender::finish`].
    pub fn is_aborted(&self) -> bool {
        self.state().end == Some(End::Aborted)
    }

    /// Returns whether a withheld body may go.
    pub fn is_released(&self) -> bool {
        self.state().is_released
    }

    /// Lets a withheld body go.
    pub fn release(&self) {
        let mut state = self.state();
        state.is_released = true;
        wake(&mut state.sender);
    }

    /// Drops what is kept for a replay: the response is there.
    pub fn answered(&self) {
        let mut state = self.state();
        (state.is_answered, state.is_partial) = (true, true);
        state.replay.clear();
        wake(&mut state.sender);
    }
}

/// The body that hyper reads in one attempt, or none. The head says how it is framed.
#[derive(Debug)]
pub struct RequestBody(Option<Reader>);

#[derive(Debug)]
struct Reader {
    channel: Arc<Channel>,
    attempt: usize,
    /// Chunks read.
    read: usize,
}

impl RequestBody {
    /// Returns the body of another attempt, on the connection of that meter. The one before reads no more.
    pub(super) fn new(upload: Option<&Arc<Channel>>, meter: &Arc<Meter>) -> Self {
        Self(upload.map(|channel| {
            let mut state = channel.state();
            state.attempt += 1;
            state.meter = Some(meter.clone());
            Reader { channel: channel.clone(), attempt: state.attempt, read: 0 }
        }))
    }
}

impl State {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, read: usize) -> Poll<Option<io::Result<Bytes>>> {
        if self.meter.as_ref().is_some_and(|meter| meter.is_write_broken()) {
            // The rest would go nowhere. What is awaited is the response, or the end of the connection.
            return Poll::Pending;
        }
        if let Some(chunk) = self.replay.get(read) {
            return Poll::Ready(Some(Ok(chunk.clone())));
        }
        match (self.chunk.take(), self.end) {
            (Some(chunk), _) => {
                self.taken += chunk.len();
                self.is_partial |= self.taken > MAX_REPLAY;
                if self.is_partial {
                    self.replay.clear();
                } else {
                    self.replay.push(chunk.clone());
                }
                wake(&mut self.sender);
                Poll::Ready(Some(Ok(chunk)))
            }
            (None, Some(End::Finished)) => Poll::Ready(None),
            (None, Some(End::Aborted)) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            (None, None) => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reader) = &mut self.0 else { return Poll::Ready(None) };
        let mut state = reader.channel.state();
        if state.attempt != reader.attempt {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let chunk = state.poll_chunk(cx, reader.read);
        drop(state);
        reader.read += usize::from(matches!(chunk, Poll::Ready(Some(Ok(_)))));
        chunk.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        // Told with the last chunk, the end goes into the same write. An empty body is one, too.
        self.0.as_ref().is_none_or(|reader| {
            let state = reader.channel.state();
            state.end == Some(End::Finished)
                && state.chunk.is_none()
                && reader.read > 0
                && reader.read >= state.replay.len()
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.channel.state();
        if state.attempt == self.attempt {
            state.meter = None;
            wake(&mut state.sender);
        }
    }
}
