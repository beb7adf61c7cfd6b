//! Offering, pulling and settling: the protocol between a node and the server of its site, whatever is lost in between.

use std::time::Duration;

use bytes::Bytes;

use super::{
    call::{Call, Step},
    store::{Delivered, KeyReservation, RESULTS, Revision, SiteError, SiteStore},
};
use crate::{
    inbox::{
        CallbackState, DeliveryEnd, InvocationId, Outcome, Record, RecordedResponse, Removal, State, StoredRequest,
        UnixMillis,
    },
    spec::AsyncSpec,
};

/// Attempts to record that an attempt begins.
const BEGIN_TRIES: u32 = 4;
/// Until a server that lags behind, or has not confirmed something, is asked again.
const LAG: Duration = Duration::from_secs(1);

/// An invocation that is to be handed over.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its record on this node. It is due at the time of its state.
    pub record: Record,
    /// What the function gets.
    pub request: StoredRequest,
    /// A digest of method, target and body.
    pub fingerprint: Vec<u8>,
    /// Whether another invocation with its key stands for it.
    pub reserves_key: bool,
}

/// An invocation that the site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Its id: another one if its key was known.
    pub id: InvocationId,
    /// The same request was handed over before, by this node or another one.
    pub is_duplicate: bool,
}

/// Why an invocation is not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The server did not confirm it.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The key belongs to another request.
    #[error("this idempotency key was used for another method, target or body")]
    KeyReused,
}

/// An attempt that is recorded as begun.
#[derive(Debug, Clone)]
pub struct Work<R> {
    /// The message.
    pub delivered: Delivered<R>,
    /// The record, with this attempt.
    pub call: Call,
    revision: Revision,
}

/// What follows from a message that was delivered.
#[derive(Debug, Clone)]
pub enum Begin<R> {
    /// An attempt is to be made, and then settled.
    Attempt(Work<R>),
    /// It is given up now, and then as if it had ended before.
    GivenUp(Work<R>),
    /// It has ended before. The message is to be released once a dead letter is kept and the result waits to be delivered.
    Ended(Work<R>),
    /// Nothing is to be done now.
    Nothing,
}

/// The invocations that the nodes of a site share.
#[derive(Debug, Clone)]
pub struct SiteQueue<S>(pub S);

impl<S: SiteStore> SiteQueue<S> {
    /// Hands an invocation over. It may be offered again, by any node: the site has it once.
    ///
    /// A key that is reserved names the invocation of an earlier offer, which may not have come further than that. It is
    /// completed here, as both have the same request.
    ///
    /// # Errors
    /// The site does not have it, as far as is known.
    pub async fn offer(&self, offer: &Offer, policy: &AsyncSpec, now: UnixMillis) -> Result<Offered, OfferError> {
        let Offer { record, request, fingerprint, reserves_key } = offer;
        let mut call = Call::new(record.clone(), policy);
        if let Some(key) = record.key.as_ref().filter(|_| *reserves_key) {
            let wanted = KeyReservation {
                function: record.function.to_string(),
                key: key.to_string(),
                id: record.id,
                fingerprint: fingerprint.clone(),
                keep: policy.max_age + policy.keep,
            };
            let reserved = self.0.reserve(&wanted).await?;
            if reserved.fingerprint != wanted.fingerprint {
                return Err(OfferError::KeyReused);
            }
            call.record.id = reserved.id;
        }
        let id = call.record.id;
        let offered = Offered { id, is_duplicate: id != record.id };
        let existing = self.0.create(&call, call.keep_record(now)).await?;
        if existing.is_some_and(|existing| existing.record.state.is_ended()) {
            return Ok(offered);
        }
        self.0.publish(&call.record.function, &call, request, call.keep_message(now)).await?;
        Ok(offered)
    }

