//! One connection of the HTTP server: head, body, answer, and the next request; or back to listening.
//!
//! A request is begun only when there is room for any answer but an echo, so only echoes have to wait while they send.

use core::{
    fmt::Write,
    mem,
    net::{Ipv4Addr, SocketAddrV4},
};

use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{Socket, State},
};
use unikernel::{
    function::{self, Answer},
    http::{Body, HeadEnd, Request},
    text::Text,
};

use crate::{
    power,
    probe::Probe,
    response::{self, ANSWER, Manner, respond, room},
    sockets::Turn,
};

const PORT: u16 = 8080;
const HEAD_LIMIT: usize = 8 * 1024;
/// How long the client may take to close, or to take the last answer, in microseconds.
const CLOSE_TIMEOUT: u64 = 2_000_000;

/// Memory for a request head.
pub struct Head([u8; HEAD_LIMIT]);

impl Head {
    /// Without any.
    pub const EMPTY: Self = Self([0; HEAD_LIMIT]);
}

/// A connection, or the wait for one.
pub struct Connection {
    socket: SocketHandle,
    head: &'static mut Head,
    phase: Phase,
}

enum Phase {
    /// So much of a head is there.
    Head { filled: usize, end: HeadEnd },
    /// The head has been understood; the body is coming.
    Body { body: Body, answer: Answer, manner: Manner },
    /// The answer depends on a probe.
    Probing { server: SocketAddrV4, manner: Manner },
    /// Everything has been said.
    Closing { until: u64 },
    /// Everything has been said, and the machine is to be switched off.
    Ending { until: u64 },
}

impl Phase {
    const BEGIN: Self = Self::Head { filled: 0, end: HeadEnd::new() };
}

/// The phase that follows: at once, or after something else has happened.
enum Next {
    Go(Phase),
    Wait(Phase),
}

impl Connection {
    /// On a socket of its own; it begins to listen with the first step.
    pub fn new(socket: SocketHandle, head: &'static mut Head) -> Self {
        Self { socket, head, phase: Phase::BEGIN }
    }

    /// Whether it waits for a client.
    pub fn is_listening(&self, turn: &mut Turn<'_>) -> bool {
        turn.socket(self.socket).state() == State::Listen
    }

    /// Gets on as far as possible. `address` is the guest's own.
    pub fn step(&mut self, turn: &mut Turn<'_>, probe: &mut Probe, address: Ipv4Addr) {
        match turn.socket(self.socket).state() {
            State::Closed | State::TimeWait => {
                if matches!(self.phase, Phase::Ending { .. }) {
                    power::off();
                }
                probe.forget(self.socket);
                self.phase = Phase::BEGIN;
                turn.listen(self.socket, PORT);
            }
            State::Listen | State::SynReceived => {}
            _ => loop {
                match self.advance(turn, probe, address) {
                    Next::Go(phase) => self.phase = phase,
                    Next::Wait(phase) => {
                        turn.waiting |= matches!(phase, Phase::Closing { .. } | Phase::Ending { .. });
                        self.phase = phase;
                        break;
                    }
                }
            },
        }
    }

    fn advance(&mut self, turn: &mut Turn<'_>, probe: &mut Probe, address: Ipv4Addr) -> Next {
        let now = turn.now;
        let socket = turn.socket(self.socket);
        match mem::replace(&mut self.phase, Phase::BEGIN) {
            Phase::Head { filled, end } => read_head(socket, self.head, filled, end, now),
            Phase::Body { body, answer, manner } if body.is_done() => finish(socket, answer, manner, address, now),
            Phase::Body { mut body, answer, manner } => {
                match response::transfer(socket, &mut body, matches!(answer, Answer::Echo)) {
                    Ok(true) => Next::Go(Phase::Body { body, answer, manner }),
                    Ok(false) => Next::Wait(Phase::Body { body, answer, manner }),
                    Err(response::Broken) => abandon(turn, self.socket),
                }
            }
            Phase::Probing { server, manner } => match probe.ask(self.socket, server, turn) {
                Some(outcome) => {
                    let mut text = Text::<32>::new();
                    let _ = writeln!(text, "{outcome}");
                    let socket = turn.socket(self.socket);
                    respond(socket, "200 OK", text.as_str(), manner);
                    Next::Go(after(socket, manner, now))
                }
                None => Next::Wait(Phase::Probing { server, manner }),
            },
            Phase::Closing { until } => {
                // What still comes is read: unread, it would reset the client before it has read the answer.
                while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
                if now < until { Next::Wait(Phase::Closing { until }) } else { abandon(turn, self.socket) }
            }
            Phase::Ending { until } => {
                if socket.send_queue() == 0 || now >= until {
                    power::off();
                }
                Next::Wait(Phase::Ending { until })
            }
        }
    }
}

