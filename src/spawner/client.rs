//! The daemon's side of the spawner process.
//!
//! One thread starts that process and exchanges messages with it. The kernel sends the parent-death signal when the
//! *thread* that created a child ends, so this one lives as long as the daemon.

use std::{
    cell::RefCell,
    collections::HashMap,
    env,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream as StdUnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    rc::Rc,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
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
use slog::{Logger, warn};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    runtime::Builder,
    sync::mpsc,
    task::{self, LocalSet},
    time,
};

use super::{
    ARGUMENT, OWN_PROGRAM,
    protocol::{Change, Event, Failure, Invocation, Launch, Request, STANDARD, at, receive, send},
};
use crate::state::SessionLeader;

/// The longest wait for the end of the spawner process, which waits for killed children.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The path of the daemon's program, and its device and inode at the start of the daemon.
static PROGRAM: LazyLock<Option<(PathBuf, (u64, u64))>> = LazyLock::new(|| {
    let path = env::current_exe().ok()?;
    let file = fs::metadata(&path).ok()?;
    Some((path, (file.dev(), file.ino())))
});

/// Starts child processes. Clones share it; the last one kills the remaining children and ends the spawner process.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    messages: mpsc::UnboundedSender<Message>,
    next_id: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A child process. Dropping it kills its process group.
#[derive(Debug)]
pub struct Child {
    id: u64,
    messages: mpsc::UnboundedSender<Message>,
    changes: mpsc::UnboundedReceiver<Change>,
}

enum Message {
    Start { id: u64, launch: Box<Launch>, standard: [OwnedFd; STANDARD], changes: mpsc::UnboundedSender<Change> },
    Signal { id: u64, signal: Signal },
    End,
}

