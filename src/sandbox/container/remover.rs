//! Removes containers, and does not give up: an engine that is away has them still when it comes back.

use std::{rc::Rc, time::Duration};

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use slog::{Logger, debug, warn};
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use super::engine::{Engine, EngineError};

/// One attempt: the engine kills a running container, waits for its end and frees its network.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a container that was perhaps created may take to appear in an engine that answers again.
const DOUBT: Duration = Duration::from_secs(5);

/// Where to send containers that are to go. Works from anywhere, destructors included.
#[derive(Debug, Clone)]
pub struct Remover {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
struct Order {
    container: String,
    doubtful: bool,
    done: Option<oneshot::Sender<()>>,
}

impl Remover {
    /// Starts to work.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn start(engine: Rc<Engine>, log: Logger) -> Self {
        let (orders, mut ordered) = mpsc::unbounded_channel();
        task::spawn_local(async move {
            while let Some(order) = ordered.recv().await {
                task::spawn_local(carry_out(engine.clone(), order, log.clone()));
            }
        });
        Self { orders }
    }

    /// Ends and removes a container with its anonymous volumes. Resolves when it is gone; goes on when it is dropped.
    pub async fn remove(&self, container: &str) {
        self.order(container, false).await;
    }

    /// As [`remove`](Self::remove), for one that may not exist yet: a call to create it was given up on.
    pub async fn remove_if_created(&self, container: &str) {
        self.order(container, true).await;
    }

    /// As [`remove`](Self::remove), without a wait.
    pub fn discard(&self, container: &str) {
        // Nobody is there to do it only when the daemon has ended.
        let _ = self.orders.send(Order { container: container.to_owned(), doubtful: false, done: None });
    }

    /// Takes effect at the call; the future is the wait.
    fn order(&self, container: &str, doubtful: bool) -> impl Future<Output = ()> + use<> {
        let (done, gone) = oneshot::channel();
        let _ = self.orders.send(Order { container: container.to_owned(), doubtful, done: Some(done) });
        async move {
            let _ = gone.await;
        }
    }
}

async fn carry_out(engine: Rc<Engine>, order: Order, log: Logger) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let mut pause = FIRST_PAUSE;
    let mut doubt = if order.doubtful { DOUBT } else { Duration::ZERO };
    let mut complained = false;
    loop {
        let remove =
            async |docker: bollard::Docker| docker.remove_container(&order.container, Some(options.clone())).await;
        match engine.ask("remove", ATTEMPT, remove).await {
            Ok(()) => break,
            Err(error) if error.is_not_found() => {
                if doubt.is_zero() {
                    break;
                }
                time::sleep(FIRST_PAUSE).await;
                doubt = doubt.saturating_sub(FIRST_PAUSE);
                continue;
            }
            // Somebody else is removing it: it is gone when the engine does not know it any more.
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                if !complained {
                    warn!(log, "a container cannot be removed yet"; "container" => &order.container, "error" => %error);
                    complained = true;
                }
                pause = next(pause, &error);
            }
        }
        time::sleep(pause).await;
    }
    if complained {
        debug!(log, "container removed at last"; "container" => &order.container);
    }
    if let Some(done) = order.done {
        let _ = done.send(());
    }
}

/// An engine that restarts is asked often, one that refuses ever less.
fn next(pause: Duration, error: &EngineError) -> Duration {
    let longest = if matches!(error, EngineError::Absent { .. }) { LONGEST_PAUSE / 10 } else { LONGEST_PAUSE };
    (pause * 2).min(longest)
}
