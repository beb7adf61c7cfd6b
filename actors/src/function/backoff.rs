//! Backoff of a function whose starts fail: pauses between starts, and what callers get meanwhile.
//!
//! Pure. Pauses double with each failure; they end with a successful start or a new spec. Callers do not wait for a pause.
//! Up to the [`TOLERATED`]th failure in a row each caller still gets a start of its own, and only the minimum is delayed.
//! After that the function is *failing*. During a pause callers get the last error at once. After the pause there is one
//! trial start, for which all callers wait: they were asked to retry at that moment, and are served if it succeeds.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{refusal::Refusal, wall_time::rounded_seconds};

/// Failures in a row from which on the function is failing.
const TOLERATED: u32 = 3;
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The pause of the minimum after the host had no resources for a start, which is not the function's failure. Also the
/// longest pause while the host lacks something, such as an engine that may return at any moment.
const HOST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Failures in a row.
    failures: u32,
    /// Starts of one generation count as one failure, however many of them fail.
    generation: u64,
    /// Failures in a row before the last success. They count again if that instance ends unused.
    before_success: u32,
    pause: Option<Instant>,
    last: Option<Arc<Refusal>>,
}

/// Which starts are allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    All,
    /// As many as callers need.
    ForCallers,
    /// One, to find out whether the function works again.
    Trial,
    None,
}

/// Which side made a start fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Function,
    /// It lacks something that the start needs.
    Host,
}

/// How a start has changed the state, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackoffChange {
    /// The function is failing; the next start follows after this pause.
    Failing(Duration),
    /// The function is not failing any more.
    Recovered,
}

impl Backoff {
    /// Returns the generation to record with each start.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Records a failed start of that generation.
    pub fn failed(&mut self, generation: u64, error: Refusal, fault: Fault, now: Instant) -> Option<BackoffChange> {
        if generation != self.generation {
            return None;
        }
        self.generation += 1;
        let longest = match fault {
            Fault::Function => MAX_PAUSE,
            Fault::Host => HOST_PAUSE,
        };
        let pause = MIN_PAUSE.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(now + pause);
        self.last = Some(Arc::new(error));
        self.is_failing().then_some(BackoffChange::Failing(pause))
    }

    /// Records that the host had no resources for a start.
    pub fn host_exhausted(&mut self, now: Instant) {
        self.pause = self.pause.max(Some(now + HOST_PAUSE));
    }

    /// Records a successful start.
    pub fn succeeded(&mut self) -> Option<BackoffChange> {
        let recovered = self.is_failing().then_some(BackoffChange::Recovered);
        let before_success = self.failures;
        self.reset();
        self.before_success = before_success;
        recovered
    }

    /// Records that an instance ended by itself just after its start had succeeded, before it got a request.
    pub fn ended_unused(&mut self, error: Refusal, now: Instant) -> Option<BackoffChange> {
        self.failures = self.failures.max(std::mem::take(&mut self.before_success));
        self.failed(self.generation, error, Fault::Function, now)
    }

    /// Resets the state. Starts that are under way do not count any more.
    pub fn reset(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    /// Returns whether so many starts failed in a row that callers are refused during pauses.
    pub fn is_failing(&self) -> bool {
        self.failures >= TOLERATED
    }

    pub fn allows(&self, now: Instant) -> Allowance {
        match (self.is_failing(), self.pauses(now)) {
            (false, false) => Allowance::All,
            (false, true) => Allowance::ForCallers,
            (true, false) => Allowance::Trial,
            (true, true) => Allowance::None,
        }
    }

    fn pauses(&self, now: Instant) -> bool {
        self.pause.is_some_and(|until| until > now)
    }

    /// Returns the end of the current pause.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.pause.filter(|until| *until > now)
    }

    /// Returns the refusal for callers during the pause of a failing function.
    pub fn refusal(&self, now: Instant) -> Option<Refusal> {
        let until = self.until(now).filter(|_| self.is_failing())?;
        Some(Refusal::Failing { last: Box::new(Refusal::clone(self.last.as_ref()?)), retry_after: until - now })
    }

    /// Returns the last error of a failing function.
    pub fn last_failure(&self) -> Option<Arc<Refusal>> {
        self.last.clone().filter(|_| self.is_failing())
    }

    /// Returns what `/debug` shows of a failing function.
    pub fn report(&self, now: Instant) -> Option<FailingReport> {
        let last = self.last.as_ref().filter(|_| self.is_failing())?;
        Some(FailingReport {
            failures: self.failures,
            retry_seconds: self.until(now).map_or(0.0, |until| rounded_seconds(until - now)),
            code: last.outcome().code(),
            error: last.to_string(),
        })
    }
}

