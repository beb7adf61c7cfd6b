//! Asynchronous invocations that the nodes of the site share, on its NATS server.
//!
//! What is decided is decided in `unifaas_actors::site`. Nothing of this runs without `--cluster`, or before a function says
//! `durability = "site"` or has a schedule with `scope = "cluster"`.
//!
//! | file | content |
//! | --- | --- |
//! | `jetstream.rs`, `streams.rs`, `codec.rs` | the server: what it is asked, its streams, and what it stores |
//! | `thread.rs` | the thread |
//! | `handover.rs` | from the database of this node to the server |
//! | `runner.rs` | attempts of what any node has accepted |
//! | `results.rs` | the delivery of their results, from a queue of its own |

mod codec;
mod handover;
mod jetstream;
mod results;
mod runner;
mod streams;
mod thread;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use slog::{Logger, error};
use tokio::{sync::oneshot, time::timeout};
use unifaas_actors::{
    inbox::{InvocationId, Removal, SiteLink},
    site::{Call, Offered, SiteQueue},
};

use super::OfNode;
use crate::{
    cluster::{Cluster, NatsClient},
    worker::{Worker, WorkerHandle},
};
use jetstream::JetStream;
use thread::{Request, SiteThread};

/// How long a client waits for the site to confirm that it has its invocation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an invocation is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this node only.
    Node,
    /// On the server of the site.
    Site(Offered),
    /// Nowhere: its key belongs to another request.
    KeyReused,
}

/// The part of the site that any thread may use.
pub struct Site {
    nats: NatsClient,
    name: Arc<str>,
    status: Arc<Status>,
    log: Logger,
    started: OnceLock<OfNode>,
    worker: Mutex<Option<Worker<Request>>>,
}

/// Whether the server of the site can be used, as far as is known.
#[derive(Debug, Default)]
pub struct Status {
    handing_over: Mutex<Option<String>>,
    running: Mutex<Option<String>>,
    delivering: Mutex<Option<String>>,
}

/// What the server of the site is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    HandingOver,
    Running,
    Delivering,
}

impl Status {
    fn of(&self, used: Use) -> MutexGuard<'_, Option<String>> {
        let problem = match used {
            Use::HandingOver => &self.handing_over,
            Use::Running => &self.running,
            Use::Delivering => &self.delivering,
        };
        problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether invocations can be handed over.
    pub fn takes(&self) -> bool {
        self.of(Use::HandingOver).is_none()
    }

    /// Returns why it cannot be used.
    pub fn problem(&self) -> Option<String> {
        self.of(Use::HandingOver).clone().or_else(|| self.of(Use::Running).clone())
    }

    /// Notes why it cannot be used. `None`: it can. Returns whether that is new.
    fn set_problem(&self, used: Use, problem: Option<String>) -> bool {
        let mut known = self.of(used);
        let is_new = known.is_some() != problem.is_some();
        *known = problem;
        is_new
    }
}

impl Site {
    /// Makes the site of a node that is one of several.
    pub fn of(cluster: Option<&Cluster>, log: &Logger) -> Option<Arc<Self>> {
        let cluster = cluster?;
        Some(Arc::new(Self {
            nats: cluster.nats().clone(),
            name: cluster.site().clone(),
            status: Arc::default(),
            log: log.clone(),
            started: OnceLock::new(),
            worker: Mutex::default(),
        }))
    }

    /// Makes it usable. Its thread starts with the first request.
    pub fn start(&self, node: OfNode) {
        let _ = self.started.set(node);
    }

    fn thread(&self) -> Option<WorkerHandle<Request>> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let node = self.started.get()?.clone();
            let (nats, name, status, log) =
                (self.nats.clone(), self.name.clone(), self.status.clone(), self.log.clone());
            let started = Worker::on_runtime("inbox-site", async move |requests| {
                let thread = SiteThread {
                    queue: SiteQueue(JetStream::new(nats, name)),
                    node,
                    status,
                    log,
                    woken: Default::default(),
                    looked_at: Default::default(),
                    handing_over: RefCell::default(),
                    receivers: RefCell::default(),
                    sent: Default::default(),
                    under_way: Cell::new(0),
                    recorded: Default::default(),
                };
                thread.run(requests).await;
            });
            match started {
                Ok(started) => *worker = Some(started),
                Err(error) => error!(self.log, "asynchronous invocations stay on this node"; "error" => %error),
            }
        }
        worker.as_ref().map(Worker::handle)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request, limit: Duration) -> Option<T> {
        timeout(limit, self.thread()?.call(request)).await.ok()?.ok()
    }

    /// Hands an invocation over that this node has stored, and waits for that for a moment.
    pub async fn hand_over(&self, id: InvocationId) -> Place {
        if !self.is_connected() || !self.status.takes() {
            return Place::Node;
        }
        self.ask(|reply| Request::HandOver(id, reply), CONFIRM_TIMEOUT).await.unwrap_or(Place::Node)
    }

    /// Returns an invocation that the site has, and waits for its end for so long.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn find(&self, id: InvocationId, wait: Duration) -> Result<Option<Call>, String> {
        let found = self.ask(|reply| Request::Find(id, wait, reply), wait + ANSWER_TIMEOUT).await;
        let found = found.ok_or_else(|| NO_ANSWER.to_owned())?.map_err(|error| error.to_string())?;
        Ok(found.map(|call| *call))
    }

    /// Cancels what has not started, and forgets what has ended.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn remove(&self, id: InvocationId) -> Result<Removal, String> {
        let removed = self.ask(|reply| Request::Remove(id, reply), ANSWER_TIMEOUT).await;
        removed.ok_or_else(|| NO_ANSWER.to_owned())?.map_err(|error| error.to_string())
    }

    /// Runs invocations of exactly these functions from now on.
    pub fn follow(&self, functions: BTreeSet<Arc<str>>) {
        let is_started = self.worker.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if (is_started || !functions.is_empty())
            && let Some(thread) = self.thread()
        {
            thread.send(Request::Follow(functions));
        }
    }

    /// Takes no more, and waits until what runs has been recorded, at most for `limit`.
    pub async fn stop(&self, limit: Duration) {
        let thread = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Worker::handle);
        if let Some(thread) = thread {
            let _ = timeout(limit, thread.call(Request::Stop)).await;
        }
    }

    /// Returns how many results are to be delivered, by all nodes together. `None`: it is not known.
    pub async fn undelivered(&self) -> Option<u64> {
        let thread = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Worker::handle)?;
        if !self.is_connected() {
            return None;
        }
        thread.call(Request::Undelivered).await.ok()?
    }

    /// Returns why invocations stay on this node.
    pub fn problem(&self) -> Option<String> {
        self.status.problem()
    }
}

/// Why nothing is known of an invocation.
const NO_ANSWER: &str = "the NATS server of the site does not answer";

impl SiteLink for Site {
    fn is_connected(&self) -> bool {
        self.nats.jetstream().is_ok()
    }

    fn wake(&self) {
        if let Some(thread) = self.thread() {
            thread.send(Request::Wake);
        }
    }
}
