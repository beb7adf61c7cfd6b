//! One connection of the HTTP server: head, body, response, and then the next request, or listening again.
//!
//! A request is read only if the send buffer has room for any response except an echo. So only echoes wait while they send.

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
    work::{Progress, Work},
};

use crate::{
    power,
    probe::Probe,
    response::{self, ANSWER, ResponseOptions, respond, room},
    sockets::Turn,
};

const PORT: u16 = 8080;
const MAX_HEAD: usize = 8 * 1024;
/// How long the client may take to read the last response and close, in microseconds.
const CLOSE_TIMEOUT: u64 = 2_000_000;
/// How long a client may take to close a connection that waited for a request, in microseconds.
const HANG_UP_TIMEOUT: u64 = 50_000;

/// Memory for a request head.
pub struct Head([u8; MAX_HEAD]);

impl Head {
    /// An empty head.
    pub const EMPTY: Self = Self([0; MAX_HEAD]);
}

/// A connection, or a socket that listens for one.
pub struct Connection {
    socket: SocketHandle,
    head: &'static mut Head,
    phase: Phase,
    /// When it last received or sent something, in microseconds since boot.
    used: u64,
}

enum Phase {
    /// The head is being received.
    Head { filled: usize, end: HeadEnd },
    /// The head is parsed, and the body is being received.
    Body { body: Body, answer: Answer, options: ResponseOptions },
    /// A probe runs whose outcome is the response.
    Probing { server: SocketAddrV4, options: ResponseOptions },
    /// Work is being done, since a time.
    Working { work: Work, since: u64, options: ResponseOptions },
    /// A body is being sent, of which so many bytes are left.
    Sending { left: u64, options: ResponseOptions },
    /// The response is sent, and the connection is closing.
    Closing { until: u64 },
    /// The response is sent, and the machine will be switched off.
    Ending { until: u64 },
}

impl Phase {
    const BEGIN: Self = Self::Head { filled: 0, end: HeadEnd::new() };
}

/// The next phase, entered at once or in a later step.
enum Next {
    Go(Phase),
    Wait(Phase),
}

impl Connection {
    /// Creates a connection on its own socket, which listens from the first step on.
    pub fn new(socket: SocketHandle, head: &'static mut Head) -> Self {
        Self { socket, head, phase: Phase::BEGIN, used: 0 }
    }

    /// Returns whether the socket listens.
    pub fn is_listening(&self, turn: &mut Turn<'_>) -> bool {
        turn.socket(self.socket).state() == State::Listen
    }

    /// Returns whether it ends, and its socket will listen again.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Returns since when it waits for a request. `None`: it does not.
    pub fn idle_since(&self, turn: &mut Turn<'_>) -> Option<u64> {
        let socket = turn.socket(self.socket);
        let is_idle = matches!(self.phase, Phase::Head { filled: 0, .. }) && socket.state() == State::Established;
        (is_idle && !socket.can_recv()).then_some(self.used)
    }

    /// Closes the connection, which waits for a request.
    pub fn hang_up(&mut self, turn: &mut Turn<'_>) {
        turn.socket(self.socket).close();
        turn.waiting = true;
        self.phase = Phase::Closing { until: turn.now + HANG_UP_TIMEOUT };
    }

