//! The model of a site's server, for the simulation: it may be away, and requests, answers and acknowledgements get lost.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use futures::pending;
use rand::{RngExt as _, rngs::StdRng};

use super::{
    call::Call,
    store::{Delivered, KeyReservation, Revision, SiteError, SiteStore},
};
use crate::inbox::{InvocationId, StoredRequest, UnixMillis};

/// After that a message that is not acknowledged is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// A server, and what all nodes of a simulation share.
pub struct Server {
    pub random: RefCell<StdRng>,
    pub now: Cell<UnixMillis>,
    pub is_away: Cell<bool>,
    pub content: RefCell<Content>,
}

/// What survives.
#[derive(Default)]
pub struct Content {
    pub calls: BTreeMap<InvocationId, (Revision, Call)>,
    /// What a replica that lags behind has of them.
    earlier: BTreeMap<InvocationId, (Revision, Call)>,
    keys: BTreeMap<(String, String), KeyReservation>,
    messages: BTreeMap<u64, Message>,
    /// Calls that were queued, for the time in which a second message is none.
    pub published: Vec<(String, InvocationId)>,
    last: u64,
}

struct Message {
    id: InvocationId,
    queue: String,
    request: StoredRequest,
    count: u64,
    hidden_until: UnixMillis,
}

/// A node's connection to the server.
#[derive(Clone)]
pub struct Connection {
    pub server: Rc<Server>,
    pub is_cut: Rc<Cell<bool>>,
}

impl Connection {
    /// Has the server do something, with whatever may get lost. The node may end at each step.
    async fn ask<T>(&self, act: impl FnOnce(&mut Content, UnixMillis) -> T) -> Result<T, SiteError> {
        let lost = || Err(SiteError::Unavailable("simulated".to_owned()));
        pending!();
        let is_lost = || self.server.random.borrow_mut().random_ratio(1, 25);
        if self.server.is_away.get() || self.is_cut.get() || is_lost() {
            return lost();
        }
        let done = act(&mut self.server.content.borrow_mut(), self.server.now.get());
        pending!();
        if is_lost() { lost() } else { Ok(done) }
    }
}

impl Content {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl SiteStore for Connection {
    type Receipt = u64;

    async fn reserve(&self, wanted: &KeyReservation) -> Result<KeyReservation, SiteError> {
        let key = (wanted.function.clone(), wanted.key.clone());
        self.ask(|content, _| content.keys.entry(key).or_insert_with(|| wanted.clone()).clone()).await
    }

    async fn create(&self, call: &Call, _: Duration) -> Result<Option<Call>, SiteError> {
        self.ask(|content, _| {
            let revision = content.next();
            if let Some((_, existing)) = content.calls.get(&call.record.id) {
                return Some(existing.clone());
            }
            content.calls.insert(call.record.id, (revision, call.clone()));
            None
        })
        .await
    }

    async fn publish(&self, queue: &str, call: &Call, request: &StoredRequest, _: Duration) -> Result<(), SiteError> {
        let (id, queue) = (call.record.id, queue.to_owned());
        let is_full = self.server.random.borrow_mut().random_ratio(1, 10);
        self.ask(|content, now| {
            assert!(content.calls.contains_key(&id), "a record exists before its message does");
            let published = (queue.clone(), id);
            if !content.published.contains(&published) {
                if is_full {
                    return Err(SiteError::Full("simulated".to_owned()));
                }
                content.published.push(published);
                let number = content.next();
                let message = Message { id, queue, request: request.clone(), count: 0, hidden_until: now };
                content.messages.insert(number, message);
            }
            Ok(())
        })
        .await?
    }

    async fn pull(&self, queue: &str) -> Result<Option<Delivered<u64>>, SiteError> {
        self.ask(|content, now| {
            let mut waiting = content.messages.iter_mut();
            let (receipt, next) = waiting.find(|(_, it)| it.queue == queue && it.hidden_until <= now)?;
            next.count += 1;
            next.hidden_until = now.after(ACK_WAIT);
            Some(Delivered { receipt: *receipt, id: next.id, request: next.request.clone(), count: next.count })
        })
        .await
    }

    async fn find(&self, id: InvocationId) -> Result<Option<(Revision, Call)>, SiteError> {
        let lags = self.server.random.borrow_mut().random_ratio(1, 10);
        self.ask(|content, _| {
            let earlier = content.earlier.get(&id).filter(|_| lags);
            earlier.or(content.calls.get(&id)).cloned()
        })
        .await
    }

    async fn update(&self, call: &Call, revision: Revision, _: Duration) -> Result<Option<Revision>, SiteError> {
        self.ask(|content, _| {
            let next = content.next();
            let (current, recorded) = content.calls.get_mut(&call.record.id)?;
            if *current != revision {
                return None;
            }
            // But for the delivery of its result.
            assert!(
                !recorded.record.state.is_ended() || recorded.record.state == call.record.state,
                "what has ended changes no more: {recorded:?}"
            );
            assert!(call.record.epoch >= recorded.record.epoch, "{call:?} after {recorded:?}");
            let earlier = std::mem::replace(recorded, call.clone());
            content.earlier.insert(call.record.id, (std::mem::replace(current, next), earlier));
            Some(next)
        })
        .await
    }

    async fn remove(&self, call: &Call, revision: Revision) -> Result<bool, SiteError> {
        let record = &call.record;
        self.ask(|content, _| {
            let has_revision = content.calls.get(&record.id).is_some_and(|(current, _)| *current == revision);
            if has_revision {
                content.calls.remove(&record.id);
                content.earlier.remove(&record.id);
                let key = record.key.as_ref().map(|key| (record.function.to_string(), key.to_string()));
                key.and_then(|key| content.keys.remove(&key));
            }
            has_revision
        })
        .await
    }

    async fn acknowledge(&self, receipt: &u64) -> Result<(), SiteError> {
        self.ask(|content, _| drop(content.messages.remove(receipt))).await
    }

    async fn give_back(&self, receipt: &u64, delay: Duration) {
        let _ = self
            .ask(|content, now| {
                if let Some(message) = content.messages.get_mut(receipt) {
                    message.hidden_until = now.after(delay);
                }
            })
            .await;
    }

    async fn prolong(&self, receipt: &u64) {
        self.give_back(receipt, ACK_WAIT).await;
    }

    async fn pause(&self) {
        pending!();
    }
}
