//! Asynchronous invocations on this host: the database, the attempts, and the delivery of results.
//!
//! What is decided is decided in `unifaas_actors::inbox`.
//!
//! | file | content |
//! | --- | --- |
//! | `sqlite.rs`, `schema.rs`, `rows.rs` | the database: its connection, its tables, its rows |
//! | `store.rs`, `letters.rs` | what a store does, as statements of SQL |
//! | `thread.rs` | the thread that owns it |
//! | `reset.rs` | a damaged database is set aside |
//! | `stats.rs` | what is measured |
//! | `deliver/` | the delivery of results |
//! | `site/` | what the nodes of the site share |
//! | `attempt.rs`, `invoker.rs` | the thread that makes attempts, and what has functions answer them |

mod attempt;
mod deliver;
mod invoker;
mod letters;
#[cfg(test)]
mod model;
mod reset;
mod rows;
mod schema;
#[cfg(feature = "cluster")]
mod site;
#[cfg(not(feature = "cluster"))]
#[path = "without_site.rs"]
mod site;
mod sqlite;
mod stats;
mod store;
#[cfg(test)]
mod tests;
mod thread;
#[cfg(test)]
mod versions;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::Addr;
use slog::Logger;
use tokio::{sync::oneshot, time::timeout};
use unifaas_actors::{
    Directory,
    inbox::{
        Command, InboxActor, InboxHandle, InboxQuestion, InvocationId, Record, Removal, SiteLink, State, StopStarting,
        StoreFact, UnixMillis,
    },
};

use attempt::AttemptThread;
use deliver::Deliverer;
pub use deliver::{DeliverTo, DeliveryKey, DeliverySettings};
pub use invoker::{ATTEMPT, Ended, IDEMPOTENCY_KEY, INVOCATION, Invoker};
pub use reset::ResetError;
pub use site::{Place, Site};
pub use stats::{FunctionOverview, InboxOverview, InboxStats, StoreReport};
use thread::{StoreConfig, StoreThread};

/// The file of the database, in the state directory.
const FILE: &str = "inbox.db";
/// How long deliveries under way may take that hold up the end, or the next daemon.
const DELIVERY_GRACE: Duration = Duration::from_secs(1);
/// How long the ends of attempts may take to be recorded at the site.
const SITE_GRACE: Duration = Duration::from_secs(1);
/// How long the InboxActor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the NATS server of the site may take for what can be left out.
const SITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The inbox of the daemon.
pub struct Inbox {
    /// Accepts invocations, and answers questions about them.
    pub handle: InboxHandle,
    /// What is measured.
    pub stats: Arc<InboxStats>,
    store: Arc<StoreThread>,
    deliverer: Arc<Deliverer>,
    directory: Arc<Directory>,
    concurrency: usize,
    log: Logger,
    /// What the nodes of the site share, if this is one of them.
    pub site: Option<Arc<Site>>,
    actor: OnceLock<Addr<InboxActor>>,
}

/// What the site uses of this node.
#[derive(Clone)]
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "there is no site"))]
pub struct OfNode {
    inbox: InboxHandle,
    stats: Arc<InboxStats>,
    deliverer: Arc<Deliverer>,
    directory: Arc<Directory>,
    invoker: Arc<dyn Invoker>,
    actor: Addr<InboxActor>,
}

/// How the inbox is set up.
#[derive(Debug, Clone)]
pub struct InboxSettings {
    /// Bytes that the database may use.
    pub size: u64,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// How results are delivered.
    pub delivery: DeliverySettings,
}

impl Inbox {
    /// Makes the inbox of a state directory. Nothing is opened before [`start`](Self::start).
    pub fn new(
        base: &Path,
        settings: &InboxSettings,
        directory: Arc<Directory>,
        site: Option<Arc<Site>>,
        log: Logger,
    ) -> Self {
        let config = StoreConfig { path: base.join(FILE), limit: settings.size, log: log.clone() };
        let stats = Arc::<InboxStats>::default();
        let store = StoreThread::new(config, stats.clone());
        let link = site.clone().map(|site| site as Arc<dyn SiteLink>);
        let handle = InboxHandle::new(directory.clone(), store.clone(), link);
        let deliverer = Arc::new(Deliverer::new(handle.clone(), settings.delivery.clone(), stats.clone(), log.clone()));
        let concurrency = settings.concurrency;
        Self { handle, stats, store, deliverer, directory, concurrency, log, site, actor: OnceLock::new() }
    }

    /// Whether results may be delivered to a URL.
    pub fn delivers_to(&self, url: &str) -> bool {
        self.deliverer.allows(url)
    }

