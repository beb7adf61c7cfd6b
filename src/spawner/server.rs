//! The spawner process: forks children, watches them until they are reaped, and kills them when the daemon ends.
//!
//! It has one thread, so that a forked child may run ordinary code, and few pages, so that fork is cheap. Its descriptors
//! are those of the socket to the daemon; those of a child are closed before the next one is forked.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{self, SigSet, Signal},
    },
    unistd::{self, Pid},
};
use rustix::process::{WaitOptions, wait};
use tokio::{
    io::AsyncReadExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe},
    },
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::{self, LocalSet},
    time,
};

use super::{
    confinement,
    protocol::{Change, Event, Failure, Launch, Request, STANDARD, at, receive, send},
};
use crate::{
    state::{self, SessionLeader},
    syscalls::SingleThread,
};

/// The longest wait for killed children when the daemon ends.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Other processes of its user may stop a child before it executes its program. It is checked this often, and continued
/// until it has been stopped `MAX_STOPS` times.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);
const MAX_STOPS: u32 = 5;

/// Serves the daemon at the other end of standard input until it ends.
pub fn run() -> ExitCode {
    // An error closes the socket, which the daemon logs.
    serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn serve() -> io::Result<()> {
    let single = SingleThread::check()?;
    // The socket tells the same, except to a process that is stopped.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Signals of the service manager are the daemon's.
    let mut blocked = SigSet::all();
    blocked.remove(Signal::SIGCHLD);
    blocked.thread_set_mask()?;
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let (events, queue) = mpsc::unbounded_channel();
        let server = Server { single, events, children: Rc::default() };
        let mut ended = signal(SignalKind::child())?;
        let children = server.children.clone();
        task::spawn_local(async move {
            while ended.recv().await.is_some() {
                children.borrow_mut().reap();
            }
        });
        task::spawn_local(write_events(writer, queue));
        let result = server.serve(reader).await;
        server.kill_all().await;
        result
    })
}

struct Server {
    single: SingleThread,
    events: mpsc::UnboundedSender<Event>,
    children: Rc<RefCell<Children>>,
}

/// The children that have not been reaped. Only these are signaled: no signal reaches a reused PID.
#[derive(Default)]
struct Children {
    pids: HashMap<u64, i32>,
    /// By PID, with the receiver of the status.
    by_pid: HashMap<i32, (u64, oneshot::Sender<i32>)>,
}

impl Server {
    async fn serve(&self, mut reader: OwnedReadHalf) -> io::Result<()> {
        while let Some((request, descriptors)) = receive(&mut reader).await? {
            match request {
                Request::Start { id, launch } => {
                    if let Err(failure) = self.start(id, *launch, descriptors) {
                        let _ = self.events.send(Event { id, change: Change::Failed(failure) });
                    }
                    // Events are written between two starts.
                    task::yield_now().await;
                }
                Request::Signal { id, signal } => self.children.borrow().signal(id, signal),
            }
        }
        Ok(())
    }

    /// Forks a child, which executes its program after the confinement.
    fn start(&self, id: u64, launch: Launch, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        // The kernel passes fewer descriptors at the limit of open files.
        let standard: [OwnedFd; STANDARD] = descriptors.try_into().map_err(|_| at("recvmsg")(Errno::EMFILE))?;
        let (report, writer) = io::pipe().map_err(at("pipe"))?;
        let report = pipe::Receiver::from_owned_fd(report.into()).map_err(at("pipe"))?;
        let spawner = unistd::getpid();
        // The kernel notes start times by the same clock. To ask it for one takes longer.
        let after = state::boot_clock();
        let child = || {
            let Err(failure) = confinement::execute(launch, standard, spawner);
            let _ = serde_json::to_writer(File::from(OwnedFd::from(writer)), &failure);
        };
        let pid = self.single.fork(child).map_err(at("fork"))?;
        let leader = SessionLeader { pid: pid.as_raw(), after, before: state::boot_clock() };
        let _ = self.events.send(Event { id, change: Change::Created(leader) });
        let status = self.children.borrow_mut().insert(id, pid);
        task::spawn_local(watch(id, pid, report, status, self.events.clone(), self.children.clone()));
        Ok(())
    }

    /// Kills all children, and waits a moment until they are reaped.
    async fn kill_all(&self) {
        let ids: Vec<u64> = self.children.borrow().pids.keys().copied().collect();
        ids.into_iter().for_each(|id| self.children.borrow().signal(id, Signal::SIGKILL as i32));
        let reaped = async {
            while !self.children.borrow().pids.is_empty() {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = time::timeout(EXIT_TIMEOUT, reaped).await;
    }
}

impl Children {
    fn insert(&mut self, id: u64, pid: Pid) -> oneshot::Receiver<i32> {
        let (exited, status) = oneshot::channel();
        self.pids.insert(id, pid.as_raw());
        self.by_pid.insert(pid.as_raw(), (id, exited));
        status
    }

    fn signal(&self, id: u64, signal: i32) {
        let Some(pid) = self.pids.get(&id).copied().map(Pid::from_raw) else { return };
        let Ok(signal) = Signal::try_from(signal) else { return };
        // Before its setsid, a child has no group of its own.
        let _ = signal::killpg(pid, signal).or_else(|_| signal::kill(pid, signal));
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some((id, exited)) = self.by_pid.remove(&pid.as_raw_nonzero().get()) {
                self.pids.remove(&id);
                // The receiver lives until it has the status.
                let _ = exited.send(status.as_raw());
            }
        }
    }
}

/// Reports the changes of a child.
async fn watch(
    id: u64,
    pid: Pid,
    report: pipe::Receiver,
    status: oneshot::Receiver<i32>,
    events: mpsc::UnboundedSender<Event>,
    children: Rc<RefCell<Children>>,
) {
    let executed = executed(report, pid).await;
    if executed.is_ok() {
        let _ = events.send(Event { id, change: Change::Executed });
    } else {
        children.borrow().signal(id, Signal::SIGKILL as i32);
    }
    // The sender is in the table until then.
    let status = status.await.unwrap_or_default();
    let change = executed.map_or_else(Change::Failed, |()| Change::Exited(status));
    let _ = events.send(Event { id, change });
}

/// Waits until the child has executed its program, which closes `report`.
async fn executed(mut report: pipe::Receiver, pid: Pid) -> Result<(), Failure> {
    let mut failure = Vec::new();
    let mut stops = 0;
    {
        let mut read = pin!(report.read_to_end(&mut failure));
        loop {
            if let Ok(read) = time::timeout(STOP_CHECK_INTERVAL, read.as_mut()).await {
                read.map_err(at("report"))?;
                break;
            }
            if state::is_stopped(pid.as_raw()) {
                stops += 1;
                if stops == MAX_STOPS {
                    return Err(at("another process stopped it before it executed its program")(Errno::ETIMEDOUT));
                }
                let _ = signal::kill(pid, Signal::SIGCONT);
            }
        }
    }
    if failure.is_empty() {
        return Ok(());
    }
    Err(serde_json::from_slice(&failure).unwrap_or_else(|_| at("report")(Errno::EINVAL)))
}

async fn write_events(mut writer: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = queue.recv().await {
        // After an error, the other end is closed: `serve` ends.
        if send(&mut writer, &event, &[]).await.is_err() {
            return;
        }
    }
}
