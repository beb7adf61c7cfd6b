//! What a store does, as statements of SQL.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rusqlite::{Row, params};
use unifaas_actors::inbox::{
    Begun, DeadLetter, DeliveryRecord, EnqueueRefusal, Entry, Found, InvocationId, Name, NewInvocation, Purged, Record,
    Removal, Seq, Settle, Settlement, State, Store, StoreError, Stored, StoredRequest, TriggerRecord, UnixMillis,
};

use super::{
    rows::{RawRecord, callback_code, id_of, reason_code, signed, unsigned},
    schema::{DEAD, DONE, QUEUED, RUNNING},
    sqlite::{SqliteStore, store_error},
};

/// New work is refused while the file system has less than this free: the ends of attempts have to fit in any case.
const RESERVE: u64 = 64 << 20;
/// The condition of the index of results that are to be delivered.
macro_rules! undelivered {
    () => {
        "callback IS NOT NULL AND callback_state = 0 AND state > 1"
    };
}
/// The condition of the index of invocations that wait to be handed over.
macro_rules! for_site {
    () => {
        "site_due IS NOT NULL AND state = 0"
    };
}
/// That of results, in the order of acceptance.
const UNDELIVERED: &str = concat!(undelivered!(), " ORDER BY seq");

impl Store for SqliteStore {
    fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("COMMIT", []).map(drop)
    }

    fn rollback(&mut self) {
        // Some errors have ended the transaction.
        let _ = self.execute("ROLLBACK", []);
    }

    fn has_space(&mut self) -> Result<(), String> {
        if self.bytes_in_use() >= self.limit {
            return Err(format!("the inbox has reached its limit of {} MiB: see --inbox-size", self.limit >> 20));
        }
        match rustix::fs::statvfs(&self.directory) {
            Ok(space) if space.f_bavail * space.f_frsize < RESERVE => {
                Err(format!("the file system of the state directory has less than {} MiB free", RESERVE >> 20))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the file system of the state directory cannot be looked at: {error}")),
        }
    }

    fn enqueue(
        &mut self,
        new: &NewInvocation,
        unended: usize,
        now: UnixMillis,
    ) -> Result<Result<(Stored, Option<Entry>), EnqueueRefusal>, StoreError> {
        let fingerprint = new.key.as_ref().map(|_| fingerprint(&new.request));
        if let Some(key) = &new.key {
            let same = "SELECT id, fingerprint FROM invocation WHERE function = ?1 AND key = ?2 AND key IS NOT NULL";
            let read = |row: &Row<'_>| Ok((id_of(row, 0)?, row.get::<_, Option<Vec<u8>>>(1)?));
            if let Some((id, first)) = self.row(same, params![&*new.function, &**key], read)? {
                return Ok(match first == fingerprint {
                    true => Ok((Stored { id, is_duplicate: true }, None)),
                    false => Err(EnqueueRefusal::KeyReused),
                });
            }
        }
        if unended >= new.queue {
            return Ok(Err(EnqueueRefusal::Full { queued: unended }));
        }
        if let Some(firing) = &new.firing {
            let newer = "INSERT INTO firing (trigger_name, instant, has_fired) VALUES (?1, ?2, TRUE)
                ON CONFLICT (trigger_name) DO UPDATE SET instant = excluded.instant, has_fired = TRUE
                WHERE instant < excluded.instant";
            if self.execute(newer, params![firing.trigger, signed(firing.instant.0)])? == 0 {
                return Ok(Err(EnqueueRefusal::AlreadyFired));
            }
        }
        let (id, deadline) = (InvocationId::random(), now.after(new.max_age));
        let site_due = new.for_site.then(|| now.after(new.delay));
        let due = if new.for_site { deadline } else { now.after(new.delay) };
        self.execute(
            "INSERT INTO invocation (id, function, state, due, accepted, deadline, key, fingerprint, callback, site_due)
                VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                id.0.to_be_bytes(),
                &*new.function,
                signed(due.0),
                signed(now.0),
                signed(deadline.0),
                new.key.as_deref(),
                fingerprint,
                new.callback.as_deref(),
                site_due.map(|due| signed(due.0)),
            ],
        )?;
        let seq = self.connection.last_insert_rowid();
        self.store_request(seq, &new.request)?;
        let entry =
            Entry { seq: unsigned(seq), function: self.name(&new.function), due, deadline, epoch: 0, attempts: 0 };
        Ok(Ok((Stored { id, is_duplicate: false }, Some(entry))))
    }

    fn start(&mut self, seq: Seq, epoch: u32) -> Result<Option<Begun>, StoreError> {
        let seq = signed(seq);
        let begun = "UPDATE invocation SET state = ?3, epoch = epoch + 1, attempts = attempts + 1
            WHERE seq = ?1 AND epoch = ?2 AND state = ?4";
        if self.execute(begun, params![seq, epoch, RUNNING, QUEUED])? == 0 {
            return Ok(None);
        }
        let record = self.record("seq = ?1", [seq])?;
        Ok(record.zip(self.load_request(seq)?).map(|(record, request)| Begun { record, request }))
    }

    fn settle(&mut self, settle: &Settle, now: UnixMillis) -> Result<Option<Record>, StoreError> {
        let (seq, epoch) = (signed(settle.seq), settle.epoch);
        let from = if settle.was_running { RUNNING } else { QUEUED };
        let end = |state: i64, status: Option<u16>, reason: Option<i64>| {
            let ended = "UPDATE invocation SET state = ?3, ended = ?4, due = ?4, status = ?5, reason = ?6, expires = ?7
                WHERE seq = ?1 AND epoch = ?2 AND state = ?8";
            let expires = signed(now.after(settle.keep).0);
            self.execute(ended, params![seq, epoch, state, signed(now.0), status, reason, expires, from])
        };
        let changed = match settle.settlement {
            Settlement::Done { status } => end(DONE, Some(status), None)?,
            Settlement::Dead { reason, status } => end(DEAD, status, Some(reason_code(reason)))?,
            Settlement::Retry { due, counts } => self.execute(
                "UPDATE invocation SET state = ?3, due = ?4, attempts = attempts - ?5
                    WHERE seq = ?1 AND epoch = ?2 AND state = ?6",
                params![seq, epoch, QUEUED, signed(due.0), u32::from(!counts), from],
            )?,
        };
        if changed == 0 {
            return Ok(None);
        }
        if matches!(settle.settlement, Settlement::Done { .. }) {
            self.execute("DELETE FROM body WHERE seq = ?1", [seq])?;
        }
        if !matches!(settle.settlement, Settlement::Retry { .. })
            && let Some(response) = &settle.response
        {
            self.store_response(seq, response)?;
        }
        self.record("seq = ?1", [seq])
    }

    fn remove(&mut self, id: InvocationId) -> Result<Removal, StoreError> {
        let Some(record) = self.find(id)? else { return Ok(Removal::Unknown) };
        if record.state == State::Running {
            return Ok(Removal::Running);
        }
        let seq = signed(record.seq);
        self.execute("DELETE FROM invocation WHERE seq = ?1", [seq])?;
        self.drop_bodies(seq)?;
        let dead_of = matches!(record.state, State::Dead { .. }).then(|| record.function.clone());
        Ok(record.entry().map_or(Removal::Forgotten { dead_of }, Removal::Cancelled))
    }

    fn redrive(&mut self, id: InvocationId, now: UnixMillis) -> Result<Option<Record>, StoreError> {
        let Some(seq) = self.find(id)?.filter(|it| matches!(it.state, State::Dead { .. })).map(|it| signed(it.seq))
        else {
            return Ok(None);
        };
        self.execute(
            "UPDATE invocation SET state = ?2, due = ?3, epoch = epoch + 1, attempts = 0, deadline = deadline - accepted + ?3,
                accepted = ?3, ended = NULL, status = NULL, reason = NULL, expires = NULL,
                callback_state = 0, callback_attempts = 0, site_due = NULL WHERE seq = ?1",
            params![seq, QUEUED, signed(now.0)],
        )?;
        self.execute("DELETE FROM response WHERE seq = ?1", [seq])?;
        self.record("seq = ?1", [seq])
    }

    fn find(&mut self, id: InvocationId) -> Result<Option<Record>, StoreError> {
        self.record("id = ?1", [id.0.to_be_bytes()])
    }

    fn response(&mut self, id: InvocationId) -> Result<Option<Found>, StoreError> {
        match self.find(id)? {
            Some(record) => self.with_response(record).map(Some),
            None => Ok(None),
        }
    }

    fn request(&mut self, id: InvocationId) -> Result<Option<StoredRequest>, StoreError> {
        match self.find(id)? {
            Some(record) => self.load_request(signed(record.seq)),
            None => Ok(None),
        }
    }

    fn handover(&mut self, id: InvocationId) -> Result<Option<Begun>, StoreError> {
        let Some(raw) = self.raw_records(concat!("id = ?1 AND ", for_site!()), [id.0.to_be_bytes()])?.pop() else {
            return Ok(None);
        };
        let due = UnixMillis(unsigned(raw.site_due.unwrap_or(raw.due)));
        let record = Record { state: State::Queued { due }, ..raw.into_record(|name| self.name(name)) };
        let request = self.load_request(signed(record.seq))?;
        Ok(request.map(|request| Begun { record, request }))
    }

    fn handovers(&mut self, limit: usize) -> Result<Vec<InvocationId>, StoreError> {
        let waiting = concat!("SELECT id FROM invocation WHERE ", for_site!(), " ORDER BY seq LIMIT ?1");
        let mut statement = self.connection.prepare_cached(waiting).map_err(store_error)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map([limit], |row| id_of(row, 0)).map_err(store_error)?;
        rows.collect::<rusqlite::Result<_>>().map_err(store_error)
    }

    fn keep_here(&mut self, id: InvocationId) -> Result<Option<(Entry, Entry)>, StoreError> {
        let Some(before) = self.find(id)?.and_then(|record| record.entry()) else { return Ok(None) };
        let kept = concat!("UPDATE invocation SET due = site_due, site_due = NULL WHERE id = ?1 AND ", for_site!());
        if self.execute(kept, [id.0.to_be_bytes()])? == 0 {
            return Ok(None);
        }
        Ok(self.find(id)?.and_then(|record| record.entry()).map(|now| (before, now)))
    }

    fn import(&mut self, letter: &DeadLetter, now: UnixMillis) -> Result<bool, StoreError> {
        self.import_letter(letter, now)
    }

    fn dead(&mut self, function: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Record>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let condition = "state = 3 AND seq > ?1 AND (?2 IS NULL OR function = ?2) ORDER BY seq LIMIT ?3";
        self.records(condition, params![signed(after), function, limit])
    }

    fn undelivered(&mut self) -> Result<Vec<Entry>, StoreError> {
        let raw = self.raw_records(UNDELIVERED, [])?;
        let entry = |raw: RawRecord| {
            let due = UnixMillis(unsigned(raw.due));
            raw.into_record(|name| self.name(name)).delivery(due)
        };
        Ok(raw.into_iter().filter_map(entry).collect())
    }

    fn result(&mut self, seq: Seq, epoch: u32) -> Result<Option<Found>, StoreError> {
        let record =
            self.record(concat!("seq = ?1 AND epoch = ?2 AND ", undelivered!()), params![signed(seq), epoch])?;
        record.map(|record| self.with_response(record)).transpose()
    }

    fn record_delivery(&mut self, seq: Seq, epoch: u32, delivery: DeliveryRecord) -> Result<(), StoreError> {
        let state = callback_code(delivery.state);
        let recorded = "UPDATE invocation SET callback_state = ?3, callback_attempts = ?4, due = ?5
            WHERE seq = ?1 AND epoch = ?2 AND state > 1";
        self.execute(recorded, params![signed(seq), epoch, state, delivery.attempts, signed(delivery.due.0)]).map(drop)
    }

    fn purge(&mut self, now: UnixMillis, limit: usize) -> Result<Purged, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let due = self.records(
            "expires IS NOT NULL AND expires <= ?1 AND NOT (callback IS NOT NULL AND callback_state = 0)
                ORDER BY expires, seq LIMIT ?2",
            params![signed(now.0), limit],
        )?;
        for record in &due {
            let seq = signed(record.seq);
            self.execute("DELETE FROM invocation WHERE seq = ?1", [seq])?;
            self.drop_bodies(seq)?;
        }
        let dead = due.iter().filter(|record| matches!(record.state, State::Dead { .. }));
        Ok(Purged { count: due.len(), dead_of: dead.map(|record| record.function.clone()).collect() })
    }

    fn recover(&mut self, now: UnixMillis) -> Result<Vec<Entry>, StoreError> {
        self.execute(
            "UPDATE invocation SET state = 0, due = ?1, epoch = epoch + 1 WHERE state < 2 AND state = 1",
            [signed(now.0)],
        )?;
        let raw = {
            let queued = "SELECT seq, function, due, deadline, epoch, attempts FROM invocation WHERE state < 2
                ORDER BY seq";
            let mut statement = self.connection.prepare(queued).map_err(store_error)?;
            let read = |row: &Row<'_>| {
                let name = row.get_ref(1)?.as_str().map(Arc::<str>::from).unwrap_or_else(|_| "".into());
                Ok(Entry {
                    seq: unsigned(row.get(0)?),
                    function: self.names.get(&name).cloned().unwrap_or(name),
                    due: UnixMillis(unsigned(row.get(2)?)),
                    deadline: UnixMillis(unsigned(row.get(3)?)),
                    epoch: row.get(4)?,
                    attempts: row.get(5)?,
                })
            };
            let rows = statement.query_map([], read).map_err(store_error)?;
            rows.collect::<rusqlite::Result<Vec<_>>>().map_err(store_error)?
        };
        Ok(raw)
    }

    fn open_trigger(&mut self, trigger: &str, seen: UnixMillis) -> Result<TriggerRecord, StoreError> {
        let first = "INSERT INTO firing (trigger_name, instant, has_fired) VALUES (?1, ?2, FALSE)
            ON CONFLICT (trigger_name) DO UPDATE SET instant = excluded.instant
            WHERE NOT has_fired AND instant > excluded.instant";
        self.execute(first, params![trigger, signed(seen.0)])?;
        let record = "SELECT instant, has_fired FROM firing WHERE trigger_name = ?1";
        let read =
            |row: &Row<'_>| Ok(TriggerRecord { settled: UnixMillis(unsigned(row.get(0)?)), has_fired: row.get(1)? });
        let record = self.row(record, [trigger], read)?;
        record.ok_or_else(|| StoreError::Failed(format!("the record of {trigger} is not there")))
    }

    fn count_dead(&mut self) -> Result<Vec<(Name, usize)>, StoreError> {
        let counts = "SELECT function, count(*) FROM invocation WHERE state = 3 GROUP BY function ORDER BY function";
        let mut statement = self.connection.prepare(counts).map_err(store_error)?;
        let read = |row: &Row<'_>| Ok((Name::from(row.get_ref(0)?.as_str()?), row.get::<_, u32>(1)? as usize));
        let rows = statement.query_map([], read).map_err(store_error)?;
        rows.collect::<rusqlite::Result<_>>().map_err(store_error)
    }

    fn bytes(&mut self) -> u64 {
        self.bytes_in_use()
    }
}

/// What tells requests with the same key apart.
pub fn fingerprint(request: &StoredRequest) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for part in [request.method.as_bytes(), b"\0", request.target.as_bytes(), b"\0", &request.body] {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}
