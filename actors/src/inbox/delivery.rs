//! Which result is delivered next, and what follows from an attempt to deliver one. Pure.
//!
//! Results wait like invocations do, with their receiver (scheme, host and port of the URL) in the place of the function:
//! receivers take turns, and a receiver without an answer holds up its own results only.

use std::time::Duration;

use super::{
    backoff::wait_after,
    pending::{Limits, Pending},
    record::{CallbackState, Entry},
    time::UnixMillis,
};

/// The wait after the first failed attempt, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same for a receiver that could not be reached, with whatever result.
const RECEIVER_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Attempts at the same time to one receiver.
pub const TO_ONE: usize = 4;
/// In all.
pub const IN_ALL: usize = 16;

/// How an attempt to deliver a result ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The receiver has confirmed the result.
    Confirmed,
    /// The receiver answered that it did not take the result.
    Refused,
    /// The receiver did not answer.
    Unreachable,
    /// The result may not be sent there any more.
    Forbidden,
}

/// What is to be recorded of an attempt to deliver a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Where the delivery stands.
    pub state: CallbackState,
    /// When the next attempt is due.
    pub due: UnixMillis,
    /// Attempts, this one included.
    pub attempts: u32,
}

impl DeliveryRecord {
    /// Decides what is to be recorded of an attempt to deliver a result, after `attempts` before. `random` is from 0 to 1.
    pub fn of(end: DeliveryEnd, attempts: u32, deadline: UnixMillis, now: UnixMillis, random: f64) -> Self {
        let attempts = attempts + 1;
        let due = now.after(pause_of_result(attempts, random));
        let state = match end {
            DeliveryEnd::Confirmed => CallbackState::Delivered,
            DeliveryEnd::Refused | DeliveryEnd::Unreachable if due < deadline => CallbackState::Waiting,
            _ => CallbackState::Failed,
        };
        Self { state, due, attempts }
    }

    /// Returns what is to be recorded of a result that is given up without another attempt, after `attempts` before.
    pub fn given_up(attempts: u32, now: UnixMillis) -> Self {
        Self { state: CallbackState::Failed, due: now, attempts }
    }
}

/// Returns how long a result waits after so many attempts. `random` is from 0 to 1.
pub fn pause_of_result(attempts: u32, random: f64) -> Duration {
    let (first, most) = BACKOFF;
    wait_after(attempts, first, most, None, not_below_half(random))
}

/// Returns how long a receiver is left alone after so many attempts in a row that it did not answer.
pub fn pause_of_receiver(failures: u32, random: f64) -> Duration {
    let (first, most) = RECEIVER_BACKOFF;
    wait_after(failures, first, most, None, not_below_half(random))
}

/// A receiver that is away must not be asked all the time.
fn not_below_half(random: f64) -> f64 {
    0.5 + random / 2.0
}

/// What is to be done about a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryAction {
    /// It is to be sent.
    Send(Entry),
    /// It is too old, and given up.
    GiveUp(Entry, DeliveryRecord),
}

/// The results that are to be delivered.
#[derive(Debug, Default)]
pub struct Deliveries {
    pending: Pending,
}

struct Fixed;

impl Limits for Fixed {
    fn of(&self, _: &str) -> usize {
        TO_ONE
    }

    fn of_all(&self) -> usize {
        IN_ALL
    }
}

impl Deliveries {
    /// Adds a result.
    pub fn insert(&mut self, entry: Entry) {
        self.pending.insert(entry);
    }

    /// Returns the next action that is due. After one to send a result, [`ended`](Self::ended) or
    /// [`dropped`](Self::dropped) follows.
    pub fn next_action(&mut self, now: UnixMillis) -> Option<DeliveryAction> {
        if let Some(entry) = self.pending.take_expired(now) {
            let record = DeliveryRecord::given_up(entry.attempts, now);
            return Some(DeliveryAction::GiveUp(entry, record));
        }
        self.pending.take_next(now, &Fixed).map(DeliveryAction::Send)
    }

    /// Decides what is to be recorded of an attempt; [`recorded`](Self::recorded) follows. `random` is from 0 to 1.
    pub fn ended(&mut self, entry: &Entry, end: DeliveryEnd, now: UnixMillis, random: f64) -> DeliveryRecord {
        let receiver = &entry.function;
        self.pending.ended(receiver);
        if end == DeliveryEnd::Unreachable {
            let failures = self.pending.count_untouched(receiver);
            self.pending.pause(receiver, now.after(pause_of_receiver(failures, random)));
        } else {
            self.pending.touched(receiver);
        }
        DeliveryRecord::of(end, entry.attempts, entry.deadline, now, random)
    }

    /// Has a result wait for its next attempt, once the last one is recorded.
    pub fn recorded(&mut self, entry: Entry, record: DeliveryRecord) {
        if record.state == CallbackState::Waiting {
            self.pending.insert(Entry { due: record.due, attempts: record.attempts, ..entry });
        }
    }

    /// Forgets a result whose record has changed, or was removed.
    pub fn dropped(&mut self, entry: &Entry) {
        self.pending.ended(&entry.function);
    }

