//! Counters and histograms of a function's requests and boots, written without locks.
//!
//! HTTP workers count outcomes and the FunctionActor counts boots; `/debug` reads both.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

/// How a request ended, as the platform sees it. Every request is counted under exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the codes in docs/http.md")]
pub enum Outcome {
    /// The function's response reached the client completely, whatever its status.
    Ok,
    /// The client disconnected before it had the complete response.
    ClientGone,
    FunctionMisconfigured,
    FunctionSaturated,
    HostSaturated,
    Draining,
    StartFailed,
    BootFailed,
    BootTimedOut,
    QueueTimedOut,
    InstanceFailed,
    FunctionTimedOut,
    BadRequest,
    BodyTooLarge,
    RequestTimedOut,
    Internal,
}

impl Outcome {
    /// Every outcome, in the order of the discriminants.
    pub const ALL: [Outcome; 16] = [
        Outcome::Ok,
        Outcome::ClientGone,
        Outcome::FunctionMisconfigured,
        Outcome::FunctionSaturated,
        Outcome::HostSaturated,
        Outcome::Draining,
        Outcome::StartFailed,
        Outcome::BootFailed,
        Outcome::BootTimedOut,
        Outcome::QueueTimedOut,
        Outcome::InstanceFailed,
        Outcome::FunctionTimedOut,
        Outcome::BadRequest,
        Outcome::BodyTooLarge,
        Outcome::RequestTimedOut,
        Outcome::Internal,
    ];

    /// Returns the stable name in `/debug` and in `x-unifaas-error`.
    pub const fn code(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientGone => "client_gone",
            Outcome::FunctionMisconfigured => "function_misconfigured",
            Outcome::FunctionSaturated => "function_saturated",
            Outcome::HostSaturated => "host_saturated",
            Outcome::Draining => "draining",
            Outcome::StartFailed => "start_failed",
            Outcome::BootFailed => "boot_failed",
            Outcome::BootTimedOut => "boot_timed_out",
            Outcome::QueueTimedOut => "queue_timed_out",
            Outcome::InstanceFailed => "instance_failed",
            Outcome::FunctionTimedOut => "function_timed_out",
            Outcome::BadRequest => "bad_request",
            Outcome::BodyTooLarge => "body_too_large",
            Outcome::RequestTimedOut => "request_timed_out",
            Outcome::Internal => "internal",
        }
    }
}

/// Upper bounds of the boot-time histogram's buckets, in milliseconds; one more bucket takes the rest.
const BOOT_BUCKETS_MS: [u64; 14] = [2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 60_000];

/// Weight of the newest observation in a running average: one in this many.
const SMOOTHING: u64 = 8;

/// Counters of one function since it was registered.
#[derive(Debug, Default)]
pub struct FunctionStats {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    instances_started: AtomicU64,
    instances_evicted: AtomicU64,
    callbacks_refused: AtomicU64,
    boots: [AtomicU64; BOOT_BUCKETS_MS.len() + 1],
    boot_micros: AtomicU64,
    /// Running average of how long a slot is held, in microseconds; 0 before the first request.
    service_micros: AtomicU64,
    /// Running average of a boot, in microseconds; 0 before the first one.
    usual_boot_micros: AtomicU64,
}

impl FunctionStats {
    /// Counts a request that has ended.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_start(&self) {
        self.instances_started.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_eviction(&self) {
        self.instances_evicted.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_refused_callback(&self) {
        self.callbacks_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn observe_boot(&self, took: Duration) {
        let bucket = BOOT_BUCKETS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        self.boots[bucket.unwrap_or(BOOT_BUCKETS_MS.len())].fetch_add(1, Relaxed);
        self.boot_micros.fetch_add(micros(took), Relaxed);
        smooth(&self.usual_boot_micros, took);
    }

    pub(crate) fn observe_service(&self, took: Duration) {
        smooth(&self.service_micros, took);
    }

    /// Returns how long a slot is held on average.
    pub(crate) fn usual_service(&self) -> Duration {
        Duration::from_micros(self.service_micros.load(Relaxed))
    }

    /// Returns how long a boot takes on average.
    pub(crate) fn usual_boot(&self) -> Duration {
        Duration::from_micros(self.usual_boot_micros.load(Relaxed))
    }

    /// Returns the counters for `/debug`.
    pub fn report(&self) -> StatsReport {
        let mut counters: BTreeMap<&'static str, u64> = Outcome::ALL
            .iter()
            .map(|outcome| (outcome.code(), self.outcomes[*outcome as usize].load(Relaxed)))
            .collect();
        counters.insert("requests", counters.values().sum());
        let mut total = 0;
        let mut buckets = BTreeMap::new();
        for (index, count) in self.boots.iter().enumerate() {
            total += count.load(Relaxed);
            let bound = BOOT_BUCKETS_MS.get(index).map(|ms| (*ms as f64 / 1000.0).to_string());
            buckets.insert(bound.unwrap_or_else(|| "+Inf".to_owned()), total);
        }
        StatsReport {
            counters,
            instances_started: self.instances_started.load(Relaxed),
            instances_evicted: self.instances_evicted.load(Relaxed),
            callbacks_refused: self.callbacks_refused.load(Relaxed),
            boot_seconds: BootReport { count: total, sum: self.boot_micros.load(Relaxed) as f64 / 1e6, buckets },
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
    /// Ready callbacks that were refused.
    pub callbacks_refused: u64,
    /// From the launch order to readiness, of successful boots.
    pub boot_seconds: BootReport,
}

/// A cumulative histogram of boots.
#[derive(Debug, Clone, Serialize)]
pub struct BootReport {
    /// Boots observed.
    pub count: u64,
    /// Their total duration in seconds.
    pub sum: f64,
    /// Boots that took at most the key's number of seconds.
    pub buckets: BTreeMap<String, u64>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Updates a running average. A race between workers may lose an observation, which an average tolerates.
fn smooth(average: &AtomicU64, observed: Duration) {
    let observed = micros(observed).max(1);
    let old = average.load(Relaxed);
    let new = if old == 0 { observed } else { old - old / SMOOTHING + observed / SMOOTHING };
    average.store(new.max(1), Relaxed);
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
        assert_eq!(report.counters["requests"], (1..=16).sum::<u64>());
    }

    #[test]
    fn boot_buckets_are_cumulative() {
        let stats = FunctionStats::default();
        for ms in [1, 3, 40, 100_000] {
            stats.observe_boot(Duration::from_millis(ms));
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
