//! The thread that delivers results to callback URLs, at least once: a receiver knows a repeat by its `webhook-id`.
//!
//! | file | content |
//! | --- | --- |
//! | `allowed.rs` | where results may be sent |
//! | `signature.rs` | signatures, as Standard Webhooks say |
//! | `send.rs` | one attempt over HTTP |

mod allowed;
mod send;
mod signature;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use slog::{Logger, warn};
use tokio::{sync::oneshot, task::JoinSet, time::sleep};
use unifaas_actors::inbox::{
    Command, Deliveries, DeliveryAction, DeliveryEnd, DeliveryRecord, Entry, Found, InboxHandle, State, StoreFact,
    UnixMillis,
};

use crate::{
    inbox::InboxStats,
    log::LogThrottle,
    worker::{Requests, Worker},
};
pub use allowed::DeliverTo;
use send::Sender;
pub use signature::DeliveryKey;

/// The longest sleep while a result waits: the clock may jump.
const MAX_SLEEP: Duration = Duration::from_secs(10);
/// When the store is asked again that could not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Where results may be delivered, and what signs them.
#[derive(Debug, Clone, Default)]
pub struct DeliverySettings {
    /// `None`: nowhere.
    pub deliver_to: Option<DeliverTo>,
    /// `None`: they are not signed.
    pub key: Option<DeliveryKey>,
}

/// Delivers results, on a thread of its own that starts with the first one.
pub struct Deliverer {
    handle: InboxHandle,
    settings: DeliverySettings,
    outbox: Arc<Outbox>,
    stats: Arc<InboxStats>,
    worker: Mutex<Option<Worker<Request>>>,
}

/// Sends results.
struct Outbox {
    sender: Sender,
    log: Logger,
    failures: LogThrottle,
}

impl Outbox {
    async fn send(&self, found: Found) -> DeliveryEnd {
        let (id, function) = (found.record.id, found.record.function.clone());
        let url = found.record.callback.as_ref().map(|callback| callback.url.clone()).unwrap_or_default();
        let Err(error) = self.sender.send(&url, found).await else { return DeliveryEnd::Confirmed };
        if let Some(count) = self.failures.due() {
            warn!(self.log, "a result was not delivered"; "function" => &*function, "invocation" => %id,
                "url" => &*url, "error" => %error, "count" => count);
        }
        error.end()
    }
}

/// What the thread is asked for.
enum Request {
    /// Results are to be delivered.
    Deliver(Vec<Entry>),
    /// No attempt is to be begun any more. Answered when none is under way.
    Stop(oneshot::Sender<()>),
}

impl Deliverer {
    pub fn new(handle: InboxHandle, settings: DeliverySettings, stats: Arc<InboxStats>, log: Logger) -> Self {
        let sender = Sender::new(settings.clone());
        let outbox = Arc::new(Outbox { sender, log, failures: LogThrottle::default() });
        Self { handle, settings, outbox, stats, worker: Mutex::default() }
    }

    /// Sends a result, once.
    #[cfg(feature = "cluster")]
    pub async fn send(&self, found: Found) -> DeliveryEnd {
        self.outbox.send(found).await
    }

    /// Whether results may be delivered to a URL.
    pub fn allows(&self, url: &str) -> bool {
        self.settings.deliver_to.as_ref().is_some_and(|allowed| allowed.allows(url))
    }

    /// Takes over the results that the store has committed.
    pub fn learn(&self, fact: &StoreFact) {
        let entries = match fact {
            StoreFact::Opened { undelivered, .. } => undelivered.clone(),
            StoreFact::Settled(record) => match record.state {
                State::Done { ended, .. } | State::Dead { ended, .. } => record.delivery(ended).into_iter().collect(),
                State::Queued { .. } | State::Running => return,
            },
            StoreFact::Queued(_) | StoreFact::Cancelled(_) | StoreFact::Kept(_) | StoreFact::Stale(_) => return,
        };
        if !entries.is_empty() {
            self.deliver(entries);
        }
    }

