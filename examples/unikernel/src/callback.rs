//! The ready callback: an HTTP request that reports to the daemon that this function is ready.

use core::fmt::Write;

use smoltcp::iface::SocketHandle;
use unikernel::{cmdline, text::Text};

use crate::{
    say,
    sockets::{Sockets, Turn},
};

/// Timeout of the request, in microseconds.
const REQUEST_TIMEOUT: u64 = 2_000_000;
/// Delay before the second attempt, in microseconds; it doubles with each further one.
const RETRY_DELAY: u64 = 100_000;
const MAX_ATTEMPTS: u32 = 6;

/// Length of the beginning of a response that shows its status class: `HTTP/1.1 2`.
const STATUS_PREFIX: usize = 10;

/// The state of the callback.
pub struct Callback {
    socket: SocketHandle,
    state: State,
}

enum State {
    Waiting { callback: cmdline::Callback<'static>, attempt: u32, until: u64 },
    Requesting { callback: cmdline::Callback<'static>, attempt: u32, until: u64, sent: bool },
    Done,
}

impl Callback {
    /// Creates the callback; the request is made in the first step.
    pub fn new(sockets: &mut Sockets, callback: Option<cmdline::Callback<'static>>) -> Self {
        let state = match callback {
            Some(callback) => State::Waiting { callback, attempt: 0, until: 0 },
            None => State::Done,
        };
        Self { socket: sockets.add(), state }
    }

    /// Advances the request, and its retries.
    pub fn step(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        match self.state {
            State::Done => return,
            State::Waiting { callback, attempt, until } => {
                if now >= until {
                    turn.connect(self.socket, callback.server);
                    self.state = State::Requesting { callback, attempt, until: now + REQUEST_TIMEOUT, sent: false };
                }
            }
            State::Requesting { callback, attempt, until, ref mut sent } => {
                let socket = turn.socket(self.socket);
                if !*sent && socket.can_send() {
                    let mut request = Text::<1024>::new();
                    let cmdline::Callback { server, path } = callback;
                    let _ = write!(request, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
                    *sent = socket.send_slice(request.as_bytes()).is_ok();
                }
                let lost = !socket.is_open() || now >= until;
                let accepted = match socket.peek(STATUS_PREFIX) {
                    Ok(answer) if answer.len() == STATUS_PREFIX => {
                        Some(answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 2"))
                    }
                    _ => lost.then_some(false),
                };
                if accepted.is_some() {
                    socket.close();
                }
                match accepted {
                    Some(true) => {
                        say!("unikernel: ready");
                        self.state = State::Done;
                    }
                    Some(false) => self.fail(callback, attempt, now),
                    None => {}
                }
            }
        }
        turn.waiting |= !matches!(self.state, State::Done);
    }

    fn fail(&mut self, callback: cmdline::Callback<'static>, attempt: u32, now: u64) {
        let attempt = attempt + 1;
        say!("unikernel: callback to {} failed, attempt {attempt} of {MAX_ATTEMPTS}", callback.server);
        self.state = match attempt {
            MAX_ATTEMPTS => State::Done,
            _ => State::Waiting { callback, attempt, until: now + (RETRY_DELAY << attempt) },
        };
    }
}
