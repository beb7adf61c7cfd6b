//! The connections of one listener, on all its HTTP workers: how many there may be, and which is evicted for a new one.
//!
//! At the limit, a new connection replaces the longest-idle one. Without an idle one it is admitted to be answered with 503,
//! and a few past the limit are closed without an answer. A request costs no more here than two numbers. Timeouts are
//! `client_stream.rs`'s matter.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
};

/// Connections past the limit that are admitted to be answered with 503: one for so many within it.
const OVERFLOW_SHARE: usize = 8;
/// In place of the time since which a connection is idle: it serves a request.
const BUSY: u64 = u64::MAX;

/// The connections of a listener.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    /// Of one client's address, unless that is this host's.
    limit_per_client: usize,
    open: Mutex<Open>,
    /// Advances about once a second.
    clock: AtomicU64,
    /// Whether connections are to end as soon as their clients allow it.
    ending: AtomicBool,
    closed: AtomicBool,
    refused: AtomicU64,
    evicted: AtomicU64,
    /// Refused by the accept policy.
    foreign: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    /// By age.
    entries: BTreeMap<u64, Arc<Entry>>,
    next: u64,
    by_client: HashMap<IpAddr, usize>,
}

#[derive(Debug, Default)]
struct Entry {
    /// By the clock, or [`BUSY`].
    idle_since: AtomicU64,
    evicted: AtomicBool,
    /// Of the one task that serves the connection. Set under the lock.
    waker: OnceLock<Waker>,
}

/// What `/debug` shows of a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ConnectionReport {
    /// Connections now.
    pub open: usize,
    /// Connections that were refused, ever.
    pub refused: u64,
    /// Connections that were closed for others, or because they were too slow, ever.
    pub evicted: u64,
}

/// One connection's place, until dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    number: u64,
    entry: Arc<Entry>,
    client: Option<IpAddr>,
    within_limit: bool,
}

impl Connections {
    /// Allows `limit` connections, and `limit_per_client` from one address of another host.
    pub fn new(limit: usize, limit_per_client: usize) -> Arc<Self> {
        let (open, clock, ending, closed) = Default::default();
        let (refused, evicted, foreign) = Default::default();
        Arc::new(Self { limit, limit_per_client, open, clock, ending, closed, refused, evicted, foreign })
    }