/// What `/debug` shows of a function whose starts keep failing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailingReport {
    /// Failures in a row.
    pub failures: u32,
    /// Seconds until the next start.
    pub retry_seconds: f64,
    /// The code of the last failure.
    pub code: &'static str,
    /// The text of the last failure.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn fail(backoff: &mut Backoff, now: Instant) -> Option<BackoffChange> {
        backoff.failed(backoff.generation(), Refusal::Lost, Fault::Function, now)
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for pause in [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            fail(&mut backoff, now);
            assert_eq!(backoff.until(now), Some(now + ms(pause)));
            assert_eq!(backoff.until(now + ms(pause)), None);
        }
        for _ in 0..100 {
            fail(&mut backoff, now);
        }
        assert_eq!(backoff.until(now), Some(now + MAX_PAUSE));
    }

    #[test]
    fn refuses_callers_from_the_third_failure_in_a_row() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.allows(now), Allowance::All);
        for _ in 0..2 {
            assert_eq!(fail(&mut backoff, now), None);
            assert_eq!((backoff.allows(now), backoff.refusal(now)), (Allowance::ForCallers, None));
            assert_eq!(backoff.allows(now + ms(500)), Allowance::All);
        }
        assert_eq!(fail(&mut backoff, now), Some(BackoffChange::Failing(ms(1_000))));
        assert_eq!(backoff.allows(now), Allowance::None);
        let refusal = backoff.refusal(now + ms(400));
        assert_eq!(refusal, Some(Refusal::Failing { last: Box::new(Refusal::Lost), retry_after: ms(600) }));
        let report = backoff.report(now + ms(400)).unwrap();
        assert_eq!((report.failures, report.retry_seconds, report.code), (3, 0.6, "internal"));

        let later = now + ms(1_000);
        assert_eq!((backoff.allows(later), backoff.refusal(later)), (Allowance::Trial, None));
        assert_eq!(backoff.report(later).map(|report| report.retry_seconds), Some(0.0));
        assert_eq!(fail(&mut backoff, later), Some(BackoffChange::Failing(ms(2_000))));
    }

    #[test]
    fn one_success_resets_all_failures() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        fail(&mut backoff, now);
        assert_eq!(backoff.succeeded(), None);
        for _ in 0..5 {
            fail(&mut backoff, now);
        }
        assert_eq!(backoff.succeeded(), Some(BackoffChange::Recovered));
        assert_eq!((backoff.allows(now), backoff.until(now), backoff.report(now)), (Allowance::All, None, None));
        fail(&mut backoff, now);
        assert_eq!(backoff.until(now), Some(now + MIN_PAUSE));
    }

    #[test]
    fn instances_that_end_unused_are_failures_in_a_row() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for failures in 1..=6 {
            backoff.succeeded();
            let change = backoff.ended_unused(Refusal::Lost, now);
            assert_eq!(change.is_some(), failures >= TOLERATED);
            assert_eq!(backoff.until(now), Some(now + MIN_PAUSE * (1 << (failures - 1))));
        }
        assert_eq!(backoff.succeeded(), Some(BackoffChange::Recovered));
        // The next success is not followed by such an end.
        backoff.succeeded();
        fail(&mut backoff, now);
        assert_eq!(backoff.until(now), Some(now + MIN_PAUSE));
    }

    #[test]
    fn counts_starts_of_one_generation_as_one_failure() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let generation = backoff.generation();
        for _ in 0..100 {
            backoff.failed(generation, Refusal::Lost, Fault::Function, now);
        }
        assert_eq!(backoff.allows(now), Allowance::ForCallers);
        // Starts of an earlier spec do not count either.
        let generation = backoff.generation();
        backoff.reset();
        assert_eq!(backoff.failed(generation, Refusal::Lost, Fault::Function, now), None);
        assert_eq!(backoff.allows(now), Allowance::All);
    }

    #[test]
    fn an_exhausted_host_is_not_a_failure_of_the_function() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.host_exhausted(now);
        }
        assert_eq!((backoff.allows(now), backoff.until(now)), (Allowance::ForCallers, Some(now + HOST_PAUSE)));
        // A longer pause is not shortened.
        for _ in 0..6 {
            fail(&mut backoff, now);
        }
        backoff.host_exhausted(now);
        assert_eq!(backoff.until(now), Some(now + ms(8_000)));
    }

    #[test]
    fn faults_of_the_host_are_retried_after_a_second() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..10 {
            backoff.failed(backoff.generation(), Refusal::Lost, Fault::Host, now);
        }
        assert_eq!(backoff.allows(now), Allowance::None);
        assert_eq!(backoff.allows(now + HOST_PAUSE), Allowance::Trial);
        backoff.failed(backoff.generation(), Refusal::Lost, Fault::Function, now);
        assert_eq!(backoff.allows(now + HOST_PAUSE), Allowance::None, "its own fault takes longer");
    }
}
