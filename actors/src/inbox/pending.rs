//! Which queued invocation is next: due times, turns between functions, and limits. Pure.
//!
//! Within a function the invocation that is due first is next; functions take turns. Bodies and requests stay in the
//! store: an invocation takes some 90 bytes here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use indexmap::IndexMap;

use super::{
    record::{Entry, Seq},
    time::UnixMillis,
};

/// The queued invocations of all functions.
#[derive(Debug, Default)]
pub struct Pending {
    /// By name. Functions stay, so that their positions do.
    queues: IndexMap<Arc<str>, Queue>,
    /// When each expires, and some that wait no more. The first one does wait.
    deadlines: BinaryHeap<Reverse<Deadline>>,
    /// Those that wait.
    queued: usize,
    /// The function whose turn it is, by position.
    turn: usize,
    /// Attempts under way, of all functions.
    running: usize,
}

/// One function's.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<(UnixMillis, Seq), Waiting>,
    running: usize,
    /// Nothing is started before.
    paused_until: UnixMillis,
    /// Attempts in a row that touched no instance.
    untouched: u32,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    deadline: UnixMillis,
    epoch: u32,
    attempts: u32,
}

/// When an invocation expires, and where it waits. A heap of these takes half the memory of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: UnixMillis,
    seq: Seq,
    due: UnixMillis,
    /// The position of its function.
    position: u32,
}

/// Deadlines of invocations that wait no more are dropped when there are so many, and more than those that count.
const MAX_STALE: usize = 1024;

/// How many attempts may be under way.
pub trait Limits {
    /// Returns the limit of a function. 0: it is not there, or cannot serve.
    fn of(&self, function: &str) -> usize;
    /// Returns the limit of all functions together.
    fn of_all(&self) -> usize;
}

impl Pending {
    /// Adds an invocation.
    pub fn insert(&mut self, entry: Entry) {
        let Entry { seq, function, due, deadline, epoch, attempts } = entry;
        let queue = self.queues.entry(function);
        let position = u32::try_from(queue.index()).unwrap_or(u32::MAX);
        if queue.or_default().waiting.insert((due, seq), Waiting { deadline, epoch, attempts }).is_none() {
            self.queued += 1;
        }
        self.deadlines.push(Reverse(Deadline { at: deadline, seq, due, position }));
    }

    /// Removes an invocation. Returns whether it was there.
    pub fn remove(&mut self, entry: &Entry) -> bool {
        let position = self.queues.get_index_of(&entry.function);
        position.and_then(|position| self.take(position, (entry.due, entry.seq))).is_some()
    }

    /// Takes an invocation that has expired.
    pub fn take_expired(&mut self, now: UnixMillis) -> Option<Entry> {
        let Reverse(Deadline { seq, due, position, .. }) = *self.deadlines.peek().filter(|first| first.0.at <= now)?;
        self.take(position as usize, (due, seq))
    }

    /// Takes the invocation that is to be started next, and counts it as running.
    pub fn take_next(&mut self, now: UnixMillis, limits: &impl Limits) -> Option<Entry> {
        if self.running >= limits.of_all() {
            return None;
        }
        let count = self.queues.len();
        let is_next = |position: &usize| {
            self.queues.get_index(*position).is_some_and(|(name, queue)| {
                let first = queue.waiting.first_key_value();
                queue.paused_until <= now
                    && first.is_some_and(|((due, _), _)| *due <= now)
                    && queue.running < limits.of(name)
            })
        };
        let position = (self.turn..count).chain(0..self.turn.min(count)).find(is_next)?;
        let (_, queue) = self.queues.get_index_mut(position)?;
        let (&key, _) = queue.waiting.first_key_value()?;
        queue.running += 1;
        self.running += 1;
        self.turn = position + 1;
        self.take(position, key)
    }

    /// Counts an attempt as running that is not of these invocations, if the limits allow one more.
    pub fn take_room(&mut self, function: &Arc<str>, limits: &impl Limits) -> bool {
        let queue = self.queues.entry(function.clone()).or_default();
        let has_room = self.running < limits.of_all() && queue.running < limits.of(function);
        if has_room {
            queue.running += 1;
            self.running += 1;
        }
        has_room
    }

