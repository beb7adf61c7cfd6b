//! Idle connections to instances and other nodes, shared by all HTTP workers.
//!
//! An instance never has more connections than slots, or a single-threaded server would wait on the idle connection of
//! one worker while a request waits on that of another. At the limit a worker uses the connection of another worker:
//! two wake-ups across threads cost less than a handshake, and leave no port in TIME_WAIT.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::HashMap;
use tokio::time::Instant;

use super::{
    connection::{Connection, OpenGuard, this_worker},
    remote::{Remote, RemoteId},
};

/// How long an idle connection is kept: less than the five seconds after which common servers close theirs.
const KEPT: Duration = Duration::from_secs(4);

/// The connections to all instances.
#[derive(Debug, Default)]
pub struct ConnectionPools(Mutex<HashMap<RemoteId, Pool>>);

#[derive(Debug)]
struct Pool {
    remote: Remote,
    /// The most recently used one is the last.
    #[expect(clippy::vec_box, reason = "each moves to a request and back")]
    idle: Vec<Box<Connection>>,
    /// Idle connections and those in use.
    open: Arc<AtomicUsize>,
    /// The instance has closed an idle connection before its time. It may do so again just when a request arrives, so
    /// only requests that may be repeated go on idle connections.
    closes_early: bool,
}

impl Pool {
    fn is_full(&self) -> bool {
        self.open.load(Relaxed) >= self.remote.max_connections()
    }

    /// Notes that an idle connection was closed. Another node does that only when its daemon ends or is upgraded.
    fn note_early_close(&mut self) {
        self.closes_early |= matches!(self.remote, Remote::Instance(_));
    }
}

impl ConnectionPools {
    /// Returns pools without a connection.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the most recently used connection of this worker, or that of another worker if the instance may have no
    /// more. `None`: one is to be opened. `now`: a moment ago.
    pub(super) fn take(&self, remote: RemoteId, is_repeatable: bool, now: Instant) -> Option<Box<Connection>> {
        let mut expired = Vec::new();
        let mut pools = self.lock();
        let pool = pools.get_mut(&remote)?;
        let worker = this_worker();
        let taken = loop {
            if pool.closes_early && !is_repeatable {
                break None;
            }
            let own = pool.idle.iter().rposition(|connection| connection.worker == worker);
            let taken = match own {
                Some(index) => pool.idle.remove(index),
                None if pool.is_full() => match pool.idle.pop() {
                    Some(connection) => connection,
                    None => break None,
                },
                None => break None,
            };
            let is_closed = taken.sender.is_closed();
            if now - taken.idle_since < KEPT && !is_closed {
                break Some(taken);
            }
            if is_closed {
                pool.note_early_close();
            }
            expired.push(taken);
        };
        // Dropped connections wake their tasks.
        drop(pools);
        taken
    }

    /// Counts a connection that is about to be opened. At the limit, an idle one is closed for it.
    pub(super) fn reserve(&self, remote: &Remote) -> OpenGuard {
        let mut pools = self.lock();
        let pool = pools.entry(remote.id()).or_insert_with(|| Pool {
            remote: remote.clone(),
            idle: Vec::new(),
            open: Arc::default(),
            closes_early: false,
        });
        let guard = OpenGuard::new(&pool.open);
        let replaced = if pool.open.load(Relaxed) > remote.max_connections() { pool.idle.pop() } else { None };
        drop(pools);
        drop(replaced);
        guard
    }

    /// Keeps a connection for the next request.
    pub(super) fn give_back(&self, mut connection: Box<Connection>) {
        let remote = &connection.remote;
        if remote.is_single_use() || !remote.is_live() || connection.sender.is_closed() {
            return;
        }
        let remote = remote.id();
        connection.reused = true;
        connection.idle_since = Instant::now();
        // The pool is there as long as the instance is.
        if let Some(pool) = self.lock().get_mut(&remote) {
            pool.idle.push(connection);
        }
    }

    /// Notes that an idle connection was closed by the other side.
    pub(super) fn note_early_close(&self, remote: RemoteId) {
        if let Some(pool) = self.lock().get_mut(&remote) {
            pool.note_early_close();
        }
    }

    /// Closes connections that have been idle for four seconds, and forgets ended instances. To be called about once a
    /// second.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut closed = Vec::new();
        let mut pools = self.lock();
        pools.retain(|_, pool| {
            let is_live = pool.remote.is_live();
            let is_old = |connection: &mut Box<Connection>| !is_live || now - connection.idle_since >= KEPT;
            closed.extend(pool.idle.extract_if(.., is_old));
            is_live
        });
        drop(pools);
        mem::drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RemoteId, Pool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the idle and the open connections of an instance.
    #[cfg(test)]
    pub(super) fn counts(&self, remote: RemoteId) -> (usize, usize) {
        self.lock().get(&remote).map_or((0, 0), |pool| (pool.idle.len(), pool.open.load(Relaxed)))
    }
}
