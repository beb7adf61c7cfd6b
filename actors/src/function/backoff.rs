//! What becomes of a function whose starts fail: the pauses before the next ones, and who is told what meanwhile.
//!
//! Pure. Pauses double from failure to failure and end with the first start that succeeds, or with a new spec. Callers do
//! not wait for a pause. Up to the [`TOLERATED`]th failure in a row each still gets a start of its own, and the pause
//! holds up nobody but the minimum that is to be kept ready. From then on the function is *failing*: during a pause
//! callers get the last error at once, and after it there is one start, for which everybody who comes meanwhile waits:
//! they were all told to come back at that moment, and if the function is well again they are served.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::refusal::Refusal;

/// With so many failures in a row, the function is failing.
const TOLERATED: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause of a minimum when the host had nothing left for a start, which is no failure of the function; and the longest
/// one when the host lacks what the function needs, such as an engine that may be back at any moment.
const HOST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// In a row.
    failures: u32,
    /// Starts of one generation share their intent: however many of them fail, it is one failure.
    generation: u64,
    pause: Option<Instant>,
    last: Option<Refusal>,
}

/// Which starts are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    All,
    /// No more than callers need.
    ForCallers,
    /// The one that shows whether the function is well again.
    Trial,
    None,
}

/// What would have to change for a start to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Function,
    /// It lacks something that starts need.
    Host,
}

/// What a start has changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackoffChange {
    /// The function fails, now or again, and is left alone for so long.
    Failing(Duration),
    /// It was failing and is not any more.
    Recovered,
}

impl Backoff {
    /// To be remembered with each start.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A start of that generation has failed with `error`, by the `fault` of one or the other.
    pub fn failed(&mut self, generation: u64, error: Refusal, fault: Fault, now: Instant) -> Option<BackoffChange> {
        if generation != self.generation {
            return None;
        }
        self.generation += 1;
        let longest = match fault {
            Fault::Function => LONGEST_PAUSE,
            Fault::Host => HOST_PAUSE,
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(now + pause);
        self.last = Some(error);
        self.is_failing().then_some(BackoffChange::Failing(pause))
    }

    /// The host had nothing left for a start.
    pub fn set_back(&mut self, now: Instant) {
        self.pause = self.pause.max(Some(now + HOST_PAUSE));
    }

    /// A start has succeeded.
    pub fn succeeded(&mut self) -> Option<BackoffChange> {
        let recovered = self.is_failing().then_some(BackoffChange::Recovered);
        self.reset();
        recovered
    }

    /// Forgets everything; starts that are under way do not count any more.
    pub fn reset(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    fn is_failing(&self) -> bool {
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

    /// When the pause ends, if there is one.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.pause.filter(|until| *until > now)
    }

    /// What callers are told during the pause of a failing function.
    pub fn refusal(&self, now: Instant) -> Option<Refusal> {
        let until = self.until(now).filter(|_| self.is_failing())?;
        Some(Refusal::Failing { last: Box::new(self.last.clone()?), retry_after: until - now })
    }

    /// What `/debug` shows of a failing function.
    pub fn report(&self, now: Instant) -> Option<FailingReport> {
        let last = self.last.as_ref().filter(|_| self.is_failing())?;
        Some(FailingReport {
            failures: self.failures,
            retry_seconds: self.until(now).map_or(0.0, |until| (until - now).as_secs_f64()),
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
    /// What is left of the pause before the next start.
    pub retry_seconds: f64,
    /// The last failure's code.
    pub code: &'static str,
    /// And what was said about it.
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
        assert_eq!(backoff.until(now), Some(now + LONGEST_PAUSE));
    }

    #[test]
    fn callers_feel_the_third_failure_in_a_row() {
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
        let told = backoff.refusal(now + ms(400));
        assert_eq!(told, Some(Refusal::Failing { last: Box::new(Refusal::Lost), retry_after: ms(600) }));
        let report = backoff.report(now + ms(400)).unwrap();
        assert_eq!((report.failures, report.retry_seconds, report.code), (3, 0.6, "internal"));

        let later = now + ms(1_000);
        assert_eq!((backoff.allows(later), backoff.refusal(later)), (Allowance::Trial, None));
        assert_eq!(backoff.report(later).map(|report| report.retry_seconds), Some(0.0));
        assert_eq!(fail(&mut backoff, later), Some(BackoffChange::Failing(ms(2_000))));
    }

    #[test]
    fn one_success_makes_up_for_every_failure() {
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
        assert_eq!(backoff.until(now), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn starts_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let generation = backoff.generation();
        for _ in 0..100 {
            backoff.failed(generation, Refusal::Lost, Fault::Function, now);
        }
        assert_eq!(backoff.allows(now), Allowance::ForCallers);
        // Those of an earlier spec mean nothing either.
        let generation = backoff.generation();
        backoff.reset();
        assert_eq!(backoff.failed(generation, Refusal::Lost, Fault::Function, now), None);
        assert_eq!(backoff.allows(now), Allowance::All);
    }

    #[test]
    fn what_the_host_lacks_is_no_failure_of_the_function() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.set_back(now);
        }
        assert_eq!((backoff.allows(now), backoff.until(now)), (Allowance::ForCallers, Some(now + HOST_PAUSE)));
        // It does not shorten a longer pause.
        for _ in 0..6 {
            fail(&mut backoff, now);
        }
        backoff.set_back(now);
        assert_eq!(backoff.until(now), Some(now + ms(8_000)));
    }

    #[test]
    fn what_the_host_lacks_may_be_there_in_a_second() {
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