    fn take(&mut self, position: usize, key: (UnixMillis, Seq)) -> Option<Entry> {
        let (function, queue) = self.queues.get_index_mut(position)?;
        let Waiting { deadline, epoch, attempts } = queue.waiting.remove(&key)?;
        let entry = Entry { seq: key.1, function: function.clone(), due: key.0, deadline, epoch, attempts };
        self.queued -= 1;
        self.drop_stale();
        Some(entry)
    }

    /// Drops deadlines of invocations that wait no more: the first ones, and all if they are many.
    fn drop_stale(&mut self) {
        let queues = &self.queues;
        let waits = |deadline: &Deadline| {
            let queue = queues.get_index(deadline.position as usize).map(|(_, queue)| queue);
            let waiting = queue.and_then(|queue| queue.waiting.get(&(deadline.due, deadline.seq)));
            waiting.is_some_and(|waiting| waiting.deadline == deadline.at)
        };
        while self.deadlines.peek().is_some_and(|first| !waits(&first.0)) {
            self.deadlines.pop();
        }
        if self.deadlines.len() > self.queued * 2 + MAX_STALE {
            self.deadlines.retain(|deadline| waits(&deadline.0));
        }
    }

    /// Notes that an attempt is not under way any more.
    pub fn ended(&mut self, function: &str) {
        if let Some(queue) = self.queues.get_mut(function) {
            queue.running = queue.running.saturating_sub(1);
            self.running = self.running.saturating_sub(1);
        }
    }

    /// Counts an attempt that touched no instance. Returns how many there were in a row.
    pub fn count_untouched(&mut self, function: &str) -> u32 {
        self.queues.get_mut(function).map_or(1, |queue| {
            queue.untouched = queue.untouched.saturating_add(1);
            queue.untouched
        })
    }

    /// Notes that an instance was touched.
    pub fn touched(&mut self, function: &str) {
        if let Some(queue) = self.queues.get_mut(function) {
            (queue.untouched, queue.paused_until) = (0, UnixMillis::default());
        }
    }

    /// Has nothing of a function started before `until`.
    pub fn pause(&mut self, function: &str, until: UnixMillis) {
        if let Some(queue) = self.queues.get_mut(function) {
            queue.paused_until = queue.paused_until.max(until);
        }
    }

    /// Returns when something is to be done, as far as time decides that. `None`: a fact does.
    pub fn wake_at(&self, limits: &impl Limits) -> Option<UnixMillis> {
        let starts = self.queues.iter().filter(|_| self.running < limits.of_all()).filter_map(|(name, queue)| {
            let ((due, _), _) = queue.waiting.first_key_value()?;
            (queue.running < limits.of(name)).then(|| (*due).max(queue.paused_until))
        });
        starts.chain(self.deadlines.peek().map(|first| first.0.at)).min()
    }

    /// Returns the attempts under way.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Returns the number of queued invocations.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Returns whether any function has work and is not there or cannot serve.
    pub fn has_unservable(&self, limits: &impl Limits) -> bool {
        self.queues.iter().any(|(name, queue)| !queue.waiting.is_empty() && limits.of(name) == 0)
    }