    /// Advances the connection as far as possible. `address` is the guest's own.
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
            State::Listen | State::SynReceived => self.used = turn.now,
            _ => loop {
                match self.advance(turn, probe, address) {
                    Next::Go(phase) => (self.phase, self.used) = (phase, turn.now),
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
            Phase::Head { filled, end } => {
                let memory = turn.memory.len();
                read_head(turn.socket(self.socket), self.head, filled, end, now, memory)
            }
            Phase::Body { body, answer, options } if body.is_done() => finish(socket, answer, options, address, now),
            Phase::Body { mut body, answer, options } => {
                match response::transfer(socket, &mut body, matches!(answer, Answer::Echo)) {
                    Ok(true) => Next::Go(Phase::Body { body, answer, options }),
                    Ok(false) => Next::Wait(Phase::Body { body, answer, options }),
                    Err(response::Broken) => abandon(turn, self.socket),
                }
            }
            Phase::Probing { server, options } => match probe.ask(self.socket, server, turn) {
                Some(outcome) => {
                    let mut text = Text::<32>::new();
                    let _ = writeln!(text, "{outcome}");
                    let socket = turn.socket(self.socket);
                    respond(socket, "200 OK", text.as_str(), options);
                    Next::Go(after(socket, options, now))
                }
                None => Next::Wait(Phase::Probing { server, options }),
            },
            Phase::Working { mut work, since, options } => {
                let elapsed = turn.clock.restart() - since;
                match work.step(elapsed, turn.memory) {
                    Progress::More => {
                        turn.again = true;
                        return Next::Wait(Phase::Working { work, since, options });
                    }
                    Progress::Done(number) => {
                        let elapsed = turn.clock.now() - since;
                        response::result(turn.socket(self.socket), number, elapsed, options);
                    }
                    Progress::Wrong => {
                        let status = "500 Internal Server Error";
                        respond(turn.socket(self.socket), status, "the result is wrong\n", options);
                    }
                }
                Next::Go(after(turn.socket(self.socket), options, now))
            }
            // What is not acknowledged for too long ends the connection.
            Phase::Sending { left: 0, options } => Next::Go(after(socket, options, now)),
            Phase::Sending { left, options } => match response::fill(socket, left) {
                same if same == left => Next::Wait(Phase::Sending { left, options }),
                left => Next::Go(Phase::Sending { left, options }),
            },
            Phase::Closing { until } => {
                // Lingering close: unread input would reset the connection before the client has read the response.
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

/// Reads more of a head, and starts the request once it is complete.
fn read_head(
    socket: &mut Socket<'_>,
    Head(head): &mut Head,
    filled: usize,
    mut end: HeadEnd,
    now: u64,
    memory: usize,
) -> Next {
    if room(socket) < ANSWER || !socket.can_recv() && socket.may_recv() {
        return Next::Wait(Phase::Head { filled, end });
    }
    let read = socket.recv(|bytes| {
        let (length, ended) = end.find(bytes);
        let room = head.get_mut(filled..filled + length).map(|room| room.copy_from_slice(&bytes[..length]));
        (length, room.map(|()| (filled + length, ended)))
    });
    let refusal = ResponseOptions { keep_alive: false, with_text: true };
    match read {
        // The client has closed the connection.
        Err(_) => Next::Go(close(socket, now)),
        Ok(None) => {
            respond(socket, "431 Request Header Fields Too Large", "the head is too long\n", refusal);
            Next::Go(close(socket, now))
        }
        Ok(Some((filled, false))) => Next::Go(Phase::Head { filled, end }),
        Ok(Some((filled, true))) => match Request::parse(&head[..filled]) {
            Ok(request) => Next::Go(begin(socket, request, memory)),
            Err(why) => {
                let mut text = Text::<128>::new();
                let _ = writeln!(text, "{why}");
                respond(socket, "400 Bad Request", text.as_str(), refusal);
                Next::Go(close(socket, now))
            }
        },
    }
}

fn begin(socket: &mut Socket<'_>, request: Request<'_>, memory: usize) -> Phase {
    let answer = function::answer(&request, memory);
    let options = ResponseOptions { keep_alive: request.keep_alive, with_text: request.method != "HEAD" };
    if request.expects_continue && !request.body.is_done() {
        response::ask_for_body(socket);
    }
    if matches!(answer, Answer::Echo) {
        response::begin_echo(socket, &request.body, options);
    }
    Phase::Body { body: request.body, answer, options }
}

/// Sends the response once the body has been read.
fn finish(socket: &mut Socket<'_>, answer: Answer, options: ResponseOptions, address: Ipv4Addr, now: u64) -> Next {
    Next::Go(match answer {
        Answer::Echo => after(socket, options, now),
        Answer::Probe(server) => Phase::Probing { server, options },
        Answer::Say(status, text) => {
            respond(socket, status, text, options);
            after(socket, options, now)
        }
        Answer::Greet => {
            let mut text = Text::new();
            function::greet(&mut text, address);
            respond(socket, "200 OK", text.as_str(), options);
            after(socket, options, now)
        }
        Answer::Work(work) => Phase::Working { work, since: now, options },
        Answer::Content(bytes) => {
            response::begin_result(socket, bytes, 0, options);
            Phase::Sending { left: bytes, options }
        }
        Answer::Crash => power::triple_fault(),
        Answer::End => {
            respond(socket, "200 OK", "Goodbye\n", ResponseOptions { keep_alive: false, ..options });
            socket.close();
            Phase::Ending { until: now + CLOSE_TIMEOUT }
        }
    })
}

/// Returns the phase after a response.
fn after(socket: &mut Socket<'_>, options: ResponseOptions, now: u64) -> Phase {
    if options.keep_alive { Phase::BEGIN } else { close(socket, now) }
}

fn close(socket: &mut Socket<'_>, now: u64) -> Phase {
    socket.close();
    Phase::Closing { until: now + CLOSE_TIMEOUT }
}

/// Resets the connection. The socket listens again once the reset has been sent.
fn abandon(turn: &mut Turn<'_>, socket: SocketHandle) -> Next {
    turn.socket(socket).abort();
    turn.again = true;
    Next::Wait(Phase::BEGIN)
}
