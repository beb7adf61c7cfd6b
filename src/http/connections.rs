//! The open connections of one listener and worker: which are idle, and which is evicted for a new one.
//!
//! At the limit (`conn_limit.rs`), a new connection replaces the worker's longest-idle one. Without an idle one it is
//! admitted to be answered with 503, and another worker is asked to evict an idle connection for the next. A request
//! costs no more here than two numbers. Timeouts are `client_stream.rs`'s matter.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use super::conn_limit::{Admission, ConnPermit, ConnectionLimiter};

/// The connections of one listener that one HTTP worker serves.
#[derive(Debug)]
pub struct ConnectionTable {
    limiter: Arc<ConnectionLimiter>,
    /// By age.
    entries: RefCell<BTreeMap<u64, Rc<Entry>>>,
    next: Cell<u64>,
    /// How often any connection has become idle.
    idle_clock: Cell<u64>,
    closed: Cell<bool>,
}

/// One connection's place in the table, until dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    table: Rc<ConnectionTable>,
    number: u64,
    entry: Rc<Entry>,
    within_limit: bool,
    _permit: ConnPermit,
}

#[derive(Debug, Default)]
struct Entry {
    /// When it became idle, by the table's idle clock. `None`: it serves a request.
    idle_since: Cell<Option<u64>>,
    evicted: Cell<bool>,
    /// Of the one task that serves the connection.
    waker: RefCell<Option<Waker>>,
}

impl ConnectionTable {
    /// Makes a table without connections.
    pub fn new(limiter: Arc<ConnectionLimiter>) -> Rc<Self> {
        let (entries, next, idle_clock, closed) = Default::default();
        Rc::new(Self { limiter, entries, next, idle_clock, closed })
    }

    /// Admits a connection. `None`: it is to be closed without an answer.
    pub fn admit(self: &Rc<Self>, from: IpAddr) -> Option<ConnectionGuard> {
        let (permit, within_limit) = match self.limiter.admit(from) {
            Admission::Admitted(permit) => (permit, true),
            Admission::Full(permit) => {
                let evicted = self.evict_longest_idle();
                if !evicted {
                    self.limiter.want_eviction();
                }
                (permit, evicted)
            }
            Admission::ClientLimit(permit) => (permit, false),
            Admission::Refused => {
                self.limiter.count_refused();
                return None;
            }
        };
        if !within_limit {
            self.limiter.count_refused();
        }
        let number = self.next.replace(self.next.get() + 1);
        let entry = Rc::new(Entry::default());
        self.entries.borrow_mut().insert(number, entry.clone());
        let guard = ConnectionGuard { table: self.clone(), number, entry, within_limit, _permit: permit };
        guard.set_idle();
        Some(guard)
    }

    /// Evicts idle connections for those that other workers could not admit. To be called about once a second.
    pub fn sweep(&self) {
        while self.limiter.is_eviction_wanted() && self.evict_longest_idle() {
            self.limiter.eviction_done();
        }
    }

    /// Closes every idle connection, now and from now on.
    pub fn close_idle(&self) {
        self.closed.set(true);
        self.entries.borrow().values().for_each(|entry| entry.wake());
    }

    /// Returns whether there was an idle connection to evict.
    fn evict_longest_idle(&self) -> bool {
        let entries = self.entries.borrow();
        let candidates = entries.values().filter(|entry| !entry.evicted.get());
        let longest = candidates.filter_map(|entry| Some((entry.idle_since.get()?, entry))).min_by_key(|(at, _)| *at);
        let Some((_, entry)) = longest else { return false };
        entry.evicted.set(true);
        entry.wake();
        self.limiter.count_evicted();
        true
    }
}

impl ConnectionGuard {
    /// Whether the connection is within the limits. If not, its requests are answered with 503.
    pub fn is_within_limit(&self) -> bool {
        self.within_limit
    }

    /// Notes that a request is being served.
    pub fn set_busy(&self) {
        self.entry.idle_since.set(None);
    }

