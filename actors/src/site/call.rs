//! What a site records of an invocation, and what follows from a delivery and from the end of an attempt. Pure.

use std::time::Duration;

use crate::{
    inbox::{
        DeadReason, DeliveryEnd, DeliveryRecord, Entry, Outcome, Record, RecordedResponse, Settlement, State, Tried,
        UnixMillis, settle,
    },
    spec::AsyncSpec,
};

/// Deliveries beyond those that attempts explain. More mean that nodes end before they record anything.
const SPARE_DELIVERIES: u64 = 20;

/// How long the messages of a call are kept beyond their use: the clocks of nodes differ.
const SPARE_TIME: Duration = Duration::from_secs(3600);

/// An invocation as its site records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its record. `seq` is 0: there is one inbox for all nodes.
    pub record: Record,
    /// Which delivery works on it, as a random number: so that a node recognises its own change.
    pub holder: u64,
    /// Attempts in a row that touched no instance.
    pub untouched: u32,
    /// The function's last answer.
    pub response: Option<RecordedResponse>,
    /// How long it is kept past its deadline, or past its end and the delivery of its result: the node that delivers that may
    /// not have the function.
    pub keep: Duration,
    /// A node keeps it as a dead letter.
    pub is_letter_kept: bool,
}

/// What is done about a message that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do any more.
    Drop,
    /// It is not due yet.
    Wait(Duration),
    /// It ends without another attempt.
    End(DeadReason),
    /// It has ended, and its result is to be delivered.
    Deliver,
    /// An attempt begins.
    Begin,
}

impl Call {
    /// Makes the record of an invocation that is handed over.
    pub fn new(record: Record, policy: &AsyncSpec) -> Self {
        let record = Record { seq: 0, ..record };
        Self { record, holder: 0, untouched: 0, response: None, keep: policy.keep_dead, is_letter_kept: false }
    }

    /// Decides what is done about a message that was delivered for the `delivered`th time.
    ///
    /// An attempt that was under way counts: the node that made it has ended, or is cut off.
    pub fn step(&self, delivered: u64, policy: &AsyncSpec, now: UnixMillis) -> Step {
        let Record { ref state, epoch, attempts, deadline, .. } = self.record;
        let without_instance = u64::from(epoch.saturating_sub(attempts));
        let explained = policy.attempts.get() as u64 + without_instance + SPARE_DELIVERIES;
        match state {
            state if state.is_ended() && self.undelivered().is_some() => Step::Deliver,
            state if state.is_ended() => Step::Drop,
            _ if now >= deadline => Step::End(DeadReason::Expired),
            State::Queued { due } if *due > now => Step::Wait(now.until(*due)),
            _ if attempts as usize >= policy.attempts.get() || delivered > explained => {
                Step::End(DeadReason::AttemptsExhausted)
            }
            _ => Step::Begin,
        }
    }

    /// Returns the record of an attempt that begins.
    pub fn begun(&self, holder: u64) -> Self {
        let Record { epoch, attempts, .. } = self.record;
        let record = Record { state: State::Running, epoch: epoch + 1, attempts: attempts + 1, ..self.record.clone() };
        Self { record, holder, ..self.clone() }
    }

    /// Returns the record after an attempt, with the answer if it has ended. `random` is from 0 to 1.
    pub fn attempted(
        &self,
        outcome: Outcome,
        response: Option<RecordedResponse>,
        policy: &AsyncSpec,
        now: UnixMillis,
        random: f64,
    ) -> Self {
        let untouched = if matches!(outcome, Outcome::Untouched { .. }) { self.untouched + 1 } else { 0 };
        let Record { attempts, deadline, .. } = self.record;
        let settlement = settle(Tried { attempts, untouched, deadline }, outcome, policy, now, random);
        let mut call = Self { untouched, ..self.clone() };
        call.record.state = match settlement {
            Settlement::Done { status } => State::Done { ended: now, status },
            Settlement::Dead { reason, status } => State::Dead { ended: now, reason, status },
            Settlement::Retry { due, counts } => {
                call.record.attempts -= u32::from(!counts);
                State::Queued { due }
            }
        };
        if call.record.state.is_ended() {
            call.response = response;
        }
        call.keep = if let State::Done { .. } = call.record.state { policy.keep } else { policy.keep_dead };
        call
    }

    /// Returns the record of a call that ends without an attempt.
    pub fn ended(&self, reason: DeadReason, policy: &AsyncSpec, now: UnixMillis) -> Self {
        let record = Record { state: State::Dead { ended: now, reason, status: None }, ..self.record.clone() };
        Self { record, keep: policy.keep_dead, ..self.clone() }
    }

