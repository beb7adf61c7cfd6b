//! Kills the processes that an instance leaves behind where no cgroup contains them.
//!
//! One scan of the process table serves all instances that have ended meanwhile.

use std::{cell::OnceCell, io, rc::Rc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use crate::state::{self, ProcessTree};

/// The least time between two scans, so that they take a small share of a processor even at many ends.
const SCAN_INTERVAL: Duration = Duration::from_millis(50);

/// Kills leftover process trees. Clones share one task.
#[derive(Debug, Clone, Default)]
pub struct OrphanReaper(Rc<OnceCell<mpsc::UnboundedSender<Request>>>);

#[derive(Debug)]
struct Request {
    tree: ProcessTree,
    done: oneshot::Sender<Result<(), String>>,
}

impl OrphanReaper {
    /// Kills what is left of `tree`, whose leader has been reaped.
    ///
    /// # Errors
    /// Says why some of its processes still run.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub async fn kill(&self, tree: ProcessTree) -> Result<(), String> {
        let requests = self.0.get_or_init(|| {
            let (requests, requested) = mpsc::unbounded_channel();
            task::spawn_local(scan_on_request(requested));
            requests
        });
        let (done, answer) = oneshot::channel();
        let _ = requests.send(Request { tree, done });
        answer.await.unwrap_or_else(|_| Err("the orphan reaper has ended".to_owned()))
    }
}

async fn scan_on_request(mut requested: mpsc::UnboundedReceiver<Request>) {
    while let Some(first) = requested.recv().await {
        let mut all = vec![first];
        while let Ok(another) = requested.try_recv() {
            all.push(another);
        }
        let trees: Vec<ProcessTree> = all.iter().map(|request| request.tree.clone()).collect();
        let killed = task::spawn_blocking(move || state::kill_process_trees(&trees).1).await;
        let result = killed.unwrap_or_else(|error| Err(io::Error::other(error)));
        let result = result.map_err(|error| error.to_string());
        for request in all {
            // The receiver may be gone.
            let _ = request.done.send(result.clone());
        }
        time::sleep(SCAN_INTERVAL).await;
    }
}
