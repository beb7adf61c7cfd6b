//! The thread that creates child processes, and watches them.
//!
//! A child has a copy of every descriptor in the table of the thread that creates it, until it executes its program; the
//! kernel may close the copies even later. Meanwhile a tap stays busy, a lock held, a port bound, a written file cannot be
//! executed. So this thread has a descriptor table of its own, with nothing of the daemon's. It is one thread that lives as
//! long as the daemon, because the kernel sends the parent-death signal when the *thread* that created a child ends.
//!
//! A descriptor means nothing in the other table. So all that belongs to a child stays on this thread, and no task is ever
//! woken from the other side, for which tokio writes to a descriptor of its runtime: jobs come with a byte on a socket, and
//! a thread of the daemon's table completes the replies.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream as StdUnixStream,
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::SigSet;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use slog::{Logger, warn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::{self, LocalSet},
    time,
};

use crate::syscalls;

/// The longest wait for killed children when the daemon ends.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the socket that are read at once, each of which announces a job.
const MAX_JOBS: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs on the thread. Clones share it; the last one kills the remaining children and ends it.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mailbox: Mailbox,
    replies: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Sends jobs to the thread.
#[derive(Debug, Clone)]
pub struct Mailbox {
    jobs: Sender<Job>,
    bell: Arc<StdUnixStream>,
}

/// Sends the result of a job, by way of a thread of the daemon's descriptor table.
#[derive(Debug)]
pub struct Reply<T: Send + 'static> {
    sender: Option<oneshot::Sender<T>>,
    replies: Sender<Job>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the host has no more threads or open files.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(log: &Logger) -> io::Result<Self> {
        // With SIGCHLD ignored, as it may be inherited, the kernel would drop exit statuses. The handler stays.
        drop(signal(SignalKind::child())?);
        let (bell, ear) = StdUnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let ear = Arc::new(ear);
        let (jobs, queue) = mpsc::channel();
        let (replies, completed) = mpsc::channel::<Job>();
        let complete = move || completed.into_iter().for_each(|reply| reply());
        thread::Builder::new().name("spawner-replies".to_owned()).spawn(complete)?;
        let (ready, is_ready) = mpsc::sync_channel(1);
        let (log, heard) = (log.clone(), ear.clone());
        let work = move || {
            let prepared = isolated_runtime(&heard, &log);
            // `ear` is closed in the daemon's table: its number may mean something else in this one.
            drop(heard);
            match prepared {
                Ok((runtime, ear)) => {
                    let _ = ready.send(Ok(()));
                    work(&runtime, ear, &queue);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(work)?;
        is_ready.recv().map_err(io::Error::other)??;
        let mailbox = Mailbox { jobs, bell: Arc::new(bell) };
        Ok(Self(Arc::new(Inner { mailbox, replies, thread: Mutex::new(Some(thread)) })))
    }

    /// Runs `work` as a task on the thread, even if the result is no longer awaited.
    ///
    /// # Errors
    /// If `work` panics.
    pub async fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.start(work).await.map_err(|_| io::Error::other("the start of a process panicked"))
    }

    /// Runs a program of the host to its end, with `input` as its standard input. Blocks the calling thread.
    ///
    /// # Errors
    /// If it cannot be started, or its input or output fail.
    pub fn output_blocking(&self, command: Command, input: Vec<u8>) -> io::Result<Output> {
        let output = self.start(move || async move {
            let mut command = tokio::process::Command::from(command);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&input).await?;
            }
            child.wait_with_output().await
        });
        futures::executor::block_on(output).map_err(io::Error::other)?
    }

    /// Returns the mailbox, for jobs without a result.
    pub fn mailbox(&self) -> Mailbox {
        self.0.mailbox.clone()
    }

    /// Returns a reply, and its receiver for a thread of the daemon's descriptor table.
    pub fn reply<T: Send + 'static>(&self) -> (Reply<T>, oneshot::Receiver<T>) {
        let (sender, answer) = oneshot::channel();
        (Reply { sender: Some(sender), replies: self.0.replies.clone() }, answer)
    }

    fn start<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> oneshot::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (reply, answer) = self.reply();
        self.0.mailbox.send(move || drop(task::spawn_local(async move { reply.send(work().await) })));
        answer
    }
}

impl Mailbox {
    /// Runs `job` on the thread, within its runtime and `LocalSet`. Drops it if the thread has ended.
    pub fn send(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
        // If the socket is full, the thread is awake.
        let _ = (&*self.bell).write(&[0]);
    }
}

impl<T: Send + 'static> Reply<T> {
    /// Sends the result. It is dropped if nothing waits for it.
    pub fn send(mut self, value: T) {
        if let Some(sender) = self.sender.take() {
            self.complete(move || drop(sender.send(value)));
        }
    }

    fn complete(&self, job: impl FnOnce() + Send + 'static) {
        // The receiving thread lives as long as there is a sender.
        let _ = self.replies.send(Box::new(job));
    }
}

impl<T: Send + 'static> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.complete(move || drop(sender));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Handles of children may still have the mailbox.
        let _ = self.mailbox.bell.shutdown(Shutdown::Both);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // A panic was reported by its hook.
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Runs jobs until the spawner is dropped, and then waits a moment for children that are being killed. The rest is killed.
fn work(runtime: &Runtime, ear: StdUnixStream, queue: &Receiver<Job>) {
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        let Ok(mut ear) = UnixStream::from_std(ear) else { return };
        let mut announced = [0; MAX_JOBS];
        while let Ok(1..) = ear.read(&mut announced).await {
            queue.try_iter().for_each(|job| job());
        }
    });
    let _ = runtime.block_on(async { time::timeout(EXIT_TIMEOUT, tasks).await });
}