    /// Returns the delivery of its result, if that is to be sent or sent again.
    pub fn undelivered(&self) -> Option<Entry> {
        self.record.delivery(UnixMillis(0))
    }

    /// Whether it was given up, and may not be kept as a dead letter by a node: that comes before its result is sent. An
    /// earlier version records nothing else of it.
    pub fn is_unkept_letter(&self) -> bool {
        let is_sent = self.record.callback.as_ref().is_some_and(|callback| callback.attempts > 0);
        matches!(self.record.state, State::Dead { .. }) && !self.is_letter_kept && !is_sent
    }

    /// Whether its result is given up without another attempt, because it is too old.
    pub fn is_result_expired(&self, now: UnixMillis) -> bool {
        self.undelivered().is_some_and(|entry| now >= entry.deadline)
    }

    /// Returns the record after an attempt to deliver the result, and what is to be done. `None`: it is given up without one.
    /// `random` is from 0 to 1.
    ///
    /// What is not allowed on one node may be allowed on the next one.
    pub fn delivered(&self, end: Option<DeliveryEnd>, now: UnixMillis, random: f64) -> (Self, DeliveryRecord) {
        let (attempts, deadline) = self.undelivered().map_or((0, now), |entry| (entry.attempts, entry.deadline));
        let delivery = match end {
            None => DeliveryRecord::given_up(attempts, now),
            Some(DeliveryEnd::Forbidden) => DeliveryRecord::of(DeliveryEnd::Refused, attempts, deadline, now, random),
            Some(end) => DeliveryRecord::of(end, attempts, deadline, now, random),
        };
        let mut call = self.clone();
        if let Some(callback) = &mut call.record.callback {
            (callback.state, callback.attempts) = (delivery.state, delivery.attempts);
        }
        (call, delivery)
    }

    /// Returns how long its messages may be of use from now on: an hour past the time when its result is given up.
    pub fn keep_message(&self, now: UnixMillis) -> Duration {
        let Record { accepted, deadline, .. } = self.record;
        let given_up = self.undelivered().map_or_else(|| deadline.after(accepted.until(deadline)), |it| it.deadline);
        now.until(given_up) + SPARE_TIME
    }

    /// Returns how long the record is kept from now on: past its deadline, or past the end of the delivery.
    pub fn keep_record(&self, now: UnixMillis) -> Duration {
        let delivering = self.undelivered().map_or(Duration::ZERO, |entry| now.until(entry.deadline));
        let unended = if self.record.state.is_ended() { Duration::ZERO } else { now.until(self.record.deadline) };
        delivering + unended + self.keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Callback, CallbackState, InvocationId};

    fn call(state: State, epoch: u32, attempts: u32) -> Call {
        let record = Record {
            seq: 7,
            id: InvocationId(1),
            function: "f".into(),
            state,
            epoch,
            attempts,
            accepted: UnixMillis(0),
            deadline: UnixMillis(10_000),
            key: None,
            callback: None,
        };
        Call::new(record, &AsyncSpec::default())
    }

    #[test]
    fn delivered_message_begins_an_attempt_waits_or_ends() {
        let (policy, queued) = (AsyncSpec::default(), |due| State::Queued { due: UnixMillis(due) });
        let done = State::Done { ended: UnixMillis(1), status: 200 };
        for (state, (epoch, attempts), delivered, now, step) in [
            (queued(0), (0, 0), 1, 0, Step::Begin),
            (queued(500), (0, 0), 1, 100, Step::Wait(Duration::from_millis(400))),
            (queued(500), (0, 0), 1, 10_000, Step::End(DeadReason::Expired)),
            (State::Running, (2, 2), 3, 5, Step::Begin),
            (State::Running, (3, 3), 4, 5, Step::End(DeadReason::AttemptsExhausted)),
            (queued(0), (0, 0), 23, 5, Step::Begin),
            (queued(0), (0, 0), 24, 5, Step::End(DeadReason::AttemptsExhausted)),
            // Attempts that touched no instance explain as many deliveries.
            (queued(0), (100, 0), 123, 5, Step::Begin),
            (done, (1, 1), 2, 20_000, Step::Drop),
        ] {
            let call = call(state, epoch, attempts);
            assert_eq!(call.step(delivered, &policy, UnixMillis(now)), step, "{call:?}");
        }
    }

