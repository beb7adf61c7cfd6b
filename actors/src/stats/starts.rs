//! How long starts took by their origin, of one function or of all.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;

use super::histogram::{BOOT_BUCKETS, Buckets, Histogram, HistogramTotals, PHASE_BUCKETS, micros};
use crate::boot::Origin;

/// Weight of the newest observation in a running average: one in this many.
const SMOOTHING: u64 = 8;

/// The successful starts of one function. Most functions have starts of one origin only.
#[derive(Debug)]
pub(super) struct FunctionStarts {
    counts: [AtomicU64; Origin::ALL.len()],
    times: [OnceLock<Box<Histogram<14>>>; Origin::ALL.len()],
    /// Running averages, in microseconds; 0 before the first start.
    usual: [AtomicU64; Origin::ALL.len()],
}

impl Default for FunctionStarts {
    fn default() -> Self {
        let (counts, times, usual) = Default::default();
        Self { counts, times, usual }
    }
}

impl FunctionStarts {
    pub fn observe(&self, origin: Origin, took: Duration) {
        self.counts[origin as usize].fetch_add(1, Relaxed);
        self.times(origin).observe(took);
        smooth(&self.usual[origin as usize], took);
    }

    /// Notes the trace of a request that has caused a start which took so long.
    pub fn note_trace(&self, origin: Origin, took: Duration, trace_id: u128) {
        self.times(origin).note_trace(took, trace_id);
    }

    fn times(&self, origin: Origin) -> &Histogram<14> {
        self.times[origin as usize].get_or_init(|| Box::new(Histogram::new(buckets_of(origin))))
    }

    /// Adds the times of an origin.
    pub fn add_times(&self, origin: Origin, totals: &mut HistogramTotals<14>) {
        if let Some(times) = self.times[origin as usize].get() {
            totals.add(times);
        }
    }

    /// Returns how many starts have succeeded.
    pub fn count(&self, origin: Origin) -> u64 {
        self.counts[origin as usize].load(Relaxed)
    }

    /// Returns how long a start takes on average. `None`: there was none.
    pub fn usual(&self, origin: Origin) -> Option<Duration> {
        let usual = self.usual[origin as usize].load(Relaxed);
        (usual > 0).then(|| Duration::from_micros(usual))
    }

    pub fn report(&self, origin: Origin) -> StartHistogram {
        let mut totals = HistogramTotals::new(buckets_of(origin));
        self.add_times(origin, &mut totals);
        let mut total = 0;
        let cumulative = totals.buckets().map(|(bound, count)| {
            total += count;
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            (bound, total)
        });
        let buckets = cumulative.collect();
        StartHistogram { count: totals.count(), sum: totals.sum(), buckets }
    }
}

/// Boots have had their buckets before there were other origins.
fn buckets_of(origin: Origin) -> &'static Buckets<14> {
    match origin {
        Origin::Cold => &BOOT_BUCKETS,
        Origin::Resumed | Origin::Restored => &PHASE_BUCKETS,
    }
}

/// A cumulative histogram of starts.
#[derive(Debug, Clone, Serialize)]
pub struct StartHistogram {
    /// Starts observed.
    pub count: u64,
    /// Their total duration in seconds.
    pub sum: f64,
    /// Starts that took at most the key's number of seconds.
    pub buckets: BTreeMap<String, u64>,
}

/// How long the starts of all functions took, by their origin.
#[derive(Debug)]
pub struct StartTimes([Histogram<14>; Origin::ALL.len()]);

impl Default for StartTimes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::new(&PHASE_BUCKETS)))
    }
}

impl StartTimes {
    pub(crate) fn observe(&self, origin: Origin, took: Duration) {
        self.0[origin as usize].observe(took);
    }

    /// Returns how long starts took, by their origin.
    pub fn totals(&self) -> Vec<(Origin, HistogramTotals<14>)> {
        let totals = |histogram| {
            let mut totals = HistogramTotals::new(&PHASE_BUCKETS);
            totals.add(histogram);
            totals
        };
        Origin::ALL.into_iter().zip(self.0.iter().map(totals)).collect()
    }
}

/// Updates a running average. A race between threads may lose an observation, which an average tolerates.
pub(super) fn smooth(average: &AtomicU64, observed: Duration) {
    let observed = micros(observed).max(1);
    let old = average.load(Relaxed);
    let new = if old == 0 { observed } else { old - old / SMOOTHING + observed / SMOOTHING };
    average.store(new.max(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_and_timed_by_origin() {
        let (starts, all) = (FunctionStarts::default(), StartTimes::default());
        for (origin, us) in [(Origin::Cold, 80_000), (Origin::Resumed, 300), (Origin::Resumed, 700)] {
            starts.observe(origin, Duration::from_micros(us));
            all.observe(origin, Duration::from_micros(us));
        }
        assert_eq!(Origin::ALL.map(|origin| starts.count(origin)), [1, 2, 0]);
        let usual = [Origin::Cold, Origin::Restored].map(|origin| starts.usual(origin));
        assert_eq!(usual, [Some(Duration::from_millis(80)), None]);
        let resumed = starts.report(Origin::Resumed);
        assert_eq!((resumed.count, resumed.buckets["0.0005"], resumed.buckets["0.001"]), (2, 1, 2));
        assert_eq!(starts.report(Origin::Restored).count, 0);
        let counts: Vec<_> = all.totals().iter().map(|(origin, times)| (origin.as_str(), times.count())).collect();
        assert_eq!(counts, [("cold", 1), ("resumed", 2), ("restored", 0)]);
    }
}
