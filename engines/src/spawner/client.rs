//! What engines use: the spawner and its children. `connection.rs` is the thread behind it.

use std::{
    env,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Output},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    signal::Signal,
};
use slog::Logger;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Invocation,
    connection::{self, Message},
    protocol::{Change, Failure},
};
use crate::{
    state::{JournalEntry, ProcessTree, Resource, SessionLeader, State},
    syscalls::{Launch, Program, STANDARD},
};

/// The longest run of a program of the host whose output is wanted.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts child processes. Clones share it; the last one kills the remaining children and ends the spawner process.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    messages: mpsc::UnboundedSender<Message>,
    next_id: AtomicU64,
    /// `None` once the spawner process has ended.
    lasting: Mutex<Option<Lasting>>,
}

#[derive(Debug)]
struct Lasting {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    record: JournalEntry,
}

/// A child process. Dropping it kills its process group.
#[derive(Debug)]
pub struct Child {
    id: u64,
    messages: mpsc::UnboundedSender<Message>,
    changes: mpsc::UnboundedReceiver<Change>,
}

impl Spawner {
    /// Starts the spawner process, with the network and cgroups of the calling thread.
    ///
    /// It is recorded, and marked as an instance. So the next daemon finds children that have not executed their program,
    /// which have its environment: another process may have stopped one when this daemon was killed.
    ///
    /// # Errors
    /// When it cannot be recorded, or the host has no more threads, processes or open files.
    pub fn new(state: &State, log: &Logger) -> io::Result<Self> {
        let mark = format!("spawner-{}", state.run_id());
        let tree = ProcessTree { instance: mark.clone(), leader: None };
        let record = state.journal.record_blocking(Resource::Process(tree)).map_err(io::Error::other)?;
        let (messages, queue) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (ready, is_ready) = std_mpsc::sync_channel(1);
        let log = log.clone();
        let work = move || connection::run(&mark, &log, queue, ended, &ready);
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(work)?;
        is_ready.recv().map_err(io::Error::other)??;
        let lasting = Mutex::new(Some(Lasting { end, thread, record }));
        Ok(Self(Arc::new(Inner { messages, next_id: AtomicU64::default(), lasting })))
    }

    /// Starts a child with standard input, output and error. Errors are returned by the methods of [`Child`].
    pub fn start(&self, launch: Launch, standard: [OwnedFd; STANDARD]) -> Child {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, changes) = mpsc::unbounded_channel();
        let messages = self.0.messages.clone();
        // The thread lives as long as `self`; if it panicked, the child is lost.
        let _ = messages.send(Message::Start { id, launch: Box::new(launch), standard, changes: sender });
        Child { id, messages, changes }
    }

    /// Runs a program of the host to its end, with `input` as its standard input.
    ///
    /// # Errors
    /// If it cannot be started, or its input or output fail. `TimedOut` if it does not end in time: then it is killed.
    pub async fn output(&self, program: &str, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
        let file = || memfd_create(c"unifaas", MFdFlags::MFD_CLOEXEC).map(File::from);
        let (mut stdin, stdout, stderr) = (file()?, file()?, file()?);
        stdin.write_all(input)?;
        stdin.rewind()?;
        let invocation = Invocation {
            program: program.into(),
            name: program.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            env: env::vars_os().collect(),
        };
        let launch = Launch { program: Program::try_from(&invocation)?, directory: c"/".to_owned(), confinement: None };
        let mut child = self.start(launch, [stdin.into(), stdout.try_clone()?.into(), stderr.try_clone()?.into()]);
        let run = async {
            let started = child.started().await;
            started.map_err(|failure| failure.error().unwrap_or_else(|| io::Error::other(failure)))?;
            child.wait().await
        };
        let status = timeout(OUTPUT_TIMEOUT, run).await.map_err(|_| {
            let why = format!("it has not ended for {} s", OUTPUT_TIMEOUT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, why)
        })??;
        let read = |mut file: File| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Ok(Output { status, stdout: read(stdout)?, stderr: read(stderr)? })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lasting = self.lasting.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Lasting { end, thread, record }) = lasting else { return };
        drop(end);
        // A panic was reported by its hook.
        let _ = thread.join();
        record.remove();
    }
}

impl Child {
    /// Waits until the child has executed its program.
    ///
    /// # Errors
    /// Says why it could not. Nothing is left of the child.
    pub async fn started(&mut self) -> Result<SessionLeader, Failure> {
        match self.changes.recv().await {
            Some(Change::Started(leader)) => Ok(leader),
            Some(Change::Failed(failure)) => Err(failure),
            _ => Err(Failure::SpawnerEnded),
        }
    }

    /// Waits until the child, which has executed its program, is reaped. Cancel-safe.
    ///
    /// # Errors
    /// If the spawner process has ended, and with it the child.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.changes.recv().await {
            Some(Change::Exited(status)) => Ok(ExitStatus::from_raw(status)),
            _ => Err(io::Error::other(Failure::SpawnerEnded)),
        }
    }

    /// Signals the process group of the child, unless the child has been reaped.
    pub fn signal(&self, signal: Signal) {
        let _ = self.messages.send(Message::Signal { id: self.id, signal });
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The thread drops the sender with the last change.
        if !self.changes.is_closed() {
            self.signal(Signal::SIGKILL);
        }
    }
}