    #[test]
    fn attempt_that_touched_no_instance_does_not_count() {
        let policy = AsyncSpec::default();
        let begun = call(State::Queued { due: UnixMillis(0) }, 0, 0).begun(9);
        assert_eq!((begun.record.attempts, begun.record.epoch, begun.holder), (1, 1, 9));
        let untouched = Outcome::Untouched { retry_after: None };
        let again = begun.attempted(untouched, None, &policy, UnixMillis(5), 0.0).begun(10);
        assert_eq!((again.record.attempts, again.record.epoch, again.untouched), (1, 2, 1));
        let failed = again.attempted(Outcome::Failed, None, &policy, UnixMillis(5), 0.0);
        assert_eq!((failed.record.attempts, failed.untouched), (1, 0));
        assert!(matches!(failed.record.state, State::Queued { .. }));
    }

    #[test]
    fn record_is_kept_as_its_function_wants_it_whatever_node_delivers_its_result() {
        let [keep, keep_dead] = [2, 30].map(|days| Duration::from_secs(days * 24 * 3600));
        let policy = AsyncSpec { keep, keep_dead, ..AsyncSpec::default() };
        let running = call(State::Running, 3, 3);
        let now = UnixMillis(5_000);
        let done = Outcome::Answered { status: 200, retry_after: None };
        for (ended, kept) in [
            (running.attempted(done, None, &policy, now, 0.0), keep),
            (running.attempted(Outcome::Failed, None, &policy, now, 0.0), keep_dead),
            (running.ended(DeadReason::Expired, &policy, now), keep_dead),
        ] {
            assert_eq!(ended.keep_record(now), kept, "{ended:?}");
            let (delivered, _) = ended.delivered(Some(DeliveryEnd::Confirmed), now, 0.0);
            assert_eq!(delivered.keep_record(now), kept, "{delivered:?}");
        }
        assert_eq!(
            call(State::Running, 3, 3).keep_record(now),
            Duration::from_secs(5) + AsyncSpec::default().keep_dead
        );
    }

    #[test]
    fn dead_letter_is_unkept_until_a_node_keeps_it_also_while_its_result_waits() {
        let mut dead = call(State::Running, 3, 3).ended(DeadReason::Expired, &AsyncSpec::default(), UnixMillis(5_000));
        dead.record.callback = Some(Callback { url: "http://h/x".into(), attempts: 0, state: CallbackState::Waiting });
        assert!(dead.is_unkept_letter());
        let kept = Call { is_letter_kept: true, ..dead.clone() };
        assert!(!kept.is_unkept_letter() && kept.undelivered().is_some());
        // As an earlier version records it.
        let (sent, _) = dead.delivered(Some(DeliveryEnd::Refused), UnixMillis(5_000), 0.0);
        assert!(!sent.is_unkept_letter());
    }

    #[test]
    fn result_is_delivered_until_it_is_confirmed_or_too_old() {
        let policy = AsyncSpec::default();
        let mut ended = call(State::Done { ended: UnixMillis(5_000), status: 200 }, 1, 1);
        assert_eq!(ended.step(1, &policy, UnixMillis(5_000)), Step::Drop, "without a receiver");
        ended.record.callback = Some(Callback { url: "http://h/x".into(), attempts: 0, state: CallbackState::Waiting });
        assert_eq!(ended.step(100, &policy, UnixMillis(90_000)), Step::Deliver, "however often and late");
        // As old as the invocation may become, from its end on.
        assert_eq!(ended.keep_record(UnixMillis(5_000)), Duration::from_secs(10) + ended.keep);
        for (end, now, state) in [
            (DeliveryEnd::Confirmed, 5_000, CallbackState::Delivered),
            (DeliveryEnd::Refused, 5_000, CallbackState::Waiting),
            (DeliveryEnd::Unreachable, 5_000, CallbackState::Waiting),
            // Another node may have another `--deliver-to`.
            (DeliveryEnd::Forbidden, 5_000, CallbackState::Waiting),
            (DeliveryEnd::Refused, 14_500, CallbackState::Failed),
        ] {
            let (after, delivery) = ended.delivered(Some(end), UnixMillis(now), 1.0);
            let callback = after.record.callback.clone().unwrap();
            assert_eq!((delivery.state, callback.state, callback.attempts), (state, state, 1), "{end:?} at {now}");
            let step = if state == CallbackState::Waiting { Step::Deliver } else { Step::Drop };
            assert_eq!(after.step(2, &policy, UnixMillis(now)), step, "{end:?} at {now}");
            assert_eq!(
                (after.record.epoch, &after.record.state),
                (1, &ended.record.state),
                "its message stays the same"
            );
        }
        let end = UnixMillis(15_000);
        assert!(!ended.is_result_expired(UnixMillis(14_999)) && ended.is_result_expired(end));
        let (given_up, delivery) = ended.delivered(None, end, 1.0);
        assert_eq!((delivery.state, delivery.attempts), (CallbackState::Failed, 0), "without an attempt");
        assert_eq!(given_up.undelivered(), None);
    }
}
