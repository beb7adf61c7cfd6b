//! What was counted of a function, and what the difference of two counts means.

use std::sync::LazyLock;

use unifaas_actors::{FunctionHandle, FunctionStats, FunctionTotals, Outcome, WaitCause};

use super::{attention::Recent, point::Point};

/// Buckets of the histogram of durations, and one for the rest.
const BUCKETS: usize = 15;
/// Their upper bounds, in seconds.
static BOUNDS: LazyLock<[f64; BUCKETS]> = LazyLock::new(|| {
    let mut bounds = [f64::INFINITY; BUCKETS];
    let totals = FunctionTotals::default();
    bounds.iter_mut().zip(totals.durations.buckets()).for_each(|(bound, (known, _))| *bound = known);
    bounds
});

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    requests: u64,
    /// Those that the platform answered with an error, or the function with a 5xx.
    failed: u64,
    /// Those that waited for a boot.
    cold: u64,
    /// Durations in each bucket.
    buckets: [u64; BUCKETS],
    /// Sums, in seconds: of all durations, of waits for a slot or the host, of waits for a boot.
    took: f64,
    waited: f64,
    booted: f64,
}

impl Counters {
    /// Reads the counters of a function.
    pub fn read(handle: &FunctionHandle) -> Self {
        handle.used_stats().map(Self::of).unwrap_or_default()
    }

    fn of(stats: &FunctionStats) -> Self {
        let totals = stats.totals();
        let requests = totals.outcomes().map(|(_, count)| count).sum();
        let is_error = |outcome| !matches!(outcome, Outcome::Ok | Outcome::ClientGone);
        let errors: u64 = totals.outcomes().filter(|(outcome, _)| is_error(*outcome)).map(|(_, count)| count).sum();
        let own: u64 = totals.classes().filter(|(class, _)| *class == "5xx").map(|(_, count)| count).sum();
        let mut buckets = [0; BUCKETS];
        buckets.iter_mut().zip(totals.durations.buckets()).for_each(|(bucket, (_, count))| *bucket = count);
        let waits = |is_boot: bool| {
            let waits = totals.waits().filter(|(cause, _)| (*cause == WaitCause::Boot) == is_boot);
            waits.map(|(_, wait)| wait.sum()).sum()
        };
        Self {
            requests,
            failed: (errors + own).min(requests),
            cold: totals.cold,
            buckets,
            took: totals.durations.sum(),
            waited: waits(false),
            booted: waits(true),
        }
    }

    /// Returns what was counted since.
    pub fn since(&self, before: &Self) -> Self {
        let mut buckets = self.buckets;
        for (count, before) in buckets.iter_mut().zip(before.buckets) {
            *count = count.saturating_sub(before);
        }
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
            cold: self.cold.saturating_sub(before.cold),
            buckets,
            took: (self.took - before.took).max(0.0),
            waited: (self.waited - before.waited).max(0.0),
            booted: (self.booted - before.booted).max(0.0),
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.cold += other.cold;
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += count;
        }
        self.took += other.took;
        self.waited += other.waited;
        self.booted += other.booted;
    }

    /// Returns these counts as a point, with the queue and the instances at its end.
    pub fn point(&self, queue: usize, instances: usize) -> Point {
        let is_used = self.buckets.iter().any(|count| *count > 0);
        Point {
            requests: self.requests as f64,
            failed: self.failed as f64,
            cold: self.cold as f64,
            queue: queue as f64,
            instances: instances as f64,
            mean: self.mean(self.took),
            wait: self.mean(self.waited),
            boot: self.mean(self.booted),
            quantiles: is_used.then(|| [0.5, 0.95, 0.99].map(|share| self.quantile(share))),
        }
    }

    /// Returns what the requests of so many seconds were like, of which these are the counts.
    pub fn recent(&self, seconds: f64) -> Recent {
        Recent {
            seconds,
            requests: self.requests as f64,
            failed: self.failed as f64,
            cold: self.cold as f64,
            p95: self.quantile(0.95),
            mean: self.mean(self.took),
            wait: self.mean(self.waited),
            boot: self.mean(self.booted),
        }
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / (self.requests.max(1) as f64)
    }

    /// Returns the duration that a share of requests does not exceed, as if those of a bucket were spread evenly.
    fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return 0.0;
        }
        let wanted = share * total as f64;
        let (mut lower, mut below) = (0.0, 0.0);
        for (upper, count) in BOUNDS.iter().copied().zip(self.buckets) {
            let count = count as f64;
            if below + count >= wanted && count > 0.0 {
                // The last bucket has no upper bound.
                return if upper.is_finite() { lower + (upper - lower) * (wanted - below) / count } else { lower };
            }
            below += count;
            lower = upper;
        }
        lower
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use unifaas_actors::{Origin, RequestEnd};

    use super::*;

    fn end(outcome: Outcome, status: Option<u16>, ms: u64) -> RequestEnd {
        let took = Duration::from_millis(ms);
        RequestEnd { outcome, status, took, queue: None, boot: None, request_bytes: 0, response_bytes: 0 }
    }

    #[test]
    fn a_point_is_the_difference_of_two_counts() {
        let stats = FunctionStats::default();
        stats.count_request(&end(Outcome::Ok, Some(200), 7));
        let before = Counters::of(&stats);
        stats.count_request(&end(Outcome::Ok, Some(500), 100));
        stats.count_request(&end(Outcome::QueueTimedOut, None, 1000));
        let waited = RequestEnd {
            queue: Some((WaitCause::Slot, Duration::from_secs(1))),
            boot: Some((Origin::Cold, Duration::from_secs(2))),
            ..end(Outcome::Ok, Some(200), 4000)
        };
        stats.count_request(&waited);
        let change = Counters::of(&stats).since(&before);
        let (point, recent) = (change.point(5, 2), change.recent(300.0));
        assert_eq!((point.requests, point.failed, point.cold, point.queue, point.instances), (3.0, 2.0, 1.0, 5.0, 2.0));
        let close = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        assert!(close(point.mean, 1.7) && close(point.wait, 1.0 / 3.0) && close(point.boot, 2.0 / 3.0), "{point:?}");
        assert_eq!((recent.requests, recent.failed, recent.cold, recent.mean), (3.0, 2.0, 1.0, point.mean));
        assert_eq!(Counters::default().point(0, 0).quantiles, None);
        assert_eq!(Counters::default().recent(0.0), Recent::default());
    }

    #[test]
    fn percentiles_are_within_their_bucket() {
        let stats = FunctionStats::default();
        for ms in [3; 90].into_iter().chain([700; 10]) {
            stats.count_request(&end(Outcome::Ok, Some(200), ms));
        }
        let [p50, p95, p99] = Counters::of(&stats).point(0, 0).quantiles.unwrap();
        assert!((0.0025..0.005).contains(&p50) && (0.5..1.0).contains(&p95) && p95 < p99, "{p50} {p95} {p99}");
        let stats = FunctionStats::default();
        stats.count_request(&end(Outcome::Ok, Some(200), 100_000));
        assert_eq!(Counters::of(&stats).point(0, 0).quantiles, Some([60.0; 3]));
    }
}
