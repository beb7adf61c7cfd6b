//! Requests and responses as rows, and dead letters of the site, which come with both.

use rusqlite::params;
use unifaas_actors::inbox::{
    DeadLetter, Found, Record, RecordedResponse, State, Store as _, StoreError, StoredRequest, UnixMillis,
};

use super::{
    rows::{reason_code, signed},
    schema::DEAD,
    sqlite::{SqliteStore, unreadable},
    store::fingerprint,
};

impl SqliteStore {
    pub(super) fn store_request(&self, seq: i64, request: &StoredRequest) -> Result<(), StoreError> {
        let head = postcard::to_allocvec(request).map_err(unreadable)?;
        let stored = "INSERT INTO body (seq, head, body) VALUES (?1, ?2, ?3)";
        self.execute(stored, params![seq, head, &*request.body]).map(drop)
    }

    /// Stores a response: its head in any case, its body only while there is space.
    pub(super) fn store_response(&self, seq: i64, response: &RecordedResponse) -> Result<(), StoreError> {
        let head = postcard::to_allocvec(response).map_err(unreadable)?;
        let body = response.body.as_deref().filter(|_| self.bytes_in_use() < self.limit);
        let stored = "INSERT OR REPLACE INTO response (seq, head, body) VALUES (?1, ?2, ?3)";
        self.execute(stored, params![seq, head, body]).map(drop)
    }

    pub(super) fn import_letter(&mut self, letter: &DeadLetter, now: UnixMillis) -> Result<bool, StoreError> {
        let DeadLetter { found: Found { record, response }, request, keep } = letter;
        let Record { id, function, epoch, attempts, accepted, deadline, key, .. } = record;
        let State::Dead { ended, reason, status } = record.state else { return Ok(false) };
        if self.find(*id)?.is_some() {
            return Ok(false);
        }
        // A key belongs to one invocation of this node.
        let imported = "INSERT INTO invocation (id, function, state, due, epoch, attempts, accepted, deadline, ended,
                status, reason, expires, fingerprint, key)
            SELECT ?1, ?2, ?3, ?9, ?4, ?5, ?6, ?7, ?9, ?10, ?11, ?12, ?13,
                CASE WHEN EXISTS (SELECT 1 FROM invocation WHERE function = ?2 AND key = ?8) THEN NULL ELSE ?8 END";
        self.execute(
            imported,
            params![
                id.0.to_be_bytes(),
                &**function,
                DEAD,
                epoch,
                attempts,
                signed(accepted.0),
                signed(deadline.0),
                key.as_deref(),
                signed(ended.0),
                status,
                reason_code(reason),
                signed(now.after(*keep).0),
                key.as_ref().map(|_| fingerprint(request)),
            ],
        )?;
        let seq = self.connection.last_insert_rowid();
        self.store_request(seq, request)?;
        response.iter().try_for_each(|response| self.store_response(seq, response))?;
        Ok(true)
    }
}
