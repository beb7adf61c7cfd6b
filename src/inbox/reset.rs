//! Sets a damaged database aside, so that a new one can be begun. Only a person decides that.

use std::{fs, io, path::Path};

use unifaas_actors::inbox::{StoreError, UnixMillis};

use super::sqlite::{OpenError, SqliteStore};

/// What SQLite adds to the name of a database for its other files.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Why the database is not set aside.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("the inbox is not damaged: its database stays as it is")]
    NotDamaged,
    #[error("the daemon ends")]
    Ending,
    #[error("the damaged database cannot be set aside: {0}")]
    Rename(io::Error),
    #[error("no new database can be begun: {0}")]
    Open(#[from] OpenError),
    #[error("no new database can be begun: {0}")]
    Store(#[from] StoreError),
}

/// Renames the files of a database. Returns the new name of its main file.
///
/// # Errors
/// When one cannot be renamed.
pub fn set_aside(path: &Path, now: UnixMillis) -> io::Result<String> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = format!("{file}.damaged-{}", now.0);
    // The main file is the last one: with an error before, it stays in its place.
    for suffix in SUFFIXES.iter().rev() {
        match fs::rename(
            path.with_file_name(format!("{file}{suffix}")),
            path.with_file_name(format!("{aside}{suffix}")),
        ) {
            Err(error) if suffix.is_empty() || error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Begins a new database. Its invocations have numbers that the one before cannot have given.
///
/// # Errors
/// When it cannot be written.
pub fn begin_anew(path: &Path, limit: u64, now: UnixMillis) -> Result<(), ResetError> {
    Ok(SqliteStore::open(path, limit)?.number_from(now.0)?)
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;
    use unifaas_actors::inbox::Store as _;

    use super::*;

    #[test]
    fn a_new_database_takes_the_place_of_a_damaged_one() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("inbox.db");
        fs::write(&path, "damaged").unwrap();
        fs::write(directory.path().join("inbox.db-wal"), "log").unwrap();
        let aside = set_aside(&path, UnixMillis(42)).unwrap();
        assert_eq!(aside, "inbox.db.damaged-42");
        assert_eq!(fs::read_to_string(directory.path().join(&aside)).unwrap(), "damaged");
        assert_eq!(fs::read_to_string(directory.path().join("inbox.db.damaged-42-wal")).unwrap(), "log");
        begin_anew(&path, 1 << 30, UnixMillis(7000)).unwrap();
        let mut store = SqliteStore::open(&path, 1 << 30).unwrap();
        store.begin().unwrap();
        let stored = store.enqueue(&super::super::tests::new_invocation(), 0, UnixMillis(1)).unwrap();
        assert_eq!(stored.unwrap().1.map(|entry| entry.seq), Some(7001));
    }

    #[test]
    fn a_database_that_is_not_there_cannot_be_set_aside() {
        let directory = tempdir().unwrap();
        assert!(set_aside(&directory.path().join("inbox.db"), UnixMillis(1)).is_err());
    }
}