impl Spawner {
    /// Starts the spawner process, with the network and cgroups of the calling thread.
    ///
    /// # Errors
    /// When the host has no more threads, processes or open files.
    pub fn new(log: &Logger) -> io::Result<Self> {
        let (messages, queue) = mpsc::unbounded_channel();
        let (ready, is_ready) = std_mpsc::sync_channel(1);
        let log = log.clone();
        let work = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            LocalSet::new().block_on(&runtime, async {
                match Connection::open(&log) {
                    Ok(connection) => {
                        let _ = ready.send(Ok(()));
                        exchange(connection, queue, &log).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(work)?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self(Arc::new(Inner { messages, next_id: AtomicU64::default(), thread: Mutex::new(Some(thread)) })))
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

    /// Runs a program of the host to its end, with `input` as its standard input. Blocks the calling thread.
    ///
    /// # Errors
    /// If it cannot be started, or its input or output fail.
    pub fn output_blocking(&self, program: &str, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
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
        let launch = Launch { invocation, directory: "/".into(), confinement: None };
        let mut child = self.start(launch, [stdin.into(), stdout.try_clone()?.into(), stderr.try_clone()?.into()]);
        let status = futures::executor::block_on(async {
            let started = async {
                child.created().await?;
                child.executed().await
            };
            started.await.map_err(|failure| io::Error::from_raw_os_error(failure.errno))?;
            child.wait().await
        })?;
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
        // Children may still have the channel.
        let _ = self.messages.send(Message::End);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // A panic was reported by its hook.
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Child {
    /// Waits until the child exists.
    ///
    /// # Errors
    /// If it could not be created. Nothing is left of it.
    pub async fn created(&mut self) -> Result<SessionLeader, Failure> {
        match self.changes.recv().await {
            Some(Change::Created(leader)) => Ok(leader),
            other => Err(failure(other)),
        }
    }

    /// Waits until the child, which exists, has executed its program.
    ///
    /// # Errors
    /// Names the step that failed. Nothing is left of the child.
    pub async fn executed(&mut self) -> Result<(), Failure> {
        match self.changes.recv().await {
            Some(Change::Executed) => Ok(()),
            other => Err(failure(other)),
        }
    }

    /// Waits until the child, which has executed its program, is reaped. Cancel-safe.
    ///
    /// # Errors
    /// If the spawner process has ended, and with it the child.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.changes.recv().await {
            Some(Change::Exited(status)) => Ok(ExitStatus::from_raw(status)),
            _ => Err(io::Error::other("the spawner process has ended")),
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

/// Returns the failure of a start. `None`: the spawner process has ended.
fn failure(change: Option<Change>) -> Failure {
    match change {
        Some(Change::Failed(failure)) => failure,
        _ => at(ARGUMENT)(nix::errno::Errno::ECONNRESET),
    }
}

/// A spawner process, and the task that reads its events. The process ends once this is dropped.
struct Connection {
    writer: OwnedWriteHalf,
    children: Children,
    reader: task::JoinHandle<()>,
}

/// The receivers of changes. `None` once the spawner process has ended.
type Children = Rc<RefCell<Option<HashMap<u64, mpsc::UnboundedSender<Change>>>>>;

/// Passes messages on to the spawner process, and starts another one if it has ended.
async fn exchange(mut connection: Connection, mut queue: mpsc::UnboundedReceiver<Message>, log: &Logger) {
    while let Some(message) = queue.recv().await {
        match message {
            Message::Start { id, launch, standard, changes } => {
                if connection.children.borrow().is_none() {
                    match Connection::open(log) {
                        Ok(opened) => connection = opened,
                        Err(error) => {
                            let _ = changes.send(Change::Failed(at(ARGUMENT)(error)));
                            continue;
                        }
                    }
                }
                connection.start(id, launch, standard, changes).await;
            }
            Message::Signal { id, signal } => {
                // After an error, the children die with their spawner.
                let _ = send(&mut connection.writer, &Request::Signal { id, signal: signal as i32 }, &[]).await;
            }
            Message::End => break,
        }
    }
    let Connection { writer, children, reader } = connection;
    // They are killed on purpose, which is not logged.
    children.take();
    drop(writer);
    let _ = time::timeout(EXIT_TIMEOUT, reader).await;
}

impl Connection {
    /// Starts a spawner process. It has a process group of its own, which signals of a terminal do not reach.
    fn open(log: &Logger) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let same = |file: fs::Metadata, identity| (file.dev(), file.ino()) == identity;
        let path =
            PROGRAM.as_ref().filter(|(path, identity)| fs::metadata(path).is_ok_and(|file| same(file, *identity)));
        let mut command = Command::new(path.map_or_else(|| OWN_PROGRAM.into(), |(path, _)| path.clone()));
        command.arg0("unifaas").arg(ARGUMENT).env_clear().process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn()?;
        // The command has the other end of the socket, too.
        drop(command);
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let (children, log) = (Rc::new(RefCell::new(Some(HashMap::new()))), log.clone());
        let table: Children = children.clone();
        let reader = task::spawn_local(async move {
            let result = read_events(reader, &table).await;
            let lost = table.take().map_or(0, |children| children.len());
            if let Err(error) = &result {
                // It may still run.
                let _ = process.start_kill();
                warn!(log, "the spawner process sends what is no event"; "error" => %error);
            }
            let status = process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            if lost > 0 || status != "exit status: 0" {
                warn!(log, "the spawner process has ended, and with it all processes that it had started: the next \
                    start of a process starts another one"; "status" => status, "processes" => lost);
            }
        });
        Ok(Self { writer, children, reader })
    }

    async fn start(
        &mut self,
        id: u64,
        launch: Box<Launch>,
        standard: [OwnedFd; STANDARD],
        changes: mpsc::UnboundedSender<Change>,
    ) {
        self.children.borrow_mut().as_mut().map(|children| children.insert(id, changes.clone()));
        let descriptors = standard.each_ref().map(AsFd::as_fd);
        if let Err(error) = send(&mut self.writer, &Request::Start { id, launch }, &descriptors).await {
            self.children.borrow_mut().as_mut().map(|children| children.remove(&id));
            let _ = changes.send(Change::Failed(at(ARGUMENT)(error)));
        }
    }
}

/// Passes events on until the spawner process ends.
async fn read_events(mut reader: OwnedReadHalf, children: &Children) -> io::Result<()> {
    while let Some((Event { id, change }, _)) = receive(&mut reader).await? {
        let mut children = children.borrow_mut();
        let Some(children) = children.as_mut() else { return Ok(()) };
        let is_last = matches!(change, Change::Failed(_) | Change::Exited(_));
        let child = if is_last { children.remove(&id) } else { children.get(&id).cloned() };
        // The receiver may be gone.
        let _ = child.map(|child| child.send(change));
    }
    Ok(())
}
