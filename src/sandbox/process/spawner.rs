//! The threads that make child processes.
//!
//! A start has a thread stand still until the child executes its program, so it is none for the thread of the actors. And
//! the kernel ties a child's parent-death signal to the *thread* that made it, so none of a pool's either: these live as
//! long as the daemon has children.

use std::{
    io,
    num::NonZeroUsize,
    panic::{self, AssertUnwindSafe},
    thread,
};

use crossbeam_channel::Sender;
use tokio::{runtime::Handle, sync::oneshot};

use super::child;

/// Threads beyond one for each processor.
const SPARE: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Has children made. Clones share the threads, which end with the last of them.
#[derive(Debug, Clone)]
pub struct Spawner(Sender<Job>);

impl Spawner {
    /// One thread for each processor, as what a start costs is nearly all the processor's; some more for when one of them
    /// waits for a disk, or for a child that somebody has stopped.
    pub fn new() -> io::Result<Self> {
        child::keep_statuses()?;
        let (jobs, orders) = crossbeam_channel::unbounded::<Job>();
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get) + SPARE;
        for number in 0..threads {
            let orders = orders.clone();
            let work = move || orders.into_iter().for_each(|job| job());
            thread::Builder::new().name(format!("spawner-{number}")).spawn(work)?;
        }
        Ok(Self(jobs))
    }

    /// What `work` returns on one of the threads, where it belongs to the runtime of the caller. It is done in any case:
    /// when nobody waits for its result any more, that is dropped there.
    ///
    /// # Panics
    /// If `work` does, which ends no child. Outside of a tokio runtime.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = oneshot::channel();
        let runtime = Handle::current();
        let job: Job = Box::new(move || {
            let _belongs = runtime.enter();
            let result = panic::catch_unwind(AssertUnwindSafe(work));
            let _ = tell.send(result);
        });
        // The threads are there for as long as there is a sender.
        let _ = self.0.send(job);
        match told.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(_) => unreachable!("every job is done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use futures::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_callers_and_the_threads_live_on() {
        let spawner = Spawner::new().unwrap();
        let threads = thread::available_parallelism().unwrap().get() + SPARE;
        for _ in 0..threads {
            let planned = AssertUnwindSafe(spawner.run(|| panic!("as planned"))).catch_unwind().await;
            assert_eq!(planned.unwrap_err().downcast_ref(), Some(&"as planned"));
        }
        // All of them at once, or nobody gets past this.
        let together = Arc::new(Barrier::new(threads));
        let meet = |_| {
            let together = together.clone();
            spawner.run(move || together.wait().is_leader())
        };
        join_all((0..threads).map(meet)).await;
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_done_and_dropped() {
        let (dropped, told) = crossbeam_channel::bounded::<()>(0);
        let (go, gone) = crossbeam_channel::bounded(1);
        let spawner = Spawner::new().unwrap();
        let job = move || {
            gone.recv().unwrap();
            dropped
        };
        assert!(spawner.run(job).now_or_never().is_none());
        go.send(()).unwrap();
        assert!(told.recv().is_err(), "the other end is dropped");
    }
}
