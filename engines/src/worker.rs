//! Background workers: a queue of requests, and a loop that carries them out beside the actors.
//!
//! All background loops of the daemon are made here: what blocks (files, `/proc`, the start of children) runs on named
//! threads, what needs a runtime of its own (netlink) on a thread with one, what belongs to the actors' thread in their
//! `LocalSet`. A worker's loop is written as
//!
//! ```text
//!   while let Ok(request) = requests.recv_blocking() { … }     // on_threads
//!   while let Ok(request) = requests.recv().await { … }        // on_runtime, on_local_set
//! ```
//!
//! and ends when the queue is closed and empty. The [`Worker`] is held by one owner: dropping it closes the queue and
//! joins the threads, so that every accepted request has been carried out by then. [`WorkerHandle`]s send, from any
//! thread and from destructors. What a worker does is in the module that starts it: `state/journal.rs`,
//! `net/network.rs`, `sandbox/container/reaper.rs`.

use std::{io, thread};

use async_channel::Sender;
use tokio::{runtime, sync::oneshot, task};

/// The requests that a worker's loop takes.
pub type Requests<R> = async_channel::Receiver<R>;

/// Owns a worker. Dropping it closes the queue and blocks until the worker's threads have carried out what is in it.
#[derive(Debug)]
pub struct Worker<R> {
    handle: WorkerHandle<R>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Sends requests to a worker.
#[derive(Debug)]
pub struct WorkerHandle<R>(Sender<R>);

impl<R: 'static> Worker<R> {
    /// Starts `count` threads that run `work`, each named `name` and its number. Each request goes to one of them.
    ///
    /// # Errors
    /// When the host has no more threads.
    pub fn on_threads<W>(name: &str, count: usize, work: W) -> io::Result<Self>
    where
        R: Send,
        W: FnOnce(Requests<R>) + Clone + Send + 'static,
    {
        let (sender, requests) = async_channel::unbounded();
        let mut worker = Self { handle: WorkerHandle(sender), threads: Vec::new() };
        for number in 0..count {
            let (work, requests) = (work.clone(), requests.clone());
            let name = if count == 1 { name.to_owned() } else { format!("{name}-{number}") };
            worker.threads.push(thread::Builder::new().name(name).spawn(move || work(requests))?);
        }
        Ok(worker)
    }

    /// Starts a thread named `name` that runs `work` on a tokio runtime of its own.
    ///
    /// # Errors
    /// When the host has no more threads or open files.
    pub fn on_runtime<W>(name: &str, work: W) -> io::Result<Self>
    where
        R: Send,
        W: AsyncFnOnce(Requests<R>) + Send + 'static,
    {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, requests) = async_channel::unbounded();
        let run = move || {
            runtime.block_on(work(requests));
            // The lookup of a name may take much longer than the work wants to wait for it.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { handle: WorkerHandle(sender), threads: vec![thread] })
    }

    /// Runs `work` as a task of the current `LocalSet`, which ends with that.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn on_local_set<W>(work: W) -> Self
    where
        W: AsyncFnOnce(Requests<R>) + 'static,
    {
        let (sender, requests) = async_channel::unbounded();
        task::spawn_local(async move { work(requests).await });
        Self { handle: WorkerHandle(sender), threads: Vec::new() }
    }

    /// Returns a handle that sends requests to this worker.
    pub fn handle(&self) -> WorkerHandle<R> {
        self.handle.clone()
    }
}

impl<R> Drop for Worker<R> {
    fn drop(&mut self) {
        self.handle.0.close();
        // A thread that panicked has been logged by the panic hook.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl<R> WorkerHandle<R> {
    /// Queues a request without blocking. It is dropped if the worker has ended.
    pub fn send(&self, request: R) {
        let _ = self.0.try_send(request);
    }

    /// Queues the request that `request` makes of a reply's sender, at once. The receiver resolves with the reply, or
    /// with an error if the worker ends without one.
    pub fn call<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> R) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply));
        answer
    }
}

impl<R> Clone for WorkerHandle<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::future::join_all;
    use tokio::task::LocalSet;

    use super::*;

    type Double = (usize, oneshot::Sender<usize>);

    fn double((number, reply): Double) {
        let _ = reply.send(number * 2);
    }

    #[tokio::test]
    async fn replies_come_from_every_kind_of_worker() {
        let answers = async |worker: &Worker<Double>| {
            let handle = worker.handle();
            join_all((0..50).map(|number| handle.call(move |reply| (number, reply)))).await
        };
        let expected: Vec<_> = (0..50).map(|number| Ok(number * 2)).collect();
        let threads = Worker::on_threads("test", 3, |requests: Requests<Double>| {
            while let Ok(request) = requests.recv_blocking() {
                double(request);
            }
        });
        assert_eq!(answers(&threads.unwrap()).await, expected);
        let serve = async |requests: Requests<Double>| {
            while let Ok(request) = requests.recv().await {
                double(request);
            }
        };
        assert_eq!(answers(&Worker::on_runtime("test", serve).unwrap()).await, expected);
        let local = async { answers(&Worker::on_local_set(serve)).await };
        assert_eq!(LocalSet::new().run_until(local).await, expected);
    }

    #[tokio::test]
    async fn dropping_a_worker_carries_out_what_is_queued_and_ends_its_threads() {
        let (done, start) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let (counter, started) = (done.clone(), start.clone());
        let worker = Worker::on_threads("test", 1, move |requests: Requests<()>| {
            started.wait();
            while requests.recv_blocking().is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let worker = worker.unwrap();
        let handle = worker.handle();
        (0..100).for_each(|_| handle.send(()));
        start.wait();
        drop(worker);
        assert_eq!(done.load(Ordering::Relaxed), 100);
        handle.send(());
        assert!(handle.call(|_: oneshot::Sender<()>| ()).await.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }
}