    /// Admits a connection. `None`: it is to be closed without an answer.
    pub fn admit(self: &Arc<Self>, from: IpAddr) -> Option<ConnectionGuard> {
        let client = client_identity(from);
        let mut open = self.open();
        let count = open.entries.len();
        if count >= self.limit + self.limit.div_ceil(OVERFLOW_SHARE) {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        let of_client = client.map_or(0, |client| {
            let count = open.by_client.entry(client).or_default();
            *count += 1;
            *count
        });
        let is_full = count >= self.limit;
        let within_limit = of_client <= self.limit_per_client && (!is_full || self.evict_longest_idle(&open));
        if !within_limit {
            self.refused.fetch_add(1, Relaxed);
        }
        let (number, entry) = (open.next, Arc::<Entry>::default());
        open.next += 1;
        open.entries.insert(number, entry.clone());
        let guard = ConnectionGuard { connections: self.clone(), number, entry, client, within_limit };
        guard.set_idle();
        Some(guard)
    }

    /// Returns whether there was an idle connection to evict.
    fn evict_longest_idle(&self, open: &Open) -> bool {
        let candidates = open.entries.values().filter(|entry| !entry.evicted.load(Relaxed));
        let idle = candidates.map(|entry| (entry.idle_since.load(Relaxed), entry)).filter(|(since, _)| *since != BUSY);
        let Some((_, entry)) = idle.min_by_key(|(since, _)| *since) else { return false };
        entry.evicted.store(true, Relaxed);
        entry.wake();
        self.count_evicted();
        true
    }

    /// Has connections end as soon as their clients allow it.
    pub fn end(&self) {
        self.ending.store(true, Relaxed);
        self.wake_all();
    }

    /// Closes every idle connection, now and from now on.
    pub fn close_idle(&self) {
        self.closed.store(true, Relaxed);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.open().entries.values().for_each(|entry| entry.wake());
    }

    /// Advances the clock by which connections are idle. To be called about once a second.
    pub fn tick(&self) {
        self.clock.fetch_add(1, Relaxed);
    }

    /// Returns how many connections there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many connections the accept policy has refused, ever.
    pub fn foreign(&self) -> u64 {
        self.foreign.load(Relaxed)
    }

    /// Counts a connection that the accept policy has refused.
    pub fn count_foreign(&self) {
        self.foreign.fetch_add(1, Relaxed);
    }

    /// Returns the counts for `/debug`.
    pub fn report(&self) -> ConnectionReport {
        let open = self.open().entries.len();
        ConnectionReport { open, refused: self.refused.load(Relaxed), evicted: self.evicted.load(Relaxed) }
    }

    fn count_evicted(&self) {
        self.evicted.fetch_add(1, Relaxed);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionGuard {
    /// Whether the connection is within the limits. If not, its requests are answered with 503.
    pub fn is_within_limit(&self) -> bool {
        self.within_limit
    }

    /// Notes that a request is being served.
    pub fn set_busy(&self) {
        self.entry.idle_since.store(BUSY, Relaxed);
    }

    /// Notes that no request is being served.
    pub fn set_idle(&self) {
        self.entry.idle_since.store(self.connections.clock.load(Relaxed), Relaxed);
    }

    /// Whether the client is to begin no more requests on the connection.
    pub fn is_ending(&self) -> bool {
        self.connections.ending.load(Relaxed)
    }

    /// Whether the connection is to be closed as soon as it is idle. Otherwise the task of `cx` is woken when it is; always
    /// the same one.
    pub fn is_evicted(&self, cx: &Context<'_>) -> bool {
        if self.entry.waker.get().is_none() {
            // Under the lock, an eviction comes before this and is seen below, or after it and finds the waker.
            let _open = self.connections.open();
            let _ = self.entry.waker.set(cx.waker().clone());
        }
        self.entry.evicted.load(Relaxed) || self.connections.closed.load(Relaxed)
    }

    /// Wakes the task that serves the connection.
    pub fn wake(&self) {
        self.entry.wake();
    }

    /// Counts the connection as evicted: it was too slow.
    pub fn count_evicted(&self) {
        self.connections.count_evicted();
    }
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.entries.remove(&self.number);
        if let Some(client) = self.client
            && let hash_map::Entry::Occupied(mut count) = open.by_client.entry(client)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The address under which a client's connections are counted: none for this host, where one proxy may serve many clients.
fn client_identity(from: IpAddr) -> Option<IpAddr> {
    match from.to_canonical() {
        address if address.is_loopback() => None,
        // A host with one such address has all that share its first half.
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        address => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens so many connections from an address, as far as they are admitted.
    fn open_from(connections: &Arc<Connections>, from: &str, count: usize) -> Vec<ConnectionGuard> {
        (0..count).filter_map(|_| connections.admit(from.parse().unwrap())).collect()
    }

    fn open(connections: &Arc<Connections>, count: usize) -> Vec<ConnectionGuard> {
        open_from(connections, "127.0.0.1", count)
    }

    fn is_evicted(guard: &ConnectionGuard) -> bool {
        guard.is_evicted(&Context::from_waker(Waker::noop()))
    }

    fn report(connections: &Connections) -> (usize, u64, u64) {
        let ConnectionReport { open, refused, evicted } = connections.report();
        (open, refused, evicted)
    }

    #[test]
    fn the_longest_idle_connection_is_evicted_for_a_new_one() {
        let connections = Connections::new(3, 3);
        let [first, second, third] = [(); 3].map(|()| open(&connections, 1).remove(0));
        first.set_busy();
        connections.tick();
        // Idle again, for less long than the second.
        first.set_idle();
        third.set_busy();
        let fourth = open(&connections, 1).remove(0);
        assert!(fourth.is_within_limit());
        assert_eq!([&first, &second, &fourth].map(is_evicted), [false, true, false]);
        drop(second);
        assert_eq!(report(&connections), (3, 0, 1));
        drop((first, third, fourth));
        assert_eq!(report(&connections), (0, 0, 1));
    }

    #[test]
    fn a_connection_is_evicted_for_one_other_only() {
        let connections = Connections::new(8, 8);
        let here = open(&connections, 8);
        here[1..].iter().for_each(ConnectionGuard::set_busy);
        assert!(open(&connections, 1)[0].is_within_limit());
        assert!(is_evicted(&here[0]));
        assert!(!open(&connections, 1)[0].is_within_limit(), "the evicted one is still open");
    }

    #[test]
    fn without_idle_connections_some_are_answered_and_the_rest_refused() {
        let connections = Connections::new(16, 16);
        let served = open(&connections, 16);
        served.iter().for_each(ConnectionGuard::set_busy);
        let answered = [(); 2].map(|()| {
            let answered = open(&connections, 1).remove(0);
            answered.set_busy();
            answered
        });
        assert!(!answered.iter().any(ConnectionGuard::is_within_limit));
        assert!(open(&connections, 1).is_empty());
        assert_eq!(report(&connections), (18, 3, 0));
        drop((served, answered));
        assert!(open(&connections, 1)[0].is_within_limit());
    }

    #[test]
    fn a_client_is_limited_however_its_address_is_written() {
        let connections = Connections::new(20, 2);
        for (one, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1")]
        {
            let admits = |from| open_from(&connections, from, 1)[0].is_within_limit();
            let open = open_from(&connections, one, 2);
            assert!(open.iter().all(ConnectionGuard::is_within_limit));
            assert!(!admits(same) && admits(other));
            drop(open);
            assert!(admits(same));
        }
        let of_this_host = open(&connections, 9);
        assert!(of_this_host.iter().all(ConnectionGuard::is_within_limit), "a proxy on this host");
        assert!(connections.open().by_client.is_empty());
    }

    #[test]
    fn idle_connections_are_closed_at_shutdown() {
        let connections = Connections::new(3, 3);
        let here = open(&connections, 2);
        assert!(!here.iter().any(is_evicted));
        connections.close_idle();
        assert!(here.iter().all(is_evicted));
        assert_eq!(report(&connections), (2, 0, 0));
    }
}
