//! A store in memory: the model of the daemon's database, for tests and simulations.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    delivery::DeliveryRecord,
    record::{
        Callback, CallbackState, Entry, InvocationId, NewInvocation, Record, RecordedResponse, Seq, State,
        StoredRequest, TriggerRecord,
    },
    settle::Settlement,
    store::{Begun, DeadLetter, EnqueueRefusal, Found, Name, Purged, Removal, Settle, Store, StoreError, Stored},
    time::UnixMillis,
};

/// A store in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    committed: Arc<Content>,
    /// Of the transaction. Copied with its first change.
    content: Arc<Content>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    rows: BTreeMap<Seq, Row>,
    triggers: BTreeMap<String, TriggerRecord>,
    last: Seq,
}

#[derive(Debug, Clone)]
struct Row {
    record: Record,
    /// Kept until the invocation is done.
    request: Arc<StoredRequest>,
    response: Option<RecordedResponse>,
    /// When the record is removed.
    expires: Option<UnixMillis>,
    /// When the result is to be delivered.
    deliver: UnixMillis,
    /// It waits to be handed over, and is due there then.
    handover: Option<UnixMillis>,
}

impl Row {
    fn is_undelivered(&self) -> bool {
        self.record.delivery(self.deliver).is_some()
    }
}

impl MemoryStore {
    /// Returns all committed records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.committed.rows.values().map(|row| &row.record)
    }

    fn content_mut(&mut self) -> &mut Content {
        Arc::make_mut(&mut self.content)
    }

    fn row(&mut self, id: InvocationId) -> Option<&mut Row> {
        let seq = self.content.rows.values().find(|row| row.record.id == id)?.record.seq;
        self.content_mut().rows.get_mut(&seq)
    }
}

impl Content {
    fn with_key(&self, function: &str, key: &str) -> Option<&Row> {
        self.rows.values().find(|row| &*row.record.function == function && row.record.key.as_deref() == Some(key))
    }
}

/// Returns the function of a dead letter.
fn dead_of(record: &Record) -> Option<Name> {
    matches!(record.state, State::Dead { .. }).then(|| record.function.clone())
}

/// Whether two requests with the same key are the same.
fn is_same(one: &StoredRequest, other: &StoredRequest) -> bool {
    (&one.method, &one.target, &one.body) == (&other.method, &other.target, &other.body)
}

impl Store for MemoryStore {
    fn begin(&mut self) -> Result<(), StoreError> {
        self.content = self.committed.clone();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.committed = self.content.clone();
        Ok(())
    }

    fn rollback(&mut self) {
        self.content = self.committed.clone();
    }

