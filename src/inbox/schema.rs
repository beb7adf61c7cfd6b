//! The tables of the database, and their version.

/// Increases when the tables change.
pub const VERSION: i64 = 3;

/// The states of an invocation.
pub const QUEUED: i64 = 0;
pub const RUNNING: i64 = 1;
pub const DONE: i64 = 2;
pub const DEAD: i64 = 3;

/// How the connection is used: one process, one thread, and each commit synced. Checkpoints have a timer of their own.
pub const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 0;
    PRAGMA journal_size_limit = 16777216;
    PRAGMA cache_size = -2048;
    PRAGMA temp_store = MEMORY;
    PRAGMA foreign_keys = OFF;
    PRAGMA secure_delete = OFF;
";

/// Times are milliseconds since 1970. `site_due` is when an invocation is due that waits to be handed over to the site.
/// Bodies are in tables of their own, so that a look at a record reads none.
pub const TABLES: &str = "
    CREATE TABLE invocation (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL,
        function TEXT NOT NULL,
        state INTEGER NOT NULL,
        due INTEGER NOT NULL,
        epoch INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        accepted INTEGER NOT NULL,
        deadline INTEGER NOT NULL,
        ended INTEGER,
        status INTEGER,
        reason INTEGER,
        expires INTEGER,
        key TEXT,
        fingerprint BLOB,
        callback TEXT,
        callback_state INTEGER NOT NULL DEFAULT 0,
        callback_attempts INTEGER NOT NULL DEFAULT 0,
        site_due INTEGER
    );
    CREATE UNIQUE INDEX invocation_id ON invocation (id);
    CREATE UNIQUE INDEX invocation_key ON invocation (function, key) WHERE key IS NOT NULL;
    CREATE INDEX invocation_unended ON invocation (seq) WHERE state < 2;
    CREATE INDEX invocation_dead ON invocation (seq) WHERE state = 3;
    CREATE INDEX invocation_expires ON invocation (expires) WHERE expires IS NOT NULL;
    CREATE INDEX invocation_callback ON invocation (seq)
        WHERE callback IS NOT NULL AND callback_state = 0 AND state > 1;
    CREATE TABLE body (seq INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL);
    CREATE TABLE response (seq INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB);
    CREATE TABLE firing (
        trigger_name TEXT PRIMARY KEY,
        instant INTEGER NOT NULL,
        has_fired INTEGER NOT NULL DEFAULT TRUE
    ) WITHOUT ROWID;
    PRAGMA user_version = 3;
";

/// Makes tables of version 1 those of version 2: what was recorded of a trigger was a firing.
pub const FROM_1: &str = "
    ALTER TABLE firing ADD COLUMN has_fired INTEGER NOT NULL DEFAULT TRUE;
    PRAGMA user_version = 2;
";

/// Makes tables of version 2 those of version 3: nothing waited to be handed over.
pub const FROM_2: &str = "
    ALTER TABLE invocation ADD COLUMN site_due INTEGER;
    PRAGMA user_version = 3;
";

/// Indexes that are made for a database that lacks them.
pub const INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS invocation_dead_of ON invocation (function) WHERE state = 3;
    CREATE INDEX IF NOT EXISTS invocation_site ON invocation (seq) WHERE site_due IS NOT NULL AND state = 0;
";
