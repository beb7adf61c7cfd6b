//! One request and its response on one connection to an instance, both bodies moving at the same time.
//!
//! Whoever polls for the response drives the request as well, so both directions are throttled by the slower end, and
//! dropping the exchange ends both.

use std::{
    io,
    task::{Context, Poll, ready},
};

use actix_http::StatusCode;
use bytes::BytesMut;

use super::Connection;
use crate::http::{
    alarm::Alarm,
    client::Side,
    socket::Output,
    transfer::{Stopped, Transfer},
    wire::{Framing, MAX_HEAD, Malformed, Nonsense, ResponseHead, Seen},
};

/// Reads and interim responses before somebody else has a turn: there may be no end to either.
const TURN: usize = 64;

/// Why an exchange came to no good end.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The client left before its request was complete, or takes nothing of the response.
    #[error("the client left")]
    ClientGone,
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

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    connection: Box<Connection>,
    /// The request was a `HEAD`.
    to_head: bool,
    sending: Sending,
    /// The response's body. `None`: its head has not come.
    receiving: Option<Transfer>,
    /// Whether the connection may serve another request once the response has ended.
    keep_alive: bool,
    heard: bool,
    /// Of the head that is to come.
    seen: Seen,
}

/// What an instance says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It wants the body that is withheld.
    Continue,
    /// The head of its response is there.
    Head,
}

/// How far the request is.
#[derive(Debug)]
enum Sending {
    /// The head; the body is not sent before the instance has asked for it.
    Head,
    Body,
    /// What is left in the output.
    Rest,
    Done,
    /// The instance takes no more. It may have answered already, so that is no failure by itself.
    Broken(Option<io::Error>),
}

impl Exchange {
    /// The request's head is in the connection's output. `withheld`: its body is to be asked for.
    pub fn new(connection: Box<Connection>, to_head: bool, withheld: bool) -> Self {
        let sending = if withheld { Sending::Head } else { Sending::Body };
        Self { connection, to_head, sending, receiving: None, keep_alive: false, heard: false, seen: Seen::default() }
    }

    /// Lets a withheld body follow.
    pub fn release(&mut self) {
        if let Sending::Head = self.sending {
            self.sending = Sending::Body;
        }
    }

    /// Whether the client waits to be told to send its body.
    pub fn withholds_body(&self) -> bool {
        matches!(self.sending, Sending::Head)
    }

    /// Whether the connection had been kept from an earlier request.
    pub fn is_reused(&self) -> bool {
        self.connection.reused
    }

    /// Whether the client is the one who is slow: all that it sent has been passed on, and more is to come.
    pub fn waits_for_client(&self) -> bool {
        matches!(self.sending, Sending::Body) && self.connection.socket.output.is_empty()
    }

    /// Whether the whole request was sent. If not, what of it was read but not sent is between the connections.
    pub fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done)
    }

    /// Ready with an error once the instance has ended and nothing of what it sent is left. To be asked only when nothing
    /// can be moved now. `to`: where its response goes.
    pub fn poll_deserted(&mut self, cx: &mut Context<'_>, to: &Output, alarm: &mut Alarm) -> Poll<ExchangeError> {
        let Connection { vigil, socket, .. } = &mut *self.connection;
        ready!(vigil.poll_ended(cx));
        if !to.is_empty() {
            // More may wait behind what the client has not taken yet.
            return Poll::Pending;
        }
        let moved = socket.received() + to.total();
        vigil.poll_silent(cx, moved, alarm).map(|()| self.broken(None))
    }

    /// The connection, if it may serve another request.
    pub fn into_connection(self) -> Option<Box<Connection>> {
        let over = self.keep_alive && self.is_sent();
        (over && self.connection.socket.input.is_empty()).then_some(self.connection)
    }

    /// What the instance says next. Sends the request meanwhile, as far as the instance takes it.
    pub fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Side,
        head: &mut ResponseHead,
    ) -> Poll<Result<Answer, ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx, client) {
            return Poll::Ready(Err(error));
        }
        for _ in 0..TURN {
            let input = &mut self.connection.socket.input;
            if !self.seen.is_worth_parsing(input, MAX_HEAD) || !head.take(input, self.to_head)? {
                match ready!(self.connection.socket.poll_read(cx)) {
                    Ok(0) => return Poll::Ready(Err(self.broken(None))),
                    Ok(_) => self.heard = true,
                    Err(error) => return Poll::Ready(Err(self.broken(Some(error)))),
                }
            } else if head.status == StatusCode::CONTINUE && self.withholds_body() {
                self.seen = Seen::default();
                return Poll::Ready(Ok(Answer::Continue));
            } else if head.status == StatusCode::SWITCHING_PROTOCOLS || !head.status.is_informational() {
                self.keep_alive = head.keep_alive;
                return Poll::Ready(Ok(Answer::Head));
            }
            // Other interim responses are between the instance and us.
            self.seen = Seen::default();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The response's body goes to the client from here on, in chunks or as it comes.
    pub fn start_body(&mut self, head: &ResponseHead, chunked: bool) {
        self.receiving = Some(Transfer::new(head.framing, chunked));
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.sending = Sending::Body;
        }
    }

    /// Moves the response's body. Ready once its last byte is in the client's output.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, client: &mut Side) -> Poll<Result<(), ExchangeError>> {
        match self.poll_send(cx, client) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // A tunnel ends with either side; what is on its way to the client arrives.
            Poll::Ready(Ok(())) if client.body.framing() == Framing::UntilClose => {
                let flushed = ready!(client.socket.poll_flush(cx, &mut self.connection.socket.input));
                return Poll::Ready(flushed.map_err(|_| ExchangeError::ClientGone));
            }
            _ => {}
        }
        let Some(body) = &mut self.receiving else { return Poll::Ready(Ok(())) };
        let stopped = match ready!(body.poll(cx, &mut self.connection.socket, &mut client.socket)) {
            Ok(()) => return Poll::Ready(Ok(())),
            Err(stopped) => stopped,
        };
        Poll::Ready(Err(match stopped {
            Stopped::Source(error) => self.broken(error),
            Stopped::Malformed(malformed) => Nonsense::from(malformed).into(),
            Stopped::Sink(_) | Stopped::TooLarge { .. } => ExchangeError::ClientGone,
        }))
    }

    /// Sends as much as the client has and the instance takes.
    fn poll_send(&mut self, cx: &mut Context<'_>, client: &mut Side) -> Poll<Result<(), ExchangeError>> {
        loop {
            let instance = &mut self.connection.socket;
            match self.sending {
                Sending::Body => match ready!(client.body.poll(cx, &mut client.socket, instance)) {
                    Ok(()) => self.sending = Sending::Rest,
                    Err(Stopped::Sink(error)) => self.sending = Sending::Broken(Some(error)),
                    Err(Stopped::Source(_)) => return Poll::Ready(Err(ExchangeError::ClientGone)),
                    Err(Stopped::Malformed(Malformed)) => return Poll::Ready(Err(ExchangeError::ClientMalformed)),
                    Err(Stopped::TooLarge { limit }) => return Poll::Ready(Err(ExchangeError::BodyTooLarge { limit })),
                },
                Sending::Head | Sending::Rest => {
                    match ready!(instance.poll_flush(cx, &mut BytesMut::new())) {
                        Err(error) => self.sending = Sending::Broken(Some(error)),
                        // A withheld body needs no waker: nothing comes before it is released.
                        Ok(()) if self.withholds_body() => return Poll::Pending,
                        Ok(()) => self.sending = Sending::Done,
                    }
                }
                Sending::Done | Sending::Broken(_) => return Poll::Ready(Ok(())),
            }
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