    /// Tries a result again that could not be read.
    pub fn postpone(&mut self, entry: Entry, until: UnixMillis) {
        self.pending.ended(&entry.function);
        self.pending.insert(Entry { due: until, ..entry });
    }

    /// Returns how many results wait for an attempt.
    pub fn waiting(&self) -> usize {
        self.pending.queued()
    }

    /// Returns when something is due, as far as time decides that.
    pub fn wake_at(&self) -> Option<UnixMillis> {
        self.pending.wake_at(&Fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(10_000);

    fn entry(receiver: &str, seq: u64) -> Entry {
        Entry { seq, function: receiver.into(), due: NOW, deadline: UnixMillis(20_000), epoch: 1, attempts: 0 }
    }

    fn send(deliveries: &mut Deliveries, now: UnixMillis) -> Option<Entry> {
        match deliveries.next_action(now)? {
            DeliveryAction::Send(entry) => Some(entry),
            action @ DeliveryAction::GiveUp(..) => panic!("{action:?}"),
        }
    }

    fn with(entries: impl IntoIterator<Item = Entry>) -> Deliveries {
        let mut deliveries = Deliveries::default();
        entries.into_iter().for_each(|entry| deliveries.insert(entry));
        deliveries
    }

    #[test]
    fn a_refused_result_is_sent_again_with_growing_pauses_until_it_is_too_old() {
        let mut deliveries = with([entry("a", 1)]);
        let mut now = NOW;
        for pause in [1000, 2000, 4000] {
            let sent = send(&mut deliveries, now).unwrap();
            let record = deliveries.ended(&sent, DeliveryEnd::Refused, now, 1.0);
            deliveries.recorded(sent, record);
            now = UnixMillis(now.0 + pause);
            assert_eq!((record.state, record.due), (CallbackState::Waiting, now));
            assert_eq!((send(&mut deliveries, UnixMillis(now.0 - 1)), deliveries.wake_at()), (None, Some(now)));
        }
        let sent = send(&mut deliveries, now).unwrap();
        assert_eq!(sent.attempts, 3);
        let record = deliveries.ended(&sent, DeliveryEnd::Refused, now, 1.0);
        deliveries.recorded(sent, record);
        assert_eq!((record.state, record.attempts, deliveries.wake_at()), (CallbackState::Failed, 4, None));
    }

    #[test]
    fn a_confirmed_or_forbidden_result_is_not_sent_again() {
        for (end, state) in
            [(DeliveryEnd::Confirmed, CallbackState::Delivered), (DeliveryEnd::Forbidden, CallbackState::Failed)]
        {
            let mut deliveries = with([entry("a", 1)]);
            let sent = send(&mut deliveries, NOW).unwrap();
            let record = deliveries.ended(&sent, end, NOW, 0.0);
            assert_eq!(record.state, state);
            deliveries.recorded(sent, record);
            assert_eq!(deliveries.wake_at(), None);
        }
    }

    #[test]
    fn a_receiver_that_does_not_answer_holds_up_its_own_results_only() {
        let mut deliveries = with((0..9).map(|seq| entry("away", seq)).chain([entry("b", 20), entry("b", 21)]));
        let sent: Vec<_> = std::iter::from_fn(|| send(&mut deliveries, NOW)).collect();
        assert_eq!(sent.iter().filter(|entry| &*entry.function == "away").count(), TO_ONE);
        assert_eq!(sent.len(), TO_ONE + 2);
        for entry in sent.into_iter().filter(|entry| &*entry.function == "away") {
            let record = deliveries.ended(&entry, DeliveryEnd::Unreachable, NOW, 1.0);
            deliveries.recorded(entry, record);
        }
        deliveries.insert(entry("b", 22));
        assert_eq!(send(&mut deliveries, NOW).map(|entry| entry.seq), Some(22), "its other results wait as well");
        assert_eq!(send(&mut deliveries, NOW), None);
        assert!(send(&mut deliveries, UnixMillis(NOW.0 + 8000)).is_some());
    }

    #[test]
    fn a_result_that_is_too_old_is_given_up_without_another_attempt() {
        let mut deliveries = with([entry("a", 1)]);
        let late = UnixMillis(20_000);
        let record = DeliveryRecord { state: CallbackState::Failed, due: late, attempts: 0 };
        assert_eq!(deliveries.next_action(late), Some(DeliveryAction::GiveUp(entry("a", 1), record)));
        assert_eq!(deliveries.next_action(late), None);
    }

    #[test]
    fn a_result_that_could_not_be_read_is_tried_again_and_one_that_is_gone_is_not() {
        let mut deliveries = with([entry("a", 1)]);
        let taken = send(&mut deliveries, NOW).unwrap();
        deliveries.postpone(taken, UnixMillis(11_000));
        assert_eq!(deliveries.wake_at(), Some(UnixMillis(11_000)));
        let taken = send(&mut deliveries, UnixMillis(11_000)).unwrap();
        deliveries.dropped(&taken);
        assert_eq!(deliveries.wake_at(), None);
    }
}
