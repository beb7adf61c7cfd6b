//! The thread that hands over and runs, from the first function on whose invocations are shared.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use slog::{Logger, info, warn};
use tokio::{
    sync::{Notify, oneshot},
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use unifaas_actors::{
    inbox::{InboxActor, InvocationId, Removal},
    site::{Call, SiteError, SiteQueue},
    spec::AsyncSpec,
};

use super::{Place, Status, Use, handover, jetstream::JetStream, runner};
use crate::{http::StoredClients, shared::Shared, worker::Requests};

/// Between two looks at a call whose end is waited for, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const MAX_LOOK: Duration = Duration::from_millis(500);
/// Between two looks whether all attempts have been recorded.
const STOP_LOOK: Duration = Duration::from_millis(20);

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
    /// Runs invocations of exactly these functions from now on.
    Follow(BTreeSet<Arc<str>>),
    /// Takes no more, and answers when what runs has been recorded.
    Stop(oneshot::Sender<()>),
}

/// What runs on the thread.
pub struct SiteThread {
    pub queue: SiteQueue<JetStream>,
    pub shared: Arc<Shared>,
    pub actor: Addr<InboxActor>,
    pub clients: StoredClients,
    pub status: Arc<Status>,
    pub log: Logger,
    /// Notified when something waits to be handed over.
    pub woken: Notify,
    /// Invocations that are being handed over.
    pub handing_over: RefCell<HashSet<InvocationId>>,
    /// Notified when one of them no longer is.
    pub looked_at: Notify,
    /// The receivers to which results are being sent, each as often.
    pub sending: RefCell<Vec<Arc<str>>>,
    /// Attempts that are not yet recorded.
    pub under_way: Cell<usize>,
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
        let mut followed = HashMap::<Arc<str>, DropGuard>::new();
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
                Request::Follow(functions) => {
                    followed.retain(|function, _| functions.contains(function));
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
                    spawn_local(async move {
                        while site.under_way.get() > 0 {
                            sleep(STOP_LOOK).await;
                        }
                        // The receiver may have given up.
                        let _ = stopped.send(());
                    });
                }
            }
        }
    }

    /// Looks for a call until it has ended, or for so long.
    async fn find(&self, id: InvocationId, wait: Duration) -> Result<Option<Box<Call>>, SiteError> {
        let (until, mut pause) = (Instant::now() + wait, FIRST_LOOK);
        loop {
            let found = self.queue.find(id).await?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || found.as_ref().is_none_or(|call| call.record.state.is_ended()) {
                return Ok(found.map(Box::new));
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(MAX_LOOK);
        }
    }

    /// Returns how a function's invocations are treated.
    pub fn policy(&self, function: &str) -> AsyncSpec {
        let spec = self.shared.directory.find(function).and_then(|handle| handle.spec());
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
        }
    }
}
