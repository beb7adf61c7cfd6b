//! One request and its response on one connection, both bodies streaming at the same time.
//!
//! Nothing is spawned and nothing is buffered beyond one chunk each way: whoever polls for the response drives the
//! request as well, so both directions are throttled by the slower end, and dropping the exchange ends both.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{BoxedPayloadStream, Method, Payload, StatusCode, error::PayloadError};
use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};
use tokio_util::io::poll_read_buf;

use super::{
    Connection,
    codec::{BodyReader, Framing, Nonsense, Piece, ResponseHead, put_chunk_line, take_head},
};

/// Room made for each read from an instance, in bytes.
const READ_SIZE: usize = 32 * 1024;

/// Why an exchange came to no good end.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The client left before its request was complete.
    #[error("the client left")]
    ClientGone,
    /// The client sends nothing more of its body.
    #[error("nothing of the request body came for {:.3} s", .after.as_secs_f64())]
    ClientSilent {
        /// The time it had.
        after: Duration,
    },
    /// The client's body is malformed.
    #[error("the request body is malformed")]
    ClientMalformed,
    /// The client's body is larger than the function allows.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// What is allowed.
        limit: u64,
    },
    /// The connection to the instance broke off.
    #[error("the instance broke the connection off {}", if *.heard { "in its response" } else { "before it responded" })]
    Broken {
        /// Whether any byte of the response had come.
        heard: bool,
        /// What the system said; nothing for an orderly end at the wrong place.
        #[source]
        source: Option<io::Error>,
    },
    /// The instance's answer is no HTTP.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
}

/// What is sent to the instance after the head.
pub struct RequestBody {
    /// `None`: the client waits to be told to send it.
    payload: Option<Payload<BoxedPayloadStream>>,
    framing: Framing,
    limits: BodyLimits,
    taken: u64,
    /// Runs while the client is waited for. Most bodies come at once and need none.
    silence: Option<Pin<Box<Sleep>>>,
}

/// What a request's body may be like.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The largest that the function accepts, in bytes.
    pub size: Option<u64>,
    /// How long nothing of it may come, until the function answers: from then on it is the function's own business.
    pub silence: Option<Duration>,
}

impl RequestBody {
    /// A body that comes by itself.
    pub fn new(payload: Payload<BoxedPayloadStream>, framing: Framing, limits: BodyLimits) -> Self {
        Self { payload: Some(payload), framing, limits, taken: 0, silence: None }
    }

    /// A body that is not sent before the instance has asked for it.
    pub fn withheld(framing: Framing, limits: BodyLimits) -> Self {
        Self { payload: None, framing, limits, taken: 0, silence: None }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ExchangeError>> {
        if self.framing == Framing::None {
            return Poll::Ready(Ok(None));
        }
        // A withheld body needs no waker: nothing comes before it is released.
        let Some(payload) = &mut self.payload else { return Poll::Pending };
        let Poll::Ready(next) = Pin::new(payload).poll_next(cx) else { return self.poll_silence(cx) };
        self.silence = None;
        let chunk = match next {
            None => return Poll::Ready(Ok(None)),
            Some(Ok(chunk)) => chunk,
            Some(Err(PayloadError::EncodingCorrupted)) => return Poll::Ready(Err(ExchangeError::ClientMalformed)),
            Some(Err(_)) => return Poll::Ready(Err(ExchangeError::ClientGone)),
        };
        self.taken += chunk.len() as u64;
        match self.limits.size {
            Some(limit) if self.taken > limit => Poll::Ready(Err(ExchangeError::BodyTooLarge { limit })),
            _ => Poll::Ready(Ok(Some(chunk))),
        }
    }

    /// Waits for the client for as long as it may be silent.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ExchangeError>> {
        // A tunnel is silent for as long as both sides like.
        let Some(after) = self.limits.silence.filter(|_| self.framing != Framing::UntilClose) else {
            return Poll::Pending;
        };
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(after)));
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Err(ExchangeError::ClientSilent { after }))
    }
}

/// One request and its response.
pub struct Exchange {
    connection: Connection,
    method: Method,
    /// What is to be written: first this, then `chunk`, then `tail`.
    head: BytesMut,
    chunk: Bytes,
    tail: &'static [u8],
    body: RequestBody,
    sending: Sending,
    receiving: Receiving,
    heard: bool,
}

/// What an instance says to a request.
pub enum Answer {
    /// It wants the body that was withheld.
    Continue,
    /// The head of its response.
    Head(ResponseHead),
}

#[derive(Debug)]
enum Sending {
    Body,
    Done,
    /// The instance takes no more. It may have answered already, so that is no failure by itself.
    Broken(Option<io::Error>),
}

#[derive(Debug)]
enum Receiving {
    Head,
    Body { reader: BodyReader, keep_alive: bool },
    Done { keep_alive: bool },
}

impl Exchange {
    /// `head` is the complete request head.
    pub fn new(connection: Connection, method: Method, head: BytesMut, body: RequestBody) -> Self {
        Self {
            connection,
            method,
            head,
            chunk: Bytes::new(),
            tail: b"",
            body,
            sending: Sending::Body,
            receiving: Receiving::Head,
            heard: false,
        }
    }

    /// Lets a withheld body follow.
    pub fn release(&mut self, payload: Payload<BoxedPayloadStream>) {
        self.body.payload = Some(payload);
    }

