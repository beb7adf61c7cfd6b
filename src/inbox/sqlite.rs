//! The database of invocations: SQLite, each commit synced to disk before anything is answered.
//!
//! One thread owns the connection (`thread.rs`), and one daemon the file: a second daemon that opens it meanwhile finds it
//! locked. `schema.rs` has the tables, and `store.rs` what is done with them.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Params, Row};
use unifaas_actors::inbox::{Found, Record, RecordedResponse, StoreError, StoredRequest};

use super::{
    rows::{COLUMNS, RawRecord, signed, unsigned},
    schema::{FROM_1, FROM_2, INDEXES, SETTINGS, TABLES, VERSION},
};

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("another daemon uses {}", .0.display())]
    InUse(PathBuf),
    #[error("{} cannot be created: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{} was written by a newer version of the daemon: its tables have version {version}", path.display())]
    Newer { path: PathBuf, version: i64 },
    #[error("{}: {source}", path.display())]
    Store { path: PathBuf, source: StoreError },
}

/// The database.
#[derive(Debug)]
pub struct SqliteStore {
    pub(super) connection: Connection,
    pub(super) directory: PathBuf,
    /// Bytes that it may use.
    pub(super) limit: u64,
    /// The functions' names, so that records share them.
    pub(super) names: HashSet<Arc<str>>,
}

impl SqliteStore {
    /// Opens the database, and creates it if there is none. `limit`: bytes that it may use.
    ///
    /// # Errors
    /// Another daemon has it, it is damaged, or of a newer version.
    pub fn open(path: &Path, limit: u64) -> Result<Self, OpenError> {
        // Requests may be secret.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
        let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse(path.to_owned()),
            _ => OpenError::Store { path: path.to_owned(), source: store_error(source) },
        };
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection.execute_batch(SETTINGS).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        // Takes the lock, which is kept.
        connection.execute_batch("BEGIN EXCLUSIVE").map_err(failed)?;
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match version {
            0 => connection.execute_batch(TABLES).map_err(failed)?,
            1 => [FROM_1, FROM_2].iter().try_for_each(|step| connection.execute_batch(step)).map_err(failed)?,
            2 => connection.execute_batch(FROM_2).map_err(failed)?,
            VERSION => {}
            _ => return Err(OpenError::Newer { path: path.to_owned(), version }),
        }
        connection.execute_batch(INDEXES).map_err(failed)?;
        connection.execute_batch("COMMIT").map_err(failed)?;
        let directory = path.parent().unwrap_or(path).to_owned();
        Ok(Self { connection, directory, limit, names: HashSet::new() })
    }

    /// Has the numbers of invocations of an empty database go on behind `last`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn number_from(&self, last: u64) -> Result<(), StoreError> {
        self.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('invocation', ?1)", [signed(last)]).map(drop)
    }

    /// Moves what has been committed from the log to the database file, so that the log can begin again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(store_error)
    }

    pub(super) fn execute(&self, statement: &str, params: impl Params) -> Result<usize, StoreError> {
        self.connection.prepare_cached(statement).and_then(|mut it| it.execute(params)).map_err(store_error)
    }

    pub(super) fn row<T>(
        &self,
        statement: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(statement).map_err(store_error)?;
        statement.query_row(params, map).optional().map_err(store_error)
    }

    pub(super) fn number(&self, pragma: &str) -> u64 {
        self.row(pragma, [], |row| row.get::<_, i64>(0)).ok().flatten().map_or(0, unsigned)
    }

    /// Returns the bytes in use. What has been removed is used again.
    pub(super) fn bytes_in_use(&self) -> u64 {
        let pages = self.number("PRAGMA page_count").saturating_sub(self.number("PRAGMA freelist_count"));
        pages * self.number("PRAGMA page_size")
    }

    pub(super) fn name(&mut self, function: &str) -> Arc<str> {
        if let Some(name) = self.names.get(function) {
            return name.clone();
        }
        let name = Arc::<str>::from(function);
        self.names.insert(name.clone());
        name
    }

    pub(super) fn record(&mut self, condition: &str, params: impl Params) -> Result<Option<Record>, StoreError> {
        Ok(self.records(condition, params)?.pop())
    }

    pub(super) fn records(&mut self, condition: &str, params: impl Params) -> Result<Vec<Record>, StoreError> {
        let raw = self.raw_records(condition, params)?;
        Ok(raw.into_iter().map(|raw| raw.into_record(|name| self.name(name))).collect())
    }

    pub(super) fn raw_records(&self, condition: &str, params: impl Params) -> Result<Vec<RawRecord>, StoreError> {
        let statement = format!("SELECT {COLUMNS} FROM invocation WHERE {condition}");
        let mut statement = self.connection.prepare_cached(&statement).map_err(store_error)?;
        let rows = statement.query_map(params, RawRecord::read).map_err(store_error)?;
        rows.collect::<rusqlite::Result<Vec<_>>>().map_err(store_error)
    }

    /// Removes the bodies of an invocation.
    pub(super) fn drop_bodies(&self, seq: i64) -> Result<(), StoreError> {
        self.execute("DELETE FROM body WHERE seq = ?1", [seq])?;
        self.execute("DELETE FROM response WHERE seq = ?1", [seq])?;
        Ok(())
    }

    pub(super) fn with_response(&self, record: Record) -> Result<Found, StoreError> {
        let row = self.row("SELECT head, body FROM response WHERE seq = ?1", [signed(record.seq)], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
        })?;
        let response = match row {
            Some((head, body)) => {
                let response: RecordedResponse = postcard::from_bytes(&head).map_err(unreadable)?;
                Some(RecordedResponse { body: body.map(Bytes::from), ..response })
            }
            None => None,
        };
        Ok(Found { record, response })
    }

    pub(super) fn load_request(&self, seq: i64) -> Result<Option<StoredRequest>, StoreError> {
        let row = self.row("SELECT head, body FROM body WHERE seq = ?1", [seq], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?;
        let Some((head, body)) = row else { return Ok(None) };
        let request: StoredRequest = postcard::from_bytes(&head).map_err(unreadable)?;
        Ok(Some(StoredRequest { body: body.into(), ..request }))
    }
}

/// Returns what an error of SQLite means.
pub fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error.to_string()),
        _ => StoreError::Failed(error.to_string()),
    }
}

/// Returns the error of a stored request or response.
pub fn unreadable(error: postcard::Error) -> StoreError {
    StoreError::Failed(format!("a stored request or response cannot be read or written: {error}"))
}
