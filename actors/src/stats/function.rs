//! The counters of one function, from its first use on.
//!
//! HTTP workers count requests; the actors count boots and instances. `/debug` and `/metrics` read them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

use super::{
    Outcome, PrewarmResult,
    histogram::{Histogram, REQUEST_BUCKETS, WAIT_BUCKETS},
    starts::{FunctionStarts, StartHistogram, smooth},
    totals::{END_CAUSES, FunctionTotals, WaitCause, end_cause},
};
use crate::{boot::Origin, sandbox::SandboxExit, stop_reason::StopReason};

/// Counters of one function since its first use.
#[derive(Debug)]
pub struct FunctionStats {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Responses of the function, by the first digit of their status.
    classes: [AtomicU64; 5],
    durations: Histogram<14>,
    waits: [Histogram<8>; WaitCause::ALL.len()],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    cold: AtomicU64,
    instances_started: AtomicU64,
    instances_evicted: AtomicU64,
    early_pauses: AtomicU64,
    prewarms: [AtomicU64; PrewarmResult::ALL.len()],
    restores_failed: AtomicU64,
    instances_ended: [AtomicU64; END_CAUSES.len()],
    callbacks_refused: AtomicU64,
    starts: FunctionStarts,
    /// Running average of how long a slot is held, in microseconds; 0 before the first request.
    service_micros: AtomicU64,
}

/// What is counted of a request when it ends.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// The function's own status, once it has answered.
    pub status: Option<u16>,
    /// From its arrival to its end.
    pub took: Duration,
    /// What it waited for besides its instance, and how long.
    pub queue: Option<(WaitCause, Duration)>,
    /// How long it waited for its instance to be started or resumed.
    pub boot: Option<(Origin, Duration)>,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

impl Default for FunctionStats {
    fn default() -> Self {
        fn zeros<const N: usize>() -> [AtomicU64; N] {
            std::array::from_fn(|_| AtomicU64::new(0))
        }
        let (request_bytes, response_bytes, cold) = Default::default();
        let (instances_started, instances_evicted, early_pauses, callbacks_refused) = Default::default();
        let (restores_failed, starts, service_micros) = Default::default();
        Self {
            outcomes: zeros(),
            classes: zeros(),
            durations: Histogram::new(&REQUEST_BUCKETS),
            waits: std::array::from_fn(|_| Histogram::new(&WAIT_BUCKETS)),
            request_bytes,
            response_bytes,
            cold,
            instances_started,
            instances_evicted,
            early_pauses,
            prewarms: zeros(),
            restores_failed,
            instances_ended: zeros(),
            callbacks_refused,
            starts,
            service_micros,
        }
    }
}

impl FunctionStats {
    /// Counts a request that has ended.
    pub fn count_request(&self, end: &RequestEnd) {
        self.outcomes[end.outcome as usize].fetch_add(1, Relaxed);
        self.durations.observe(end.took);
        if let Some(class) = end.status.and_then(|status| self.classes.get(usize::from(status / 100).wrapping_sub(1))) {
            class.fetch_add(1, Relaxed);
        }
        if end.request_bytes > 0 {
            self.request_bytes.fetch_add(end.request_bytes, Relaxed);
        }
        if end.response_bytes > 0 {
            self.response_bytes.fetch_add(end.response_bytes, Relaxed);
        }
        if let Some((cause, took)) = end.queue {
            self.waits[cause as usize].observe(took);
        }
        if let Some((origin, took)) = end.boot {
            self.waits[WaitCause::Boot as usize].observe(took);
            if origin != Origin::Resumed {
                self.cold.fetch_add(1, Relaxed);
            }
        }
    }

    /// Notes the trace of a request that took so long.
    pub fn note_trace(&self, took: Duration, trace_id: u128) {
        self.durations.note_trace(took, trace_id);
    }

