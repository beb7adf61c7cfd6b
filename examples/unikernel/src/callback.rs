//! The ready callback: an HTTP request that tells the daemon that this function is up.

use core::fmt::Write;

use smoltcp::iface::SocketHandle;
use unikernel::{cmdline, text::Text};

use crate::{
    say,
    sockets::{Sockets, Turn},
};

/// How long to wait for the answer, in microseconds.
const RESPONSE_TIMEOUT: u64 = 2_000_000;
/// The first pause before another attempt, in microseconds; each further one is twice as long.
const PAUSE: u64 = 100_000;
const ATTEMPTS: u32 = 6;

/// Enough of an answer to see how it begins: `HTTP/1.1 2`.
const VERDICT: usize = 10;

/// The state of the callback.
pub struct Callback {
    socket: SocketHandle,
    state: State,
}

enum State {
    Pausing { callback: cmdline::Callback<'static>, attempt: u32, until: u64 },
    Asking { callback: cmdline::Callback<'static>, attempt: u32, until: u64, asked: bool },
    Over,
}

impl Callback {
    /// The callback, to be made in the first turn.
    pub fn new(sockets: &mut Sockets, callback: Option<cmdline::Callback<'static>>) -> Self {
        let state = match callback {
            Some(callback) => State::Pausing { callback, attempt: 0, until: 0 },
            None => State::Over,
        };
        Self { socket: sockets.add(), state }
    }

    /// Gets on with it.
    pub fn step(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        match self.state {
            State::Over => return,
            State::Pausing { callback, attempt, until } => {
                if now >= until {
                    turn.connect(self.socket, callback.server);
                    self.state = State::Asking { callback, attempt, until: now + RESPONSE_TIMEOUT, asked: false };
                }
            }
            State::Asking { callback, attempt, until, ref mut asked } => {
                let socket = turn.socket(self.socket);
                if !*asked && socket.can_send() {
                    let mut request = Text::<1024>::new();
                    let cmdline::Callback { server, path } = callback;
                    let _ = write!(request, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
                    *asked = socket.send_slice(request.as_bytes()).is_ok();
                }
                let lost = !socket.is_open() || now >= until;
                let verdict = match socket.peek(VERDICT) {
                    Ok(answer) if answer.len() == VERDICT => {
                        Some(answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 2"))
                    }
                    _ => lost.then_some(false),
                };
                if verdict.is_some() {
                    socket.close();
                }
                match verdict {
                    Some(true) => {
                        say!("unikernel: ready");
                        self.state = State::Over;
                    }
                    Some(false) => self.fail(callback, attempt, now),
                    None => {}
                }
            }
        }
        turn.waiting |= !matches!(self.state, State::Over);
    }

    fn fail(&mut self, callback: cmdline::Callback<'static>, attempt: u32, now: u64) {
        let attempt = attempt + 1;
        say!("unikernel: callback to {} failed, attempt {attempt} of {ATTEMPTS}", callback.server);
        self.state = match attempt {
            ATTEMPTS => State::Over,
            _ => State::Pausing { callback, attempt, until: now + (PAUSE << attempt) },
        };
    }
}
