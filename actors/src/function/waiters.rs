//! The queue of callers that wait for a slot, in the order of arrival, each with a deadline.
//!
//! Pure: the actor answers the callers that it removes. Generic over the reply channel, so that tests need none.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Waiters<P> {
    /// By ticket. Tickets are issued in the order of arrival.
    queue: BTreeMap<u64, Waiter<P>>,
    deadlines: BTreeSet<(Instant, u64)>,
}

/// One waiting caller.
#[derive(Debug)]
pub(crate) struct Waiter<P> {
    pub since: Instant,
    pub deadline: Instant,
    /// The version of the spec that was in force when it came. It accepts no older instance.
    pub revision: u64,
    /// Receives its slot or its refusal.
    pub reply: P,
}

impl<P> Default for Waiters<P> {
    fn default() -> Self {
        Self { queue: BTreeMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<P> Waiters<P> {
    pub fn push(&mut self, ticket: u64, waiter: Waiter<P>) {
        self.deadlines.insert((waiter.deadline, ticket));
        self.queue.insert(ticket, waiter);
    }

    pub fn remove(&mut self, ticket: u64) -> Option<Waiter<P>> {
        let waiter = self.queue.remove(&ticket)?;
        self.deadlines.remove(&(waiter.deadline, ticket));
        Some(waiter)
    }

    /// Returns the caller that has waited longest.
    pub fn head(&self) -> Option<&Waiter<P>> {
        self.queue.first_key_value().map(|(_, waiter)| waiter)
    }

    /// Returns since when the caller at that position waits.
    pub fn since_of(&self, position: usize) -> Option<Instant> {
        self.queue.values().nth(position).map(|waiter| waiter.since)
    }

    pub fn pop(&mut self) -> Option<Waiter<P>> {
        let ticket = *self.queue.first_key_value()?.0;
        self.remove(ticket)
    }

    /// Removes a caller whose deadline has passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Waiter<P>> {
        let (deadline, ticket) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(ticket)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns how many callers came before `revision` was in force.
    pub fn older_than(&self, revision: u64) -> usize {
        // Revisions grow with tickets, so older callers are at the front.
        self.queue.values().take_while(|waiter| waiter.revision < revision).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn waiter(now: Instant, timeout_ms: u64, revision: u64) -> Waiter<u64> {
        Waiter { since: now, deadline: now + Duration::from_millis(timeout_ms), revision, reply: timeout_ms }
    }

    #[test]
    fn pops_callers_in_the_order_of_arrival() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        for (ticket, timeout) in [(0, 50), (1, 10), (2, 30)] {
            waiters.push(ticket, waiter(now, timeout, 0));
        }
        assert_eq!(waiters.head().unwrap().reply, 50);
        assert_eq!((waiters.since_of(2), waiters.since_of(3)), (Some(now), None));
        let order: Vec<u64> = std::iter::from_fn(|| waiters.pop()).map(|waiter| waiter.reply).collect();
        assert_eq!(order, [50, 10, 30]);
        assert_eq!((waiters.len(), waiters.next_deadline()), (0, None));
    }

    #[test]
    fn expires_callers_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        for (ticket, timeout) in [(0, 50), (1, 10), (2, 30)] {
            waiters.push(ticket, waiter(now, timeout, 0));
        }
        assert_eq!(waiters.next_deadline(), Some(now + Duration::from_millis(10)));
        let late = now + Duration::from_millis(30);
        let expired: Vec<u64> = std::iter::from_fn(|| waiters.pop_expired(late)).map(|waiter| waiter.reply).collect();
        assert_eq!(expired, [10, 30]);
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn removes_a_caller_once() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        waiters.push(7, waiter(now, 50, 0));
        assert!(waiters.remove(7).is_some());
        assert!(waiters.remove(7).is_none());
        assert!(waiters.pop_expired(now + Duration::from_secs(1)).is_none());
    }

    #[test]
    fn counts_callers_of_older_revisions() {
        let now = Instant::now();
        let mut waiters = Waiters::default();
        for (ticket, revision) in [(0, 1), (1, 1), (2, 2)] {
            waiters.push(ticket, waiter(now, 50, revision));
        }
        assert_eq!([waiters.older_than(1), waiters.older_than(2), waiters.older_than(3)], [0, 2, 3]);
    }
}