    /// Notes the trace of a request that has caused a start which took so long.
    pub fn note_start_trace(&self, origin: Origin, took: Duration, trace_id: u128) {
        self.starts.note_trace(origin, took, trace_id);
    }

    /// Counts a request of which nothing is known but how it ended.
    #[cfg(test)]
    pub(crate) fn count(&self, outcome: Outcome) {
        let (took, status, queue, boot, request_bytes, response_bytes) = Default::default();
        self.count_request(&RequestEnd { outcome, status, took, queue, boot, request_bytes, response_bytes });
    }

    /// Counts an instance of which nothing is left, and how it exited.
    pub(crate) fn count_end(&self, reason: &StopReason, exit: Option<&SandboxExit>) {
        self.instances_ended[end_cause(reason, exit)].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_start(&self) {
        self.instances_started.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failed_restore(&self) {
        self.restores_failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_eviction(&self) {
        self.instances_evicted.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_early_pause(&self) {
        self.early_pauses.fetch_add(1, Relaxed);
    }

    /// Counts an instance that was started ahead of requests, once it is known what it was good for.
    pub(crate) fn count_prewarm(&self, result: PrewarmResult) {
        self.prewarms[result as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_refused_callback(&self) {
        self.callbacks_refused.fetch_add(1, Relaxed);
    }

    /// Counts a start that has succeeded.
    pub(crate) fn observe_start(&self, origin: Origin, took: Duration) {
        self.starts.observe(origin, took);
    }

    pub(crate) fn observe_service(&self, took: Duration) {
        smooth(&self.service_micros, took);
    }

    /// Returns how long a slot is held on average.
    pub(crate) fn usual_service(&self) -> Duration {
        Duration::from_micros(self.service_micros.load(Relaxed))
    }

    /// Returns how long a start takes on average. `None`: there was none.
    pub(crate) fn usual_start(&self, origin: Origin) -> Option<Duration> {
        self.starts.usual(origin)
    }

    /// Returns how many requests have ended, and how many of them the platform answered with an error.
    pub fn requests(&self) -> (u64, u64) {
        let counts = Outcome::ALL.map(|outcome| (outcome, self.outcomes[outcome as usize].load(Relaxed)));
        let is_error = |outcome: &Outcome| !matches!(outcome, Outcome::Ok | Outcome::ClientGone);
        let failed = counts.iter().filter(|(outcome, _)| is_error(outcome)).map(|(_, count)| count).sum();
        (counts.iter().map(|(_, count)| count).sum(), failed)
    }

    /// Returns everything that `/metrics` shows.
    pub fn totals(&self) -> FunctionTotals {
        let mut totals = FunctionTotals::default();
        self.add_to(&mut totals);
        totals
    }

    /// Adds everything that `/metrics` shows.
    pub(super) fn add_to(&self, totals: &mut FunctionTotals) {
        let add = |total: &mut u64, count: &AtomicU64| *total += count.load(Relaxed);
        totals.outcomes.iter_mut().zip(&self.outcomes).for_each(|(total, count)| add(total, count));
        totals.classes.iter_mut().zip(&self.classes).for_each(|(total, count)| add(total, count));
        totals.ended.iter_mut().zip(&self.instances_ended).for_each(|(total, count)| add(total, count));
        totals.prewarms.iter_mut().zip(&self.prewarms).for_each(|(total, count)| add(total, count));
        totals.waits.iter_mut().zip(&self.waits).for_each(|(total, waits)| total.add(waits));
        totals.durations.add(&self.durations);
        self.starts.add_times(Origin::Cold, &mut totals.boots);
        totals.starts.iter_mut().zip(Origin::ALL).for_each(|(total, origin)| *total += self.starts.count(origin));
        add(&mut totals.request_bytes, &self.request_bytes);
        add(&mut totals.response_bytes, &self.response_bytes);
        add(&mut totals.cold, &self.cold);
        add(&mut totals.started, &self.instances_started);
        add(&mut totals.early_pauses, &self.early_pauses);
        add(&mut totals.restores_failed, &self.restores_failed);
    }

    /// Returns the counters for `/debug`.
    pub fn report(&self) -> StatsReport {
        let mut counters: BTreeMap<&'static str, u64> = Outcome::ALL
            .iter()
            .map(|outcome| (outcome.code(), self.outcomes[*outcome as usize].load(Relaxed)))
            .collect();
        counters.insert("requests", counters.values().sum());
        StatsReport {
            counters,
            instances_started: self.instances_started.load(Relaxed),
            instances_evicted: self.instances_evicted.load(Relaxed),
            early_pauses: self.early_pauses.load(Relaxed),
            prewarms: PrewarmResult::ALL.map(|it| (it.as_str(), self.prewarms[it as usize].load(Relaxed))).into(),
            callbacks_refused: self.callbacks_refused.load(Relaxed),
            starts: Origin::ALL.into_iter().map(|origin| (origin, self.starts.count(origin))).collect(),
            boot_seconds: self.starts.report(Origin::Cold),
            resume_seconds: self.starts.report(Origin::Resumed),
            restore_seconds: self.starts.report(Origin::Restored),
        }
    }
}

/// The counters of one function, as `/debug` shows them.
#[derive(Debug, Clone, Serialize)]
pub struct StatsReport {
    /// Requests by outcome, and `requests` for all that have ended.
    pub counters: BTreeMap<&'static str, u64>,
    /// Instances that were started, successfully or not.
    pub instances_started: u64,
    /// Idle instances that were stopped because other functions needed their memory.
    pub instances_evicted: u64,
    /// Idle instances that were paused before their time because other functions needed their memory.
    pub early_pauses: u64,
    /// Instances that were started ahead of requests, by result.
    pub prewarms: BTreeMap<&'static str, u64>,
    /// Ready callbacks that were refused.
    pub callbacks_refused: u64,
    /// Starts that have succeeded, by their origin.
    pub starts: BTreeMap<Origin, u64>,
    /// From the launch order to readiness, of successful boots.
    pub boot_seconds: StartHistogram,
    /// From the order to resume a paused instance until it ran.
    pub resume_seconds: StartHistogram,
    /// From the launch order to readiness, of instances that were restored from a snapshot.
    pub restore_seconds: StartHistogram,
}

impl StatsReport {
    /// Returns the report of a function that was never used.
    pub(crate) fn unused() -> Self {
        FunctionStats::default().report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_outcome_under_its_own_code() {
        let stats = FunctionStats::default();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            for _ in 0..=index {
                stats.count(outcome);
            }
        }
        let report = stats.report();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(report.counters[outcome.code()], index as u64 + 1);
        }
        assert_eq!(report.counters["requests"], (1..=18).sum::<u64>());
        assert_eq!(stats.requests(), (171, 168), "1 is ok, of 2 the client left");
    }

    #[test]
    fn boot_buckets_are_cumulative() {
        let stats = FunctionStats::default();
        for ms in [1, 3, 40, 100_000] {
            stats.observe_start(Origin::Cold, Duration::from_millis(ms));
        }
        let boots = stats.report().boot_seconds;
        assert_eq!((boots.count, boots.buckets["0.002"], boots.buckets["0.005"]), (4, 1, 2));
        assert_eq!((boots.buckets["0.05"], boots.buckets["60"], boots.buckets["+Inf"]), (3, 3, 4));
    }

    #[test]
    fn averages_converge_to_the_observed_durations() {
        let stats = FunctionStats::default();
        assert_eq!(stats.usual_service(), Duration::ZERO);
        for _ in 0..100 {
            stats.observe_service(Duration::from_millis(80));
        }
        let usual = stats.usual_service();
        assert!(usual > Duration::from_millis(75) && usual <= Duration::from_millis(80), "{usual:?}");
    }
}
