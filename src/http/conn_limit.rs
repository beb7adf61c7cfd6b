//! The limit of connections at one listener, shared by all HTTP workers. Which connections are evicted for others is
//! decided in `connections.rs`.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Connections past the limit that are admitted to be answered with 503: one for so many within it.
const OVERFLOW_SHARE: usize = 8;

/// Counts the connections of one listener.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limit: usize,
    /// Of one client's address, unless that is this host's.
    limit_per_client: usize,
    counts: Mutex<Counts>,
    /// Connections that found neither room nor an idle connection of their worker, since there last was room.
    evictions_wanted: AtomicUsize,
    refused: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
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

/// One counted connection, until dropped.
#[derive(Debug)]
pub struct ConnPermit {
    limiter: Arc<ConnectionLimiter>,
    client: Option<IpAddr>,
}

/// The answer to a new connection.
#[derive(Debug)]
pub enum Admission {
    Admitted(ConnPermit),
    /// Its client has as many as it may have. It may be answered with 503.
    ClientLimit(ConnPermit),
    /// The limit is reached. Another connection may be evicted for it; else it may be answered with 503.
    Full(ConnPermit),
    /// It is to be closed without an answer.
    Refused,
}

impl ConnectionLimiter {
    /// Allows `limit` connections, and `limit_per_client` from one address of another host.
    pub fn new(limit: usize, limit_per_client: usize) -> Arc<Self> {
        let (counts, evictions_wanted, refused, evicted) = Default::default();
        Arc::new(Self { limit, limit_per_client, counts, evictions_wanted, refused, evicted })
    }

    /// Returns the counts for `/debug`.
    pub fn report(&self) -> ConnectionReport {
        ConnectionReport {
            open: self.counts().all,
            refused: self.refused.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// Counts a new connection, if there is room for it or for an answer to it.
    pub fn admit(self: &Arc<Self>, from: IpAddr) -> Admission {
        let client = client_identity(from);
        let mut counts = self.counts();
        if counts.all >= self.limit + self.limit.div_ceil(OVERFLOW_SHARE) {
            return Admission::Refused;
        }
        counts.all += 1;
        let full = counts.all > self.limit;
        let of_client = client.map_or(0, |client| {
            let count = counts.by_client.entry(client).or_default();
            *count += 1;
            *count
        });
        drop(counts);
        let permit = ConnPermit { limiter: self.clone(), client };
        match full {
            _ if of_client > self.limit_per_client => Admission::ClientLimit(permit),
            true => Admission::Full(permit),
            false => {
                self.evictions_wanted.store(0, Ordering::Relaxed);
                Admission::Admitted(permit)
            }
        }
    }

    /// Counts a refused connection.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an evicted connection.
    pub fn count_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks all workers to evict one more idle connection.
    pub fn want_eviction(&self) {
        self.evictions_wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a worker wants another worker's idle connection evicted.
    pub fn is_eviction_wanted(&self) -> bool {
        self.evictions_wanted.load(Ordering::Relaxed) > 0
    }

    /// Notes that one wanted eviction has been carried out.
    pub fn eviction_done(&self) {
        // Zero stays zero: another worker may have been faster, and then one more connection is evicted than needed.
        let _ =
            self.evictions_wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| wanted.checked_sub(1));
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnPermit {
    fn drop(&mut self) {
        let mut counts = self.limiter.counts();
        counts.all -= 1;
        if let Some(client) = self.client
            && let Entry::Occupied(mut count) = counts.by_client.entry(client)
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

    /// Admits a connection; whether it is within the limits.
    fn admit(limiter: &Arc<ConnectionLimiter>, from: &str) -> (bool, Option<ConnPermit>) {
        match limiter.admit(from.parse().unwrap()) {
            Admission::Admitted(permit) => (true, Some(permit)),
            Admission::ClientLimit(permit) | Admission::Full(permit) => (false, Some(permit)),
            Admission::Refused => (false, None),
        }
    }

    #[test]
    fn a_client_is_limited_however_its_address_is_written() {
        let limiter = ConnectionLimiter::new(20, 2);
        for (one, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1")]
        {
            let open = [admit(&limiter, one), admit(&limiter, one)];
            assert!(open.iter().all(|(admitted, _)| *admitted));
            assert!(!admit(&limiter, same).0 && admit(&limiter, other).0);
            drop(open);
            assert!(admit(&limiter, same).0);
        }
        let of_this_host: Vec<_> = (0..9).map(|_| admit(&limiter, "127.0.0.1")).collect();
        assert!(of_this_host.iter().all(|(admitted, _)| *admitted), "a proxy on this host");
        assert!(limiter.counts().by_client.is_empty());
    }

    #[test]
    fn past_the_limit_some_are_admitted_for_an_answer_and_the_rest_refused() {
        let limiter = ConnectionLimiter::new(16, 16);
        let open: Vec<_> = (0..19).map(|_| admit(&limiter, "127.0.0.1")).collect();
        let count =
            |within, counted| open.iter().filter(|(w, permit)| (*w, permit.is_some()) == (within, counted)).count();
        assert_eq!((count(true, true), count(false, true), count(false, false)), (16, 2, 1));
        assert_eq!(limiter.report().open, 18);
        drop(open);
        assert_eq!(limiter.report().open, 0);
    }

    #[test]
    fn no_eviction_is_wanted_once_there_is_room() {
        let limiter = ConnectionLimiter::new(1, 1);
        limiter.eviction_done();
        assert!(!limiter.is_eviction_wanted());
        limiter.want_eviction();
        limiter.want_eviction();
        limiter.eviction_done();
        assert!(limiter.is_eviction_wanted());
        assert!(admit(&limiter, "127.0.0.1").0 && !limiter.is_eviction_wanted());
    }
}