    /// Whether the request could be sent again: no byte of a response has come, and nothing of the body is lost.
    pub fn is_repeatable(&self, error: &ExchangeError) -> bool {
        matches!(error, ExchangeError::Broken { heard: false, .. }) && self.body.taken == 0
    }

    /// Whether the connection had been kept from an earlier request.
    pub fn is_reused(&self) -> bool {
        self.connection.reused
    }

    /// Whether the request's body has been sent whole.
    fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done)
    }

    /// Whether the client is the one who is slow: all that it sent has been passed on, and more is to come.
    pub fn waits_for_client(&self) -> bool {
        matches!(self.sending, Sending::Body) && !self.has_output() && !self.withholds_body()
    }

    /// Whether the client waits to be told to send its body.
    pub fn withholds_body(&self) -> bool {
        self.body.payload.is_none()
    }

    /// Gives back the body, for another attempt.
    pub fn into_body(self) -> RequestBody {
        self.body
    }

    /// The connection, if it may serve another request.
    pub fn into_connection(self) -> Option<Connection> {
        let over = self.is_sent() && matches!(self.receiving, Receiving::Done { keep_alive: true });
        (over && self.connection.input.is_empty()).then_some(self.connection)
    }

    /// What the instance says next. Sends the request meanwhile, as far as the instance takes it.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match take_head(&mut self.connection.input, &self.method)? {
                Some(head) if head.status == StatusCode::CONTINUE && self.withholds_body() => {
                    return Poll::Ready(Ok(Answer::Continue));
                }
                // Other interim responses are between the instance and us.
                Some(head) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {}
                Some(head) => {
                    let keep_alive = head.keep_alive;
                    (self.body.limits.silence, self.body.silence) = (None, None);
                    self.receiving = match head.framing {
                        Framing::None => Receiving::Done { keep_alive },
                        framing => Receiving::Body { reader: BodyReader::new(framing), keep_alive },
                    };
                    return Poll::Ready(Ok(Answer::Head(head)));
                }
                None if ready!(self.poll_read(cx))? => {}
                None => return Poll::Ready(Err(self.broken(None))),
            }
        }
    }

    /// The next piece of the response's body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            // A tunnel ends with either side.
            Poll::Ready(Ok(())) if self.body.framing == Framing::UntilClose => return Poll::Ready(None),
            _ => {}
        }
        loop {
            let Receiving::Body { reader, keep_alive } = &mut self.receiving else { return Poll::Ready(None) };
            let keep_alive = *keep_alive;
            match reader.take(&mut self.connection.input) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Piece::End) => self.receiving = Receiving::Done { keep_alive },
                Ok(Piece::Hungry) => {
                    let ends_here = reader.ends_with_connection();
                    match ready!(self.poll_read(cx)) {
                        Ok(true) => {}
                        Ok(false) if ends_here => self.receiving = Receiving::Done { keep_alive: false },
                        Ok(false) => return Poll::Ready(Some(Err(self.broken(None)))),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                Err(nonsense) => return Poll::Ready(Some(Err(nonsense.into()))),
            }
        }
    }

    /// Sends as much as the client has and the instance takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        while matches!(self.sending, Sending::Body) {
            if self.has_output() {
                let output = [IoSlice::new(&self.head), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
                match ready!(Pin::new(&mut self.connection.io).poll_write_vectored(cx, &output)) {
                    Ok(0) => self.sending = Sending::Broken(None),
                    Ok(written) => self.wrote(written),
                    Err(error) => self.sending = Sending::Broken(Some(error)),
                }
                continue;
            }
            match ready!(self.body.poll_chunk(cx))? {
                Some(chunk) if self.body.framing == Framing::Chunked => {
                    put_chunk_line(&mut self.head, chunk.len());
                    self.chunk = chunk;
                    self.tail = b"\r\n";
                }
                Some(chunk) => self.chunk = chunk,
                None if self.body.framing == Framing::Chunked => {
                    self.body.framing = Framing::None;
                    self.tail = b"0\r\n\r\n";
                }
                None => self.sending = Sending::Done,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn has_output(&self) -> bool {
        self.head.has_remaining() || self.chunk.has_remaining() || !self.tail.is_empty()
    }

    fn wrote(&mut self, mut written: usize) {
        for part in [&mut self.head as &mut dyn Buf, &mut self.chunk, &mut self.tail] {
            let here = written.min(part.remaining());
            part.advance(here);
            written -= here;
        }
    }

    /// Reads more. `false`: the instance has ended the connection in an orderly way.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ExchangeError>> {
        let Connection { io, input, .. } = &mut self.connection;
        input.reserve(READ_SIZE);
        match ready!(poll_read_buf(Pin::new(io), cx, input)) {
            Ok(read) => {
                self.heard |= read > 0;
                Poll::Ready(Ok(read > 0))
            }
            Err(error) => Poll::Ready(Err(self.broken(Some(error)))),
        }
    }

    fn broken(&mut self, error: Option<io::Error>) -> ExchangeError {
        // What went wrong first says more than what followed from it.
        let first = match &mut self.sending {
            Sending::Broken(first) => first.take(),
            _ => None,
        };
        ExchangeError::Broken { heard: self.heard, source: first.or(error) }
    }
}
