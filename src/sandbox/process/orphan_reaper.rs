//! Processes that an instance leaves behind where no cgroup resources them. One look at the process table serves all instances
//! that have ended meanwhile: it costs the same for each.

use std::{cell::OnceCell, io, rc::Rc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use crate::state::{self, ProcessTree};

/// Between two looks, so that they take a small share of a processor even when instances end all the time.
const PAUSE: Duration = Duration::from_millis(50);

/// Where to have them ended.
#[derive(Debug, Clone, Default)]
pub struct OrphanReaper(Rc<OnceCell<mpsc::UnboundedSender<Ended>>>);

#[derive(Debug)]
struct Ended {
    tree: ProcessTree,
    done: oneshot::Sender<Result<(), String>>,
}

impl OrphanReaper {
    /// Ends whoever is left of that tree, now that its leader has been reaped.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub async fn end(&self, tree: ProcessTree) -> Result<(), String> {
        let orders = self.0.get_or_init(|| {
            let (orders, ordered) = mpsc::unbounded_channel();
            task::spawn_local(work(ordered));
            orders
        });
        let (done, answer) = oneshot::channel();
        let _ = orders.send(Ended { tree, done });
        answer.await.unwrap_or_else(|_| Err("nobody looks for them any more".to_owned()))
    }
}

async fn work(mut ordered: mpsc::UnboundedReceiver<Ended>) {
    while let Some(first) = ordered.recv().await {
        let mut all = vec![first];
        while let Ok(another) = ordered.try_recv() {
            all.push(another);
        }
        let trees: Vec<ProcessTree> = all.iter().map(|ended| ended.tree.clone()).collect();
        let looked = task::spawn_blocking(move || state::kill_process_trees(&trees).1).await;
        let result = looked.unwrap_or_else(|error| Err(io::Error::other(error)));
        let result = result.map_err(|error| error.to_string());
        for ended in all {
            // Nobody may be waiting any more.
            let _ = ended.done.send(result.clone());
        }
        time::sleep(PAUSE).await;
    }
}