    /// Notes that no request is being served.
    pub fn set_idle(&self) {
        if self.entry.idle_since.get().is_none() {
            let clock = &self.table.idle_clock;
            self.entry.idle_since.set(Some(clock.replace(clock.get() + 1)));
        }
    }

    /// Whether the connection is to be closed as soon as it is idle. Otherwise the task of `cx` is woken when it is.
    pub fn is_evicted(&self, cx: &Context<'_>) -> bool {
        if self.entry.evicted.get() || self.table.closed.get() {
            return true;
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }

    /// Wakes the task that serves the connection.
    pub fn wake(&self) {
        self.entry.wake();
    }

    /// Counts the connection as evicted: it was too slow.
    pub fn count_evicted(&self) {
        self.table.limiter.count_evicted();
    }
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::conn_limit::ConnectionReport, *};

    fn table(limit: usize) -> Rc<ConnectionTable> {
        ConnectionTable::new(ConnectionLimiter::new(limit, limit))
    }

    /// Opens so many connections, as far as they are admitted.
    fn open(table: &Rc<ConnectionTable>, count: usize) -> Vec<ConnectionGuard> {
        (0..count).filter_map(|_| table.admit("127.0.0.1".parse().unwrap())).collect()
    }

    fn is_evicted(guard: &ConnectionGuard) -> bool {
        guard.is_evicted(&Context::from_waker(Waker::noop()))
    }

    fn report(table: &ConnectionTable) -> (usize, u64, u64) {
        let ConnectionReport { open, refused, evicted } = table.limiter.report();
        (open, refused, evicted)
    }

    #[test]
    fn the_longest_idle_connection_is_evicted_for_a_new_one() {
        let table = table(3);
        let [first, second, third] = [(); 3].map(|()| open(&table, 1).remove(0));
        first.set_busy();
        // Idle again, for less long than the second.
        first.set_idle();
        third.set_busy();
        let fourth = open(&table, 1).remove(0);
        assert!(fourth.is_within_limit());
        assert_eq!([&first, &second, &fourth].map(is_evicted), [false, true, false]);
        drop(second);
        assert_eq!(report(&table), (3, 0, 1));
        drop((first, third, fourth));
        assert_eq!(report(&table), (0, 0, 1));
        assert!(table.entries.borrow().is_empty());
    }

    #[test]
    fn a_connection_is_evicted_for_one_other_only() {
        let table = table(8);
        let here = open(&table, 8);
        here[1..].iter().for_each(ConnectionGuard::set_busy);
        assert!(open(&table, 1)[0].is_within_limit());
        assert!(is_evicted(&here[0]));
        assert!(!open(&table, 1)[0].is_within_limit(), "the evicted one is still open");
    }

    #[test]
    fn without_idle_connections_some_are_answered_and_the_rest_refused() {
        let table = table(8);
        let served = open(&table, 8);
        served.iter().for_each(ConnectionGuard::set_busy);
        let answered = open(&table, 1).remove(0);
        answered.set_busy();
        assert!(!answered.is_within_limit());
        assert!(open(&table, 1).is_empty());
        assert_eq!(report(&table), (9, 2, 0));
        drop((served, answered));
        assert!(open(&table, 1)[0].is_within_limit());
    }

    #[test]
    fn another_workers_idle_connection_is_evicted_for_the_next() {
        let limiter = ConnectionLimiter::new(2, 2);
        let (one, other) = (ConnectionTable::new(limiter.clone()), ConnectionTable::new(limiter));
        let idle = open(&one, 1).remove(0);
        let served = open(&other, 1).remove(0);
        served.set_busy();
        assert!(!open(&other, 1)[0].is_within_limit());
        one.sweep();
        assert!(is_evicted(&idle));
        drop(idle);
        assert!(open(&other, 1)[0].is_within_limit());
    }

    #[test]
    fn idle_connections_are_closed_at_shutdown() {
        let table = table(3);
        let here = open(&table, 2);
        assert!(!here.iter().any(is_evicted));
        table.close_idle();
        assert!(here.iter().all(is_evicted));
        assert_eq!(report(&table), (2, 0, 0));
    }
}