    /// Waits for a message of a function, or of [`RESULTS`](super::RESULTS), for a while.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn pull(&self, queue: &str) -> Result<Option<Delivered<S::Receipt>>, SiteError> {
        self.0.pull(queue).await
    }

    /// Records that a node keeps a dead letter. `None`: the server has not answered, or another node has changed the record.
    /// The message is delivered again then.
    pub async fn letter_kept(&self, work: Work<S::Receipt>, now: UnixMillis) -> Option<Work<S::Receipt>> {
        let call = Call { is_letter_kept: true, ..work.call };
        let revision = self.write(&call, work.revision, now, BEGIN_TRIES).await??;
        Some(Work { call, revision, ..work })
    }

    /// Has a result wait in the queue of results, and removes the message of its request. Returns whether there was no room:
    /// the result is to be sent by this message then.
    pub async fn queue_result(&self, work: &Work<S::Receipt>, now: UnixMillis) -> bool {
        let nothing = StoredRequest::new("", "", Bytes::new());
        let receipt = &work.delivered.receipt;
        match self.0.publish(RESULTS, &work.call, &nothing, work.call.keep_message(now)).await {
            Err(SiteError::Full(_) | SiteError::TooLarge) => return true,
            // It may wait there. Then it is queued again, and the second message of the result is none.
            Err(SiteError::Unavailable(_)) => self.0.give_back(receipt, LAG).await,
            // Without its confirmation, the same follows.
            Ok(()) => drop(self.0.acknowledge(receipt).await),
        }
        false
    }

    /// Returns the result that a message of the queue of results is about, if it is to be delivered.
    pub async fn begin_result(&self, delivered: Delivered<S::Receipt>) -> Option<Work<S::Receipt>> {
        // Without an answer, the message is delivered again.
        let found = self.0.find(delivered.id).await.ok()?;
        match found {
            Some((revision, call)) if call.undelivered().is_some() => return Some(Work { delivered, call, revision }),
            // It has ended: what answered lags behind.
            Some((_, call)) if !call.record.state.is_ended() => self.0.give_back(&delivered.receipt, LAG).await,
            _ => drop(self.0.acknowledge(&delivered.receipt).await),
        }
        None
    }

    /// Records that an attempt begins, or that there is none any more.
    pub async fn begin(
        &self,
        delivered: Delivered<S::Receipt>,
        policy: &AsyncSpec,
        now: UnixMillis,
        holder: u64,
    ) -> Begin<S::Receipt> {
        // Without an answer, the message is delivered again.
        let Ok(found) = self.0.find(delivered.id).await else { return Begin::Nothing };
        let Some((revision, call)) = found else {
            // It was cancelled or forgotten.
            let _ = self.0.acknowledge(&delivered.receipt).await;
            return Begin::Nothing;
        };
        match call.step(delivered.count, policy, now) {
            Step::Deliver => return Begin::Ended(Work { delivered, call, revision }),
            // The node that gave it up may have ended before it kept the dead letter.
            Step::Drop if call.is_unkept_letter() => return Begin::Ended(Work { delivered, call, revision }),
            Step::Drop => drop(self.0.acknowledge(&delivered.receipt).await),
            Step::Wait(delay) => self.0.give_back(&delivered.receipt, delay).await,
            Step::End(reason) => {
                let call = call.ended(reason, policy, now);
                if let Some(Some(revision)) = self.write(&call, revision, now, BEGIN_TRIES).await {
                    return Begin::GivenUp(Work { delivered, call, revision });
                }
            }
            Step::Begin => {
                let call = call.begun(holder);
                if let Some(Some(revision)) = self.write(&call, revision, now, BEGIN_TRIES).await {
                    return Begin::Attempt(Work { delivered, call, revision });
                }
            }
        }
        Begin::Nothing
    }

    /// Records the end of an attempt, and returns it with the new record. The message is to be released then. `None`: another
    /// node has taken over, and nothing has changed.
    pub async fn settle(
        &self,
        work: Work<S::Receipt>,
        (outcome, response): (Outcome, Option<RecordedResponse>),
        policy: &AsyncSpec,
        now: UnixMillis,
        random: f64,
    ) -> Option<Work<S::Receipt>> {
        let call = work.call.attempted(outcome, response, policy, now, random);
        let revision = self.write(&call, work.revision, now, u32::MAX).await??;
        Some(Work { call, revision, ..work })
    }

    /// Records an attempt to deliver a result, and gives the message back until the next one is due, or removes it. Without
    /// `end` it is given up. `None`: the server has not answered, or another node has changed the record. The message is
    /// delivered again then.
    pub async fn delivered(
        &self,
        work: &Work<S::Receipt>,
        end: Option<DeliveryEnd>,
        now: UnixMillis,
        random: f64,
    ) -> Option<CallbackState> {
        let (call, delivery) = work.call.delivered(end, now, random);
        self.write(&call, work.revision, now, BEGIN_TRIES).await??;
        let receipt = &work.delivered.receipt;
        match delivery.state {
            CallbackState::Waiting => self.0.give_back(receipt, now.until(delivery.due)).await,
            CallbackState::Delivered | CallbackState::Failed => drop(self.0.acknowledge(receipt).await),
        }
        Some(delivery.state)
    }

    /// Gives the message of a recorded end back until the next attempt is due, or removes it.
    pub async fn release(&self, work: &Work<S::Receipt>, now: UnixMillis) {
        match work.call.record.state {
            State::Queued { due } => self.0.give_back(&work.delivered.receipt, now.until(due)).await,
            // Without its confirmation, the message is delivered again, and dropped then.
            _ => drop(self.0.acknowledge(&work.delivered.receipt).await),
        }
    }

    /// Changes a record. `Some(None)`: another node has changed it. `None`: the server has not answered so many times.
    async fn write(&self, call: &Call, revision: Revision, now: UnixMillis, tries: u32) -> Option<Option<Revision>> {
        let keep = call.keep_record(now);
        for tried in 0..tries {
            match self.0.update(call, revision, keep).await {
                Ok(None) if tried > 0 => {
                    // The change that was not confirmed may be this one. A body may have been too large.
                    let own = |call: &Call| (call.record.clone(), call.holder, call.is_letter_kept);
                    let is_own = |found: &Call| own(found) == own(call);
                    if let Ok(found) = self.0.find(call.record.id).await {
                        return Some(found.filter(|(_, found)| is_own(found)).map(|(revision, _)| revision));
                    }
                }
                Ok(changed) => return Some(changed),
                Err(_) => {}
            }
            self.0.pause().await;
        }
        None
    }

    /// Returns an invocation.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn find(&self, id: InvocationId) -> Result<Option<Call>, SiteError> {
        Ok(self.0.find(id).await?.map(|(_, call)| call))
    }

    /// Cancels what has not started, and forgets what has ended.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn remove(&self, id: InvocationId) -> Result<Removal, SiteError> {
        loop {
            let Some((revision, call)) = self.0.find(id).await? else { return Ok(Removal::Unknown) };
            if call.record.state == State::Running {
                return Ok(Removal::Running);
            }
            if self.0.remove(&call, revision).await? {
                return Ok(call.record.entry().map_or(Removal::Forgotten { dead_of: None }, Removal::Cancelled));
            }
        }
    }
}
