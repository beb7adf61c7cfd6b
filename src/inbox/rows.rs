//! Rows of the database, and the records that they stand for.

use std::sync::Arc;

use rusqlite::Row;
use unifaas_actors::inbox::{Callback, CallbackState, DeadReason, InvocationId, Record, State, UnixMillis};

use super::schema::{DONE, QUEUED, RUNNING};

/// The columns of a [`RawRecord`].
pub const COLUMNS: &str = "seq, id, function, state, due, epoch, attempts, accepted, deadline, ended, status, reason, key, \
    callback, callback_state, callback_attempts, site_due";

/// A record as its row has it.
pub struct RawRecord {
    seq: i64,
    id: InvocationId,
    function: String,
    state: i64,
    /// When its attempt is due, or the delivery of its result.
    pub due: i64,
    epoch: u32,
    attempts: u32,
    accepted: i64,
    deadline: i64,
    ended: Option<i64>,
    status: Option<u16>,
    reason: Option<i64>,
    key: Option<String>,
    callback: Option<String>,
    callback_state: i64,
    callback_attempts: u32,
    /// When it is due at the site that it waits to be handed over to.
    pub site_due: Option<i64>,
}

impl RawRecord {
    /// Reads a row of [`COLUMNS`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: id_of(row, 1)?,
            function: row.get(2)?,
            state: row.get(3)?,
            due: row.get(4)?,
            epoch: row.get(5)?,
            attempts: row.get(6)?,
            accepted: row.get(7)?,
            deadline: row.get(8)?,
            ended: row.get(9)?,
            status: row.get(10)?,
            reason: row.get(11)?,
            key: row.get(12)?,
            callback: row.get(13)?,
            callback_state: row.get(14)?,
            callback_attempts: row.get(15)?,
            site_due: row.get(16)?,
        })
    }

    /// Makes the record. `name` returns a shared name of a function.
    pub fn into_record(self, mut name: impl FnMut(&str) -> Arc<str>) -> Record {
        let time = |millis: i64| UnixMillis(unsigned(millis));
        let (ended, status) = (time(self.ended.unwrap_or_default()), self.status);
        let state = match self.state {
            QUEUED => State::Queued { due: time(self.due) },
            RUNNING => State::Running,
            DONE => State::Done { ended, status: status.unwrap_or_default() },
            _ => State::Dead { ended, reason: reason_of(self.reason.unwrap_or_default()), status },
        };
        let callback = self.callback.map(|url| Callback {
            url: url.into(),
            attempts: self.callback_attempts,
            state: callback_of(self.callback_state),
        });
        Record {
            seq: unsigned(self.seq),
            id: self.id,
            function: name(&self.function),
            state,
            epoch: self.epoch,
            attempts: self.attempts,
            accepted: time(self.accepted),
            deadline: time(self.deadline),
            key: self.key.map(Into::into),
            callback,
        }
    }
}

/// Returns the id in a column.
pub fn id_of(row: &Row<'_>, column: usize) -> rusqlite::Result<InvocationId> {
    Ok(InvocationId(u128::from_be_bytes(row.get(column)?)))
}

/// Returns how a reason is stored.
pub fn reason_code(reason: DeadReason) -> i64 {
    match reason {
        DeadReason::Rejected => 0,
        DeadReason::AttemptsExhausted => 1,
        DeadReason::Expired => 2,
    }
}

fn reason_of(code: i64) -> DeadReason {
    match code {
        0 => DeadReason::Rejected,
        1 => DeadReason::AttemptsExhausted,
        _ => DeadReason::Expired,
    }
}

/// Returns how the state of a delivery is stored.
pub fn callback_code(state: CallbackState) -> i64 {
    match state {
        CallbackState::Waiting => 0,
        CallbackState::Delivered => 1,
        CallbackState::Failed => 2,
    }
}

fn callback_of(code: i64) -> CallbackState {
    match code {
        0 => CallbackState::Waiting,
        1 => CallbackState::Delivered,
        _ => CallbackState::Failed,
    }
}

/// Returns a number as SQLite has it: its integers have a sign.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Does the opposite of [`signed`].
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