    fn deliver(&self, entries: Vec<Entry>) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let (handle, outbox, stats) = (self.handle.clone(), self.outbox.clone(), self.stats.clone());
            let delivery = Arc::new(Delivery { handle, outbox, stats });
            match Worker::on_runtime("inbox-deliver", async move |requests| delivery.run(requests).await) {
                Ok(started) => *worker = Some(started),
                // The next daemon finds them in the store.
                Err(error) => warn!(self.outbox.log, "results cannot be delivered"; "error" => %error),
            }
        }
        if let Some(worker) = &*worker {
            worker.handle().send(Request::Deliver(entries));
        }
    }

    /// Begins no more attempts, and waits until none is under way.
    pub async fn stop(&self) {
        let handle = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Worker::handle);
        if let Some(handle) = handle {
            // The thread may have ended.
            let _ = handle.call(Request::Stop).await;
        }
    }
}

/// What runs on the thread.
struct Delivery {
    handle: InboxHandle,
    outbox: Arc<Outbox>,
    stats: Arc<InboxStats>,
}

impl Delivery {
    async fn run(self: Arc<Self>, requests: Requests<Request>) {
        let (mut deliveries, mut attempts, mut records) = (Deliveries::default(), JoinSet::new(), JoinSet::new());
        let (mut is_stopped, mut stopping) = (false, Vec::<oneshot::Sender<()>>::new());
        loop {
            let now = UnixMillis::now();
            while !is_stopped && let Some(action) = deliveries.next_action(now) {
                match action {
                    DeliveryAction::Send(entry) => drop(attempts.spawn(self.clone().attempt(entry))),
                    DeliveryAction::GiveUp(entry, record) => {
                        records.spawn(self.clone().record(entry, record, Duration::ZERO));
                    }
                }
            }
            if attempts.is_empty() && records.is_empty() {
                for stopped in stopping.drain(..) {
                    let _ = stopped.send(());
                }
            }
            self.stats.set_undelivered(deliveries.waiting() + attempts.len() + records.len());
            let wait = deliveries.wake_at().map_or(MAX_SLEEP, |at| now.until(at).min(MAX_SLEEP));
            tokio::select! {
                request = requests.recv() => match request {
                    Ok(Request::Deliver(entries)) => entries.into_iter().for_each(|entry| deliveries.insert(entry)),
                    Ok(Request::Stop(stopped)) => {
                        is_stopped = true;
                        stopping.push(stopped);
                    }
                    Err(_) => return,
                },
                // An attempt that panicked is made again by the next daemon.
                Some(Ok((entry, end))) = attempts.join_next() => {
                    let now = UnixMillis::now();
                    match end {
                        Ok(Some(end)) => {
                            let record = deliveries.ended(&entry, end, now, rand::random());
                            records.spawn(self.clone().record(entry, record, Duration::ZERO));
                        }
                        Ok(None) => deliveries.dropped(&entry),
                        Err(_) => deliveries.postpone(entry, now.after(STORE_RETRY)),
                    }
                }
                Some(Ok((entry, record, is_recorded))) = records.join_next() => {
                    if is_recorded {
                        self.stats.count_delivery(record.state);
                        deliveries.recorded(entry, record);
                    } else if !is_stopped {
                        records.spawn(self.clone().record(entry, record, STORE_RETRY));
                    }
                }
                () = sleep(wait) => {}
            }
        }
    }

    /// Sends a result. Returns how that ended, or `None` if there is no such result any more.
    async fn attempt(self: Arc<Self>, entry: Entry) -> (Entry, Result<Option<DeliveryEnd>, String>) {
        let Entry { seq, epoch, .. } = entry;
        let found = self.handle.ask(|reply| Command::Result { seq, epoch, reply }).await;
        let end = match found {
            Ok(Some(found)) => Ok(Some(self.outbox.send(*found).await)),
            Ok(None) => Ok(None),
            Err(why) => Err(why),
        };
        (entry, end)
    }

    /// Records an attempt, after a while. Returns whether that could be done.
    async fn record(
        self: Arc<Self>,
        entry: Entry,
        record: DeliveryRecord,
        after: Duration,
    ) -> (Entry, DeliveryRecord, bool) {
        sleep(after).await;
        let Entry { seq, epoch, .. } = entry;
        let recorded = self.handle.ask(|reply| Command::RecordDelivery { seq, epoch, delivery: record, reply }).await;
        (entry, record, recorded.is_ok())
    }
}