    /// Returns each function that has work: queued, running, and when the first one was or is due.
    pub fn by_function(&self) -> impl Iterator<Item = (&Arc<str>, usize, usize, Option<UnixMillis>)> {
        self.queues.iter().filter(|(_, queue)| queue.running > 0 || !queue.waiting.is_empty()).map(|(name, queue)| {
            let first = queue.waiting.first_key_value().map(|((due, _), _)| *due);
            (name, queue.waiting.len(), queue.running, first)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of each function, and of all.
    struct Fixed(usize, usize);

    impl Limits for Fixed {
        fn of(&self, function: &str) -> usize {
            if function == "gone" { 0 } else { self.0 }
        }

        fn of_all(&self) -> usize {
            self.1
        }
    }

    fn entry(function: &str, seq: Seq, due: u64) -> Entry {
        let (due, deadline) = (UnixMillis(due), UnixMillis(1000 + seq));
        Entry { seq, function: function.into(), due, deadline, epoch: 0, attempts: 0 }
    }

    fn pending(entries: &[(&str, Seq, u64)]) -> Pending {
        let mut pending = Pending::default();
        entries.iter().for_each(|(function, seq, due)| pending.insert(entry(function, *seq, *due)));
        pending
    }

    fn started(pending: &mut Pending, now: u64, limits: &Fixed) -> Vec<Seq> {
        std::iter::from_fn(|| pending.take_next(UnixMillis(now), limits)).map(|entry| entry.seq).collect()
    }

    #[test]
    fn functions_take_turns_and_within_one_the_first_due_is_next() {
        let mut pending = pending(&[("a", 1, 3), ("a", 2, 1), ("a", 3, 2), ("b", 4, 9), ("b", 5, 9), ("gone", 6, 0)]);
        assert_eq!(started(&mut pending, 9, &Fixed(9, 9)), [2, 4, 3, 5, 1]);
        assert_eq!((pending.running(), pending.queued()), (5, 1));
        assert!(pending.has_unservable(&Fixed(9, 9)));
    }

    #[test]
    fn limits_bound_what_runs() {
        let mut pending = pending(&[("a", 1, 0), ("a", 2, 0), ("a", 3, 0), ("b", 4, 0), ("b", 5, 0)]);
        let limits = Fixed(2, 3);
        assert_eq!(started(&mut pending, 0, &limits), [1, 4, 2]);
        assert_eq!(pending.wake_at(&limits), Some(UnixMillis(1003)), "only the first deadline is left to wait for");
        pending.ended("a");
        assert_eq!(started(&mut pending, 0, &limits), [5]);
        pending.ended("a");
        assert_eq!(started(&mut pending, 0, &limits), [3]);
    }

    #[test]
    fn nothing_is_started_before_it_is_due_or_while_its_function_is_paused() {
        let mut pending = pending(&[("a", 1, 50), ("b", 2, 70)]);
        let limits = Fixed(1, 9);
        assert!(started(&mut pending, 49, &limits).is_empty());
        assert_eq!(pending.wake_at(&limits), Some(UnixMillis(50)));
        pending.pause("a", UnixMillis(80));
        assert_eq!(pending.wake_at(&limits), Some(UnixMillis(70)));
        assert_eq!(started(&mut pending, 79, &limits), [2]);
        assert_eq!(started(&mut pending, 80, &limits), [1]);
    }

    #[test]
    fn an_expired_invocation_is_taken_once_whatever_its_function_does() {
        let mut pending = pending(&[("gone", 1, 5000), ("a", 2, 0)]);
        assert_eq!(pending.take_expired(UnixMillis(1000)), None);
        assert_eq!(pending.take_expired(UnixMillis(1001)), Some(entry("gone", 1, 5000)));
        assert_eq!(pending.take_expired(UnixMillis(1001)), None);
        assert_eq!(started(&mut pending, 1002, &Fixed(1, 1)), [2]);
        assert_eq!((pending.take_expired(UnixMillis(9999)), pending.queued()), (None, 0));
    }

    #[test]
    fn a_removed_invocation_is_neither_started_nor_expired() {
        let mut pending = pending(&[("a", 1, 0)]);
        let removed = entry("a", 1, 0);
        assert!(pending.remove(&removed) && !pending.remove(&removed));
        assert!(started(&mut pending, 0, &Fixed(1, 1)).is_empty());
        assert_eq!(pending.take_expired(UnixMillis(9999)), None);
    }

    #[test]
    fn deadlines_of_what_waits_no_more_are_dropped() {
        let (mut pending, limits) = (Pending::default(), Fixed(9, 9));
        pending.insert(Entry { deadline: UnixMillis(1), ..entry("a", 0, 9000) });
        for seq in 1..10_000 {
            pending.insert(entry("a", seq, 0));
            assert_eq!(pending.take_next(UnixMillis(0), &limits).map(|entry| entry.seq), Some(seq));
            pending.ended("a");
            assert!(pending.deadlines.len() <= MAX_STALE + 3);
        }
        assert_eq!((pending.queued(), pending.wake_at(&limits)), (1, Some(UnixMillis(1))));
    }
}
