//! The thread that hands over and runs, from the first function on whose invocations are shared.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use slog::{Logger, info, warn};
use tokio::{
    sync::{Notify, oneshot},
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use unifaas_actors::{
    inbox::{InvocationId, Removal},
    site::{Call, Receivers, SiteError, SiteQueue},
    spec::AsyncSpec,
};

use super::{Place, Status, Use, handover, jetstream::JetStream, results, runner};
use crate::{inbox::OfNode, worker::Requests};

/// Between a change of a call whose end is waited for and the looks at it: the change may not be stored yet, or not be heard.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const MAX_LOOK: Duration = Duration::from_secs(2);

/// What the thread is asked for.
pub enum Request {
    /// Something waits to be handed over.
    Wake,
    /// A client waits for where its invocation is stored.
    HandOver(InvocationId, oneshot::Sender<Place>),
    /// Looks for a call, and waits for its end for so long.
    Find(InvocationId, Duration, oneshot::Sender<Result<Option<Box<Call>>, SiteError>>),
    /// Cancels or forgets a call.
    Remove(InvocationId, oneshot::Sender<Result<Removal, SiteError>>),
    /// Asks how many results of the site are to be delivered. `None`: it is not known.
    Undelivered(oneshot::Sender<Option<u64>>),
    /// Runs invocations of exactly these functions from now on.
    Follow(BTreeSet<Arc<str>>),
    /// Takes no more, and answers when what runs has been recorded.
    Stop(oneshot::Sender<()>),
}

/// What runs on the thread.
pub struct SiteThread {
    pub queue: SiteQueue<JetStream>,
    pub node: OfNode,
    pub status: Arc<Status>,
    pub log: Logger,
    /// Notified when something waits to be handed over.
    pub woken: Notify,
    /// Invocations that are being handed over.
    pub handing_over: RefCell<HashSet<InvocationId>>,
    /// Notified when one of them no longer is.
    pub looked_at: Notify,
    /// The receivers to which results are being sent.
    pub receivers: RefCell<Receivers>,
    /// Notified when a result has been sent.
    pub sent: Notify,
    /// Attempts and deliveries that are not yet recorded.
    pub under_way: Cell<usize>,
    /// Notified when one of them is.
    pub recorded: Notify,
}

impl SiteThread {
    /// Carries out requests until there are none any more.
    pub async fn run(self, requests: Requests<Request>) {
        let site = Rc::new(self);
        let tasks = LocalSet::new();
        tasks.run_until(site.serve(requests)).await;
    }

    async fn serve(self: Rc<Self>, requests: Requests<Request>) {
        spawn_local(handover::sweep(self.clone()));
        let (mut followed, mut delivering) = (HashMap::<Arc<str>, DropGuard>::new(), None::<DropGuard>);
        while let Ok(request) = requests.recv().await {
            let site = self.clone();
            match request {
                Request::Wake => self.woken.notify_one(),
                Request::HandOver(id, reply) => {
                    spawn_local(async move { handover::answer(&site, id, reply).await });
                }
                Request::Find(id, wait, reply) => {
                    spawn_local(async move { drop(reply.send(site.find(id, wait).await)) });
                }
                Request::Remove(id, reply) => {
                    spawn_local(async move { drop(reply.send(site.queue.remove(id).await)) });
                }
                Request::Undelivered(reply) => {
                    spawn_local(async move {
                        // The receiver may have given up.
                        let _ = reply.send(site.queue.0.undelivered().await);
                    });
                }
                Request::Follow(functions) => {
                    followed.retain(|function, _| functions.contains(function));
                    delivering = delivering.filter(|_| !functions.is_empty());
                    if delivering.is_none() && !functions.is_empty() {
                        let cancelled = CancellationToken::new();
                        spawn_local(results::run(site.clone(), cancelled.clone()));
                        delivering = Some(cancelled.drop_guard());
                    }
                    for function in functions {
                        followed.entry(function.clone()).or_insert_with(|| {
                            let cancelled = CancellationToken::new();
                            spawn_local(runner::run(site.clone(), function, cancelled.clone()));
                            cancelled.drop_guard()
                        });
                    }
                }
                Request::Stop(stopped) => {
                    followed.clear();
                    delivering = None;
                    spawn_local(async move {
                        loop {
                            let recorded = site.recorded.notified();
                            if site.under_way.get() == 0 {
                                break;
                            }
                            recorded.await;
                        }
                        // The receiver may have given up.
                        let _ = stopped.send(());
                    });
                }
            }
        }
    }

    /// Counts an attempt or a delivery until what is returned is dropped.
    pub fn begin_work(self: &Rc<Self>) -> impl Drop + use<> {
        self.under_way.set(self.under_way.get() + 1);
        scopeguard::guard(self.clone(), |site| {
            site.under_way.set(site.under_way.get() - 1);
            site.recorded.notify_waiters();
        })
    }

    /// Looks for a call until it has ended, or for so long.
    async fn find(&self, id: InvocationId, wait: Duration) -> Result<Option<Box<Call>>, SiteError> {
        let (until, mut pause) = (Instant::now() + wait, FIRST_LOOK);
        let mut changes = None;
        loop {
            let found = self.queue.find(id).await?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || found.as_ref().is_none_or(|call| call.record.state.is_ended()) {
                return Ok(found.map(Box::new));
            }
            let Some(changes) = &mut changes else {
                changes = Some(self.queue.0.changes(id).await?);
                continue;
            };
            tokio::select! {
                Some(_) = changes.next() => pause = FIRST_LOOK,
                () = sleep(pause.min(left)) => pause = (pause * 2).min(MAX_LOOK),
            }
        }
    }

    /// Returns how a function's invocations are treated.
    pub fn policy(&self, function: &str) -> AsyncSpec {
        let spec = self.node.directory.find(function).and_then(|handle| handle.spec());
        spec.map(|spec| spec.asynchronous.clone()).unwrap_or_default()
    }

    /// Notes why the server of the site cannot be used. `None`: it can.
    pub fn note(&self, used: Use, problem: Option<String>) {
        match (used, &problem, self.status.set_problem(used, problem.clone())) {
            (_, _, false) => {}
            (Use::HandingOver, Some(why), true) => {
                warn!(self.log, "asynchronous invocations stay on this node"; "reason" => why);
            }
            (Use::HandingOver, None, true) => info!(self.log, "asynchronous invocations are handed over to the site"),
            (Use::Running, Some(why), true) => warn!(self.log, "no work of the site can be taken"; "reason" => why),
            (Use::Running, None, true) => info!(self.log, "work of the site is taken again"),
            (Use::Delivering, Some(why), true) => {
                warn!(self.log, "no results of the site are delivered"; "reason" => why)
            }
            (Use::Delivering, None, true) => info!(self.log, "results of the site are delivered again"),
        }
    }
}
