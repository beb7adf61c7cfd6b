//! The thread of the daemon that starts the spawner process, and exchanges messages with it.
//!
//! The kernel sends the parent-death signal when the *thread* that created a child ends, so this one lives as long as the
//! daemon.

use std::{
    cell::RefCell,
    collections::HashMap,
    env, fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream as StdUnixStream},
    },
    path::PathBuf,
    process::Stdio,
    rc::Rc,
    sync::{LazyLock, mpsc as std_mpsc},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::Signal};
use slog::{Logger, warn};
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::{self, LocalSet},
    time,
};

use super::{
    ARGUMENT, OWN_PROGRAM,
    protocol::{Change, Event, Failure, Request, receive, send},
};
use crate::{
    state::MARK,
    syscalls::{Launch, STANDARD},
};

/// The longest wait for the end of the spawner process, which waits for killed children.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The path of the daemon's program, and its device and inode at the start of the daemon.
static PROGRAM: LazyLock<Option<(PathBuf, (u64, u64))>> = LazyLock::new(|| {
    let path = env::current_exe().ok()?;
    let file = fs::metadata(&path).ok()?;
    Some((path, (file.dev(), file.ino())))
});

/// What engines request.
pub enum Message {
    Start { id: u64, launch: Box<Launch>, standard: [OwnedFd; STANDARD], changes: mpsc::UnboundedSender<Change> },
    Signal { id: u64, signal: Signal },
}

/// A spawner process, and the task that reads its events. The process ends once this is dropped.
struct Connection {
    writer: OwnedWriteHalf,
    children: Children,
    reader: task::JoinHandle<()>,
}

/// The receivers of changes. `None` once the spawner process has ended.
type Children = Rc<RefCell<Option<HashMap<u64, mpsc::UnboundedSender<Change>>>>>;

/// Starts the spawner process, passes messages on until `end`, and ends it. `ready` gets the result of its start.
pub fn run(
    mark: &str,
    log: &Logger,
    queue: mpsc::UnboundedReceiver<Message>,
    end: oneshot::Receiver<()>,
    ready: &std_mpsc::SyncSender<io::Result<()>>,
) {
    let work = |runtime| {
        LocalSet::new().block_on(&runtime, async {
            let connection = Connection::open(mark, log)?;
            let _ = ready.send(Ok(()));
            exchange(connection, queue, end, mark, log).await;
            Ok(())
        })
    };
    let result = Builder::new_current_thread().enable_all().build().and_then(work);
    // The receiver is gone after a successful start.
    result.err().into_iter().for_each(|error| drop(ready.send(Err(error))));
}

/// Passes messages on until `end`, and ends the spawner process.
async fn exchange(
    mut connection: Connection,
    queue: mpsc::UnboundedReceiver<Message>,
    end: oneshot::Receiver<()>,
    mark: &str,
    log: &Logger,
) {
    tokio::select! {
        () = pass_on(&mut connection, queue, mark, log) => {}
        // It is waited for also while the process takes no messages.
        _ = end => {}
    }
    let Connection { writer, children, reader } = connection;
    // They are killed on purpose, which is not logged.
    children.take();
    drop(writer);
    let _ = time::timeout(EXIT_TIMEOUT, reader).await;
}

/// Passes messages on to the spawner process, and starts another one if it has ended.
async fn pass_on(connection: &mut Connection, mut queue: mpsc::UnboundedReceiver<Message>, mark: &str, log: &Logger) {
    while let Some(message) = queue.recv().await {
        match message {
            Message::Start { id, launch, standard, changes } => {
                let request = Request::Start { id, launch };
                let mut result = connection.start(&request, id, &standard, &changes).await;
                if result == Err(Failure::SpawnerEnded) {
                    result = match Connection::open(mark, log) {
                        Ok(opened) => {
                            *connection = opened;
                            connection.start(&request, id, &standard, &changes).await
                        }
                        Err(error) => Err(unusable(&error)),
                    };
                }
                // The receiver may be gone.
                result.err().into_iter().for_each(|failure| drop(changes.send(Change::Failed(failure))));
            }
            Message::Signal { id, signal } => {
                // After an error, the children die with their spawner.
                let _ = send(&mut connection.writer, &Request::Signal { id, signal: signal as i32 }, &[]).await;
            }
        }
    }
}

impl Connection {
    /// Starts a spawner process. It has a process group of its own, which signals of a terminal do not reach.
    fn open(mark: &str, log: &Logger) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let same = |file: fs::Metadata, identity| (file.dev(), file.ino()) == identity;
        let path =
            PROGRAM.as_ref().filter(|(path, identity)| fs::metadata(path).is_ok_and(|file| same(file, *identity)));
        let mut command = Command::new(path.map_or_else(|| OWN_PROGRAM.into(), |(path, _)| path.clone()));
        command.arg0("unifaas").arg(ARGUMENT).env_clear().env(MARK, mark).process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn()?;
        // The command has the other end of the socket, too.
        drop(command);
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let (children, log) = (Rc::new(RefCell::new(Some(HashMap::new()))), log.clone());
        let table: Children = children.clone();
        let reader = task::spawn_local(async move {
            let result = read_events(BufReader::new(reader), &table).await;
            let lost = table.take().map_or(0, |children| children.len());
            if let Err(error) = &result {
                // It may still run.
                let _ = process.start_kill();
                // A process that ends before it has read all requests resets its socket.
                if error.kind() != io::ErrorKind::ConnectionReset {
                    warn!(log, "the spawner process sends what is no event"; "error" => %error);
                }
            }
            let status = process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            if lost > 0 || status != "exit status: 0" {
                warn!(log, "the spawner process has ended, and with it all processes that it had started: the next \
                    start of a process starts another one"; "status" => status, "processes" => lost);
            }
        });
        Ok(Self { writer, children, reader })
    }

    /// Requests the start of a child, whose changes go to `changes`.
    async fn start(
        &mut self,
        request: &Request,
        id: u64,
        standard: &[OwnedFd; STANDARD],
        changes: &mpsc::UnboundedSender<Change>,
    ) -> Result<(), Failure> {
        self.children.borrow_mut().as_mut().ok_or(Failure::SpawnerEnded)?.insert(id, changes.clone());
        let sent = send(&mut self.writer, request, &standard.each_ref().map(AsFd::as_fd)).await;
        sent.map_err(|error| {
            self.children.borrow_mut().as_mut().map(|children| children.remove(&id));
            unusable(&error)
        })
    }
}

/// Passes events on until the spawner process ends.
async fn read_events(mut reader: BufReader<OwnedReadHalf>, children: &Children) -> io::Result<()> {
    while let Some(Event { id, change }) = receive(&mut reader).await? {
        let mut children = children.borrow_mut();
        let Some(children) = children.as_mut() else { return Ok(()) };
        let is_last = matches!(change, Change::Failed(_) | Change::Exited(_));
        let child = if is_last { children.remove(&id) } else { children.get(&id).cloned() };
        // The receiver may be gone.
        let _ = child.map(|child| child.send(change));
    }
    Ok(())
}

/// Returns the failure of a start whose request could not be sent.
fn unusable(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Failure::SpawnerEnded,
        _ => Failure::Spawner(error.raw_os_error().unwrap_or(Errno::EIO as i32)),
    }
}