/// Prepares this thread. Returns its runtime, and a copy of `ear`.
fn isolated_runtime(ear: &StdUnixStream, log: &Logger) -> io::Result<(Runtime, StdUnixStream)> {
    // Handlers write to a descriptor of the daemon.
    SigSet::all().thread_block()?;
    // Without pidfds, only a signal tells that a child has ended.
    let has_pidfds = pidfd_open(getpid(), PidfdFlags::empty()).map_err(io::Error::from);
    let isolated = has_pidfds.and_then(|_| syscalls::isolate_descriptors(ear));
    let ear = isolated.or_else(|error| {
        warn!(log, "new processes share open files with the daemon for a moment: this host allows no separate \
            descriptor table"; "error" => %error);
        ear.try_clone()
    })?;
    Ok((Builder::new_current_thread().enable_all().build()?, ear))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        net::TcpListener,
        os::unix::fs::{OpenOptionsExt, PermissionsExt},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use futures::FutureExt;

    const ATTEMPTS: usize = 1000;

    fn spawner() -> Spawner {
        Spawner::new(&Logger::root(slog::Discard, slog::o!())).unwrap()
    }

    async fn run_true() -> io::Result<bool> {
        let mut command = tokio::process::Command::new("true");
        Ok(command.stdin(Stdio::null()).spawn()?.wait().await?.success())
    }

    /// Counts what cannot be used right after its last descriptor was closed: a lock, a port, a program.
    fn busy(directory: &std::path::Path) -> [usize; 3] {
        let (lock, program) = (directory.join("lock"), directory.join("program"));
        let take = || {
            let file = File::create(&lock).unwrap();
            file.try_lock().map(|()| file)
        };
        let mut busy = [0; 3];
        for _ in 0..ATTEMPTS {
            drop(take());
            busy[0] += usize::from(take().is_err());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            drop(listener);
            busy[1] += usize::from(TcpListener::bind(address).is_err());
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o755).open(&program).unwrap();
            file.write_all(b"#!/bin/true\n").unwrap();
            drop(file);
            let execute = Command::new(&program).status();
            busy[2] += usize::from(execute.is_err_and(|error| error.kind() == io::ErrorKind::ExecutableFileBusy));
            fs::remove_file(&program).unwrap();
        }
        busy
    }

    #[test]
    fn children_hold_no_descriptors_of_the_daemon() {
        const ALONE: &str = "UNIFAAS_TEST_ALONE";
        // Other tests of this process create children in its own table.
        if std::env::var_os(ALONE).is_none() {
            let name = "spawner::tests::children_hold_no_descriptors_of_the_daemon";
            let mut alone = Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, check_descriptors_of_children());
    }

    async fn check_descriptors_of_children() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (spawner, done) = (spawner(), Arc::new(AtomicBool::new(false)));
        let children = (0..4).map(|_| {
            let (spawner, done) = (spawner.clone(), done.clone());
            task::spawn_local(async move {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    assert!(spawner.run(run_true).await.unwrap().unwrap());
                    count += 1;
                }
                count
            })
        });
        let children: Vec<_> = children.collect();
        let busy = task::spawn_blocking(move || busy(directory.path())).await.unwrap();
        done.store(true, Ordering::Relaxed);
        let started: usize = futures::future::join_all(children).await.into_iter().map(Result::unwrap).sum();
        assert_eq!(busy, [0; 3], "of {ATTEMPTS} each, beside {started} children");
    }

    #[tokio::test]
    async fn panic_of_a_job_is_an_error_and_the_thread_goes_on() {
        let spawner = spawner();
        assert!(spawner.run(|| async { panic!("as planned") }).await.is_err());
        assert!(spawner.run(run_true).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn result_that_is_not_awaited_is_dropped() {
        let (dropped, is_dropped) = mpsc::sync_channel::<()>(0);
        let (go, gone) = oneshot::channel::<()>();
        let spawner = spawner();
        let work = || async move {
            let _ = gone.await;
            dropped
        };
        assert!(spawner.run(work).now_or_never().is_none());
        drop(go);
        let dropped = task::spawn_blocking(move || is_dropped.recv().is_err()).await.unwrap();
        assert!(dropped, "the other end is dropped");
    }

    #[tokio::test]
    async fn programs_of_the_host_run_to_their_end() {
        let spawner = spawner();
        let output = task::spawn_blocking(move || spawner.output_blocking(Command::new("cat"), b"input".to_vec()));
        let output = output.await.unwrap().unwrap();
        assert_eq!((output.status.success(), output.stdout), (true, b"input".to_vec()));
    }

    #[tokio::test]
    async fn last_clone_kills_children_and_ends_the_thread() {
        let spawner = spawner();
        let start = || async {
            let mut command = tokio::process::Command::new("sleep");
            let mut child = command.arg("1000").kill_on_drop(true).spawn().unwrap();
            let pid = child.id().unwrap();
            task::spawn_local(async move { child.wait().await });
            pid
        };
        let pid = spawner.run(start).await.unwrap();
        let is_running = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(is_running());
        task::spawn_blocking(move || drop(spawner)).await.unwrap();
        while is_running() {
            task::yield_now().await;
        }
    }
}