/// Reads more of a head; decides about the request once it is whole.
fn read_head(socket: &mut Socket<'_>, Head(head): &mut Head, filled: usize, mut end: HeadEnd, now: u64) -> Next {
    if room(socket) < ANSWER || !socket.can_recv() && socket.may_recv() {
        return Next::Wait(Phase::Head { filled, end });
    }
    let read = socket.recv(|bytes| {
        let (length, ended) = end.find(bytes);
        let room = head.get_mut(filled..filled + length).map(|room| room.copy_from_slice(&bytes[..length]));
        (length, room.map(|()| (filled + length, ended)))
    });
    let refusal = Manner { keep_alive: false, with_text: true };
    match read {
        // The client is through.
        Err(_) => Next::Go(close(socket, now)),
        Ok(None) => {
            respond(socket, "431 Request Header Fields Too Large", "the head is too long\n", refusal);
            Next::Go(close(socket, now))
        }
        Ok(Some((filled, false))) => Next::Go(Phase::Head { filled, end }),
        Ok(Some((filled, true))) => match Request::parse(&head[..filled]) {
            Ok(request) => Next::Go(begin(socket, request)),
            Err(why) => {
                let mut text = Text::<128>::new();
                let _ = writeln!(text, "{why}");
                respond(socket, "400 Bad Request", text.as_str(), refusal);
                Next::Go(close(socket, now))
            }
        },
    }
}

fn begin(socket: &mut Socket<'_>, request: Request<'_>) -> Phase {
    let answer = function::answer(&request);
    let manner = Manner { keep_alive: request.keep_alive, with_text: request.method != "HEAD" };
    if request.expects_continue && !request.body.is_done() {
        response::ask_for_body(socket);
    }
    if matches!(answer, Answer::Echo) {
        response::begin_echo(socket, &request.body, manner);
    }
    Phase::Body { body: request.body, answer, manner }
}

/// Answers, now that the body has been read.
fn finish(socket: &mut Socket<'_>, answer: Answer, manner: Manner, address: Ipv4Addr, now: u64) -> Next {
    Next::Go(match answer {
        Answer::Echo => after(socket, manner, now),
        Answer::Probe(server) => Phase::Probing { server, manner },
        Answer::Say(status, text) => {
            respond(socket, status, text, manner);
            after(socket, manner, now)
        }
        Answer::Greet => {
            let mut text = Text::new();
            function::greet(&mut text, address);
            respond(socket, "200 OK", text.as_str(), manner);
            after(socket, manner, now)
        }
        Answer::Crash => power::triple_fault(),
        Answer::End => {
            respond(socket, "200 OK", "Goodbye\n", Manner { keep_alive: false, ..manner });
            socket.close();
            Phase::Ending { until: now + CLOSE_TIMEOUT }
        }
    })
}

/// What follows an answer.
fn after(socket: &mut Socket<'_>, manner: Manner, now: u64) -> Phase {
    if manner.keep_alive { Phase::BEGIN } else { close(socket, now) }
}

fn close(socket: &mut Socket<'_>, now: u64) -> Phase {
    socket.close();
    Phase::Closing { until: now + CLOSE_TIMEOUT }
}

/// Resets the connection; once that has been sent, the socket listens again.
fn abandon(turn: &mut Turn<'_>, socket: SocketHandle) -> Next {
    turn.socket(socket).abort();
    turn.again = true;
    Next::Wait(Phase::BEGIN)
}
