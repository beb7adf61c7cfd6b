//! The spawner process: creates children, watches them until they are reaped, and kills them when the daemon ends.
//!
//! Its descriptors are those of the socket to the daemon and of new children's reports. It blocks all signals, which keeps
//! them from new children, and reads SIGCHLD from a descriptor.

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        prctl,
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use rustix::process::{WaitOptions, wait};
use tokio::time::Instant;

use super::protocol::{Change, Event, Failure, Request, encode, receive_blocking};
use crate::{
    state::{self, SessionLeader},
    syscalls::{self, Failed, Launch, NewChild, STANDARD, Step},
};

/// The longest wait for killed children when the daemon ends.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Other processes of its user may stop a child before it executes its program. It is continued, and in the end killed.
const MAX_STOPS: u32 = 10;

/// The data of epoll for the socket and for signals. Ids of children are below.
const REQUESTS: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;

/// Serves the daemon at the other end of standard input until it ends.
pub fn run() -> ExitCode {
    // An error closes the socket, which the daemon logs.
    serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn serve() -> io::Result<()> {
    // The socket tells the same, except to a process that is stopped.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    syscalls::reset_signals();
    // Those of the service manager are the daemon's.
    SigSet::all().thread_set_mask()?;
    syscalls::close_others_at_exec();
    let mut server = Server::new()?;
    let result = server.serve();
    server.kill_all()?;
    result
}

struct Server {
    socket: UnixStream,
    signals: SignalFd,
    epoll: Epoll,
    /// Those that have not been reaped. Only these are signaled: no signal reaches a reused PID.
    children: HashMap<u64, Child>,
    ids: HashMap<i32, u64>,
    /// Events that are to be sent.
    events: Vec<u8>,
}

struct Child {
    pid: Pid,
    state: State,
}

enum State {
    /// It has not executed its program. Other processes have stopped it `stops` times.
    New { child: NewChild, leader: SessionLeader, stops: u32 },
    /// Its start has failed, and it was killed.
    Failed(Failure),
    /// It has executed its program.
    Started,
}

impl Server {
    fn new() -> io::Result<Self> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut ended = SigSet::empty();
        ended.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, REQUESTS))?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(Self { socket, signals, epoll, children: HashMap::new(), ids: HashMap::new(), events: Vec::new() })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            for source in self.wait(EpollTimeout::NONE)? {
                match source {
                    REQUESTS => {
                        let Some((request, descriptors)) = receive_blocking(&mut self.socket)? else { return Ok(()) };
                        self.carry_out(request, descriptors)?;
                    }
                    SIGNALS => self.reap()?,
                    id => self.check_start(id)?,
                }
            }
            self.socket.write_all(&self.events)?;
            self.events.clear();
        }
    }

    /// Returns the data of descriptors that have become readable.
    fn wait(&self, timeout: EpollTimeout) -> io::Result<impl Iterator<Item = u64> + use<>> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, timeout) {
            // It was stopped and continued.
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        Ok(events.into_iter().take(count).map(|event| event.data()))
    }

    fn carry_out(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            Request::Start { id, launch } => match self.start(id, *launch, descriptors) {
                Ok(()) => Ok(()),
                Err(failed) => self.report(id, Change::Failed(failed.into())),
            },
            Request::Signal { id, signal } => {
                let signal = Signal::try_from(signal).map_err(io::Error::from)?;
                self.children.get(&id).into_iter().for_each(|child| child.signal(signal));
                Ok(())
            }
        }
    }

    fn start(&mut self, id: u64, launch: Launch, descriptors: Vec<OwnedFd>) -> Result<(), Failed> {
        // The kernel passes fewer descriptors at the limit of open files.
        let standard: [OwnedFd; STANDARD] =
            descriptors.try_into().map_err(|_| Failed::at(Step::Descriptors)(Errno::EMFILE))?;
        // The kernel notes start times by the same clock. To ask it for one takes longer.
        let after = state::boot_clock();
        let child = launch.start(standard)?;
        let pid = child.pid;
        let leader = SessionLeader { pid: pid.as_raw(), after, before: state::boot_clock() };
        let added = self.epoll.add(&child, EpollEvent::new(EpollFlags::EPOLLIN, id));
        let mut child = Child { pid, state: State::New { child, leader, stops: 0 } };
        if let Err(error) = added {
            child.fail(Failed::at(Step::Descriptors)(error).into());
        }
        self.children.insert(id, child);
        self.ids.insert(pid.as_raw(), id);
        Ok(())
    }

    /// Checks how far the start of a child is.
    fn check_start(&mut self, id: u64) -> io::Result<()> {
        let Some(child) = self.children.get_mut(&id) else { return Ok(()) };
        let State::New { child: new, leader, stops } = &mut child.state else { return Ok(()) };
        let Some(outcome) = new.outcome() else { return Ok(()) };
        // Other new children have copies of the descriptor: it would remain.
        self.epoll.delete(&*new)?;
        let (leader, stops) = (*leader, *stops);
        match outcome {
            Ok(()) if stops < MAX_STOPS => {
                child.state = State::Started;
                self.report(id, Change::Started(leader))?;
            }
            Ok(()) => child.fail(Failure::Stopped(stops)),
            Err(failed) => child.fail(failed.into()),
        }
        Ok(())
    }

    /// Reaps children that have ended, and continues new ones that were stopped.
    fn reap(&mut self) -> io::Result<()> {
        // One signal stands for all that came meanwhile.
        self.signals.read_signal()?;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let pid = pid.as_raw_pid();
            let Some(id) = self.ids.get(&pid).copied() else { continue };
            self.check_start(id)?;
            if status.stopped() {
                self.children.get_mut(&id).into_iter().for_each(Child::resume);
                continue;
            }
            self.ids.remove(&pid);
            match self.children.remove(&id).map(|child| child.state) {
                Some(State::Failed(failure)) => self.report(id, Change::Failed(failure))?,
                Some(_) => self.report(id, Change::Exited(status.as_raw()))?,
                None => {}
            }
        }
        Ok(())
    }

    fn report(&mut self, id: u64, change: Change) -> io::Result<()> {
        self.events = encode(&Event { id, change }, mem::take(&mut self.events))?;
        Ok(())
    }

    /// Kills all children, and waits a moment until they are reaped.
    fn kill_all(&mut self) -> io::Result<()> {
        self.epoll.delete(&self.socket)?;
        self.children.values().for_each(|child| child.signal(Signal::SIGKILL));
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !self.children.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = self.wait(EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO))?;
            self.reap()?;
        }
        Ok(())
    }
}

impl Child {
    fn signal(&self, signal: Signal) {
        // Before its setsid, a child has no group of its own.
        let _ = signal::killpg(self.pid, signal).or_else(|_| signal::kill(self.pid, signal));
    }

    /// Kills a child whose start has failed. It may be about to exit, or stopped.
    fn fail(&mut self, failure: Failure) {
        self.state = State::Failed(failure);
        self.signal(Signal::SIGKILL);
    }

    /// Continues a child that was stopped before it has executed its program, or kills it.
    fn resume(&mut self) {
        if let State::New { stops, .. } = &mut self.state {
            *stops += 1;
            let signal = if *stops < MAX_STOPS { Signal::SIGCONT } else { Signal::SIGKILL };
            let _ = signal::kill(self.pid, signal);
        }
    }
}