    /// Returns what the site has of a dead letter that this node keeps for it, and whether it has it: where its delivery
    /// stands is known there, if it answers soon. What was redriven here since is another attempt.
    pub async fn as_of_site(&self, record: Record) -> (Record, bool) {
        let may_share = || self.handle.may_share(&record.function);
        let site = self.site.as_ref().filter(|site| site.is_connected() && may_share());
        if let (State::Dead { .. }, Some(site)) = (&record.state, site)
            && let Ok(Ok(Some(call))) = timeout(SITE_TIMEOUT, site.find(record.id, Duration::ZERO)).await
            && call.record.epoch == record.epoch
        {
            return (call.record, true);
        }
        (record, false)
    }

    /// Cancels what has not started, and forgets what has ended: on this node and, where it is shared, at the site.
    ///
    /// # Errors
    /// What has it does not answer.
    pub async fn remove(&self, id: InvocationId) -> Result<Removal, String> {
        let removal = self.handle.ask(|reply| Command::Remove(id, reply)).await?;
        let is_letter = matches!(&removal, Removal::Forgotten { dead_of: Some(of) } if self.handle.may_share(of));
        match &self.site {
            Some(site) if removal == Removal::Unknown => site.remove(id).await,
            Some(site) if is_letter && site.is_connected() => site.remove(id).await.map(|_| removal),
            _ => Ok(removal),
        }
    }

    /// Starts the actor, and opens the database if there is one. Called on the actors' thread. `invoker` makes the attempts.
    pub fn start(&self, invoker: Arc<dyn Invoker>) {
        let attempts = Box::new(AttemptThread::new(self.handle.clone(), invoker.clone(), self.log.clone()));
        let actor = InboxActor::launch(self.directory.clone(), self.store.clone(), attempts, self.concurrency);
        let facts = actor.clone();
        let (deliverer, site) = (self.deliverer.clone(), self.site.clone());
        if let Some(site) = &site {
            site.start(OfNode {
                inbox: self.handle.clone(),
                stats: self.stats.clone(),
                deliverer: deliverer.clone(),
                directory: self.directory.clone(),
                invoker,
                actor: actor.clone(),
            });
        }
        self.store.start(Arc::new(move |fact| {
            deliverer.learn(&fact);
            if let (StoreFact::Opened { has_handovers: true, .. }, Some(site)) = (&fact, &site) {
                site.wake();
            }
            facts.do_send(fact);
        }));
        let _ = self.actor.set(actor);
    }

    /// Sets a damaged database aside and begins a new one. Returns the name of the damaged one. Blocks until then.
    ///
    /// # Errors
    /// It is not damaged, or files cannot be changed.
    pub fn reset(&self) -> Result<String, ResetError> {
        self.store.reset()
    }

    /// Opens the database if there is one: the daemon before may have created it meanwhile.
    pub fn open_existing(&self) {
        self.store.open_existing();
    }

    /// Begins no more attempts, waits until those under way have ended, at most for `limit`, and closes the database: the
    /// next daemon may open it. All further requests are refused.
    pub async fn hand_over(&self, limit: Duration) {
        if let Some(actor) = self.actor.get() {
            let (stopped, wait) = oneshot::channel();
            actor.do_send(StopStarting(stopped));
            let _ = timeout(limit, wait).await;
        }
        if let Some(site) = &self.site {
            site.stop(SITE_GRACE).await;
        }
        // Whatever is cut off is delivered again. A slow receiver must not keep the next daemon waiting.
        let _ = timeout(DELIVERY_GRACE, self.deliverer.stop()).await;
        self.store.close("the daemon ends");
    }

    /// Returns what the inbox of this node has, and what is measured of it. `None`: the actor does not answer in time.
    pub async fn overview(&self) -> Option<InboxOverview> {
        let actor = self.actor.get()?;
        let unended = timeout(ACTOR_TIMEOUT, actor.send(InboxQuestion)).await.ok()?.ok()?;
        let site_problem = self.site.as_ref().and_then(|site| site.problem());
        Some(InboxOverview { site_problem, ..self.stats.overview(unended, UnixMillis::now()) })
    }

    /// Returns the same with the results that wait at the site: its NATS server is asked, and may not answer.
    pub async fn overview_with_site(&self) -> Option<InboxOverview> {
        let Some(site) = &self.site else { return self.overview().await };
        let undelivered = timeout(SITE_TIMEOUT, site.undelivered());
        let (overview, undelivered) = tokio::join!(self.overview(), undelivered);
        Some(InboxOverview { site_undelivered: undelivered.ok().flatten(), ..overview? })
    }
}