    fn has_space(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn enqueue(
        &mut self,
        new: &NewInvocation,
        unended: usize,
        now: UnixMillis,
    ) -> Result<Result<(Stored, Option<Entry>), EnqueueRefusal>, StoreError> {
        let content = self.content_mut();
        if let Some(row) = new.key.as_deref().and_then(|key| content.with_key(&new.function, key)) {
            return Ok(match is_same(&row.request, &new.request) {
                true => Ok((Stored { id: row.record.id, is_duplicate: true }, None)),
                false => Err(EnqueueRefusal::KeyReused),
            });
        }
        if unended >= new.queue {
            return Ok(Err(EnqueueRefusal::Full { queued: unended }));
        }
        if let Some(firing) = &new.firing {
            if content.triggers.get(&firing.trigger).is_some_and(|last| last.settled >= firing.instant) {
                return Ok(Err(EnqueueRefusal::AlreadyFired));
            }
            let record = TriggerRecord { settled: firing.instant, has_fired: true };
            content.triggers.insert(firing.trigger.clone(), record);
        }
        content.last += 1;
        let record = Record {
            seq: content.last,
            id: InvocationId::random(),
            function: new.function.clone(),
            state: State::Queued { due: if new.for_site { now.after(new.max_age) } else { now.after(new.delay) } },
            epoch: 0,
            attempts: 0,
            accepted: now,
            deadline: now.after(new.max_age),
            key: new.key.clone(),
            callback: new.callback.clone().map(|url| Callback { url, attempts: 0, state: CallbackState::Waiting }),
        };
        let (id, entry) = (record.id, record.entry());
        let (request, handover) = (Arc::new(new.request.clone()), new.for_site.then(|| now.after(new.delay)));
        let row = Row { record, request, response: None, expires: None, deliver: now, handover };
        content.rows.insert(content.last, row);
        Ok(Ok((Stored { id, is_duplicate: false }, entry)))
    }

    fn start(&mut self, seq: Seq, epoch: u32) -> Result<Option<Begun>, StoreError> {
        let Some(Row { record, request, .. }) = self.content_mut().rows.get_mut(&seq) else { return Ok(None) };
        if record.epoch != epoch || !matches!(record.state, State::Queued { .. }) {
            return Ok(None);
        }
        (record.state, record.epoch, record.attempts) = (State::Running, epoch + 1, record.attempts + 1);
        Ok(Some(Begun { record: record.clone(), request: StoredRequest::clone(request) }))
    }

    fn settle(&mut self, settle: &Settle, now: UnixMillis) -> Result<Option<Record>, StoreError> {
        let Some(row) = self.content_mut().rows.get_mut(&settle.seq) else { return Ok(None) };
        let record = &mut row.record;
        let is_running = record.state == State::Running;
        if record.epoch != settle.epoch || record.state.is_ended() || is_running != settle.was_running {
            return Ok(None);
        }
        record.state = match settle.settlement {
            Settlement::Done { status } => State::Done { ended: now, status },
            Settlement::Dead { reason, status } => State::Dead { ended: now, reason, status },
            Settlement::Retry { due, counts } => {
                record.attempts -= u32::from(!counts);
                State::Queued { due }
            }
        };
        row.deliver = now;
        row.expires = record.state.is_ended().then(|| now.after(settle.keep));
        if row.expires.is_some()
            && let Some(response) = &settle.response
        {
            row.response = Some(response.clone());
        }
        Ok(Some(record.clone()))
    }

    fn remove(&mut self, id: InvocationId) -> Result<Removal, StoreError> {
        let Some(row) = self.row(id) else { return Ok(Removal::Unknown) };
        let (seq, removal) = match (&row.record.state, row.record.entry()) {
            (State::Running, _) => return Ok(Removal::Running),
            (_, Some(entry)) => (row.record.seq, Removal::Cancelled(entry)),
            (_, None) => (row.record.seq, Removal::Forgotten { dead_of: dead_of(&row.record) }),
        };
        self.content_mut().rows.remove(&seq);
        Ok(removal)
    }

    fn redrive(&mut self, id: InvocationId, now: UnixMillis) -> Result<Option<Record>, StoreError> {
        let Some(row) = self.row(id) else { return Ok(None) };
        let record = &mut row.record;
        if !matches!(record.state, State::Dead { .. }) {
            return Ok(None);
        }
        let age = record.accepted.until(record.deadline);
        (record.state, record.epoch, record.attempts) = (State::Queued { due: now }, record.epoch + 1, 0);
        (record.accepted, record.deadline) = (now, now.after(age));
        if let Some(callback) = &mut record.callback {
            (callback.attempts, callback.state) = (0, CallbackState::Waiting);
        }
        (row.expires, row.response, row.handover) = (None, None, None);
        Ok(Some(record.clone()))
    }

    fn find(&mut self, id: InvocationId) -> Result<Option<Record>, StoreError> {
        Ok(self.row(id).map(|row| row.record.clone()))
    }

    fn response(&mut self, id: InvocationId) -> Result<Option<Found>, StoreError> {
        Ok(self.row(id).map(|row| Found { record: row.record.clone(), response: row.response.clone() }))
    }

    fn request(&mut self, id: InvocationId) -> Result<Option<StoredRequest>, StoreError> {
        let row = self.row(id).filter(|row| !matches!(row.record.state, State::Done { .. }));
        Ok(row.map(|row| StoredRequest::clone(&row.request)))
    }

    fn handover(&mut self, id: InvocationId) -> Result<Option<Begun>, StoreError> {
        Ok(self.row(id).and_then(|row| {
            let state = State::Queued { due: row.handover.filter(|_| row.record.entry().is_some())? };
            Some(Begun { record: Record { state, ..row.record.clone() }, request: StoredRequest::clone(&row.request) })
        }))
    }

    fn handovers(&mut self, limit: usize) -> Result<Vec<InvocationId>, StoreError> {
        let waiting = self.content.rows.values().filter(|row| row.handover.is_some() && row.record.entry().is_some());
        Ok(waiting.take(limit).map(|row| row.record.id).collect())
    }

    fn keep_here(&mut self, id: InvocationId) -> Result<Option<(Entry, Entry)>, StoreError> {
        Ok(self.row(id).and_then(|row| {
            let before = row.record.entry()?;
            row.record.state = State::Queued { due: row.handover.take()? };
            Some((before, row.record.entry()?))
        }))
    }

    fn import(&mut self, letter: &DeadLetter, now: UnixMillis) -> Result<bool, StoreError> {
        let DeadLetter { found: Found { record, response }, request, keep } = letter.clone();
        if self.row(record.id).is_some() {
            return Ok(false);
        }
        let content = self.content_mut();
        content.last += 1;
        let key = record.key.clone().filter(|key| content.with_key(&record.function, key).is_none());
        let record = Record { seq: content.last, key, callback: None, ..record };
        let (request, expires) = (Arc::new(request), Some(now.after(keep)));
        content.rows.insert(content.last, Row { record, request, response, expires, deliver: now, handover: None });
        Ok(true)
    }

    fn dead(&mut self, function: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Record>, StoreError> {
        let rows = self.content.rows.range(after + 1..).map(|(_, row)| &row.record);
        let dead = rows.filter(|record| {
            matches!(record.state, State::Dead { .. }) && function.is_none_or(|function| function == &*record.function)
        });
        Ok(dead.take(limit).cloned().collect())
    }

    fn undelivered(&mut self) -> Result<Vec<Entry>, StoreError> {
        Ok(self.content.rows.values().filter_map(|row| row.record.delivery(row.deliver)).collect())
    }

    fn result(&mut self, seq: Seq, epoch: u32) -> Result<Option<Found>, StoreError> {
        let row = self.content.rows.get(&seq).filter(|row| row.record.epoch == epoch && row.is_undelivered());
        Ok(row.map(|row| Found { record: row.record.clone(), response: row.response.clone() }))
    }

    fn record_delivery(&mut self, seq: Seq, epoch: u32, delivery: DeliveryRecord) -> Result<(), StoreError> {
        let row = self.content_mut().rows.get_mut(&seq);
        if let Some(row) = row.filter(|row| row.record.epoch == epoch && row.record.state.is_ended())
            && let Some(callback) = &mut row.record.callback
        {
            (callback.state, callback.attempts) = (delivery.state, delivery.attempts);
            row.deliver = delivery.due;
        }
        Ok(())
    }

    fn purge(&mut self, now: UnixMillis, limit: usize) -> Result<Purged, StoreError> {
        let rows = &mut self.content_mut().rows;
        let expired = rows
            .iter()
            .filter_map(|(seq, row)| Some((row.expires.filter(|at| *at <= now && !row.is_undelivered())?, *seq)));
        let mut due: Vec<_> = expired.collect();
        due.sort();
        due.truncate(limit);
        let removed: Vec<_> = due.iter().filter_map(|(_, seq)| rows.remove(seq)).collect();
        let dead_of = removed.iter().filter_map(|row| dead_of(&row.record)).collect();
        Ok(Purged { count: removed.len(), dead_of })
    }

    fn recover(&mut self, now: UnixMillis) -> Result<Vec<Entry>, StoreError> {
        for row in self.content_mut().rows.values_mut().filter(|row| row.record.state == State::Running) {
            (row.record.state, row.record.epoch) = (State::Queued { due: now }, row.record.epoch + 1);
        }
        Ok(self.content.rows.values().filter_map(|row| row.record.entry()).collect())
    }

    fn open_trigger(&mut self, trigger: &str, seen: UnixMillis) -> Result<TriggerRecord, StoreError> {
        let new = TriggerRecord { settled: seen, has_fired: false };
        let record = self.content_mut().triggers.entry(trigger.to_owned()).or_insert(new);
        if !record.has_fired {
            record.settled = record.settled.min(seen);
        }
        Ok(*record)
    }

    fn count_dead(&mut self) -> Result<Vec<(Name, usize)>, StoreError> {
        let mut counts = BTreeMap::<_, usize>::new();
        let dead = self.content.rows.values().filter_map(|row| dead_of(&row.record));
        dead.for_each(|function| *counts.entry(function).or_default() += 1);
        Ok(counts.into_iter().collect())
    }

    fn bytes(&mut self) -> u64 {
        0
    }
}
