//! Histograms of durations with fixed buckets.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// Upper bounds of buckets, in microseconds, ascending. One more bucket takes the rest.
#[derive(Debug)]
pub(crate) struct Buckets<const N: usize>(pub [u64; N]);

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// Of requests.
pub(crate) static REQUEST_BUCKETS: Buckets<14> = Buckets([
    MS,
    2_500,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    SECOND,
    2_500 * MS,
    5 * SECOND,
    15 * SECOND,
    60 * SECOND,
]);

/// Of waits before the dispatch.
pub(crate) static WAIT_BUCKETS: Buckets<8> =
    Buckets([5 * MS, 25 * MS, 100 * MS, 500 * MS, SECOND, 5 * SECOND, 15 * SECOND, 60 * SECOND]);

/// Of boots.
pub(crate) static BOOT_BUCKETS: Buckets<14> = Buckets([
    2 * MS,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    SECOND,
    2_500 * MS,
    5 * SECOND,
    10 * SECOND,
    25 * SECOND,
    60 * SECOND,
]);

/// Of the phases of boots and of starts of all origins, which may be much shorter.
pub(crate) static PHASE_BUCKETS: Buckets<14> = Buckets([
    MS / 4,
    MS / 2,
    MS,
    2_500,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    SECOND,
    5 * SECOND,
    15 * SECOND,
    60 * SECOND,
]);

/// An example of a duration: the trace in which it was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: u128,
    /// How long it was.
    pub seconds: f64,
    /// When it was taken.
    pub at: SystemTime,
}

/// By the position of the bucket.
type Exemplars = BTreeMap<usize, Exemplar>;

/// Counts durations.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    buckets: &'static Buckets<N>,
    counts: [AtomicU64; N],
    /// Longer than the last bound.
    rest: AtomicU64,
    sum_micros: AtomicU64,
    /// The last example of each bucket. Only traced requests lock it.
    exemplars: Mutex<Exemplars>,
}

impl<const N: usize> Histogram<N> {
    pub fn new(buckets: &'static Buckets<N>) -> Self {
        let (rest, sum_micros, exemplars) = Default::default();
        Self { buckets, counts: std::array::from_fn(|_| AtomicU64::new(0)), rest, sum_micros, exemplars }
    }

    pub fn observe(&self, took: Duration) {
        let micros = micros(took);
        let bucket = self.buckets.position(micros).and_then(|position| self.counts.get(position));
        bucket.unwrap_or(&self.rest).fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }
}

impl<const N: usize> Histogram<N> {
    /// Notes the trace in which a duration was taken.
    pub fn note_trace(&self, took: Duration, trace_id: u128) {
        let exemplar = Exemplar { trace_id, seconds: took.as_secs_f64(), at: SystemTime::now() };
        let bucket = self.buckets.position(micros(took)).unwrap_or(N);
        self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket, exemplar);
    }
}

impl<const N: usize> Buckets<N> {
    fn position(&self, micros: u64) -> Option<usize> {
        // Most durations are short.
        self.0.iter().position(|bound| micros <= *bound)
    }
}

/// The durations that were counted at one moment.
#[derive(Debug, Clone)]
pub struct HistogramTotals<const N: usize> {
    buckets: &'static Buckets<N>,
    counts: [u64; N],
    rest: u64,
    sum_micros: u64,
    exemplars: Exemplars,
}

impl<const N: usize> HistogramTotals<N> {
    pub(crate) fn new(buckets: &'static Buckets<N>) -> Self {
        Self { buckets, counts: [0; N], rest: 0, sum_micros: 0, exemplars: Exemplars::new() }
    }

    pub(crate) fn observe(&mut self, took: Duration) {
        let micros = micros(took);
        let bucket = self.buckets.position(micros).and_then(|position| self.counts.get_mut(position));
        *bucket.unwrap_or(&mut self.rest) += 1;
        self.sum_micros += micros;
    }

    pub(super) fn add(&mut self, histogram: &Histogram<N>) {
        for (total, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *total += count.load(Relaxed);
        }
        self.rest += histogram.rest.load(Relaxed);
        self.sum_micros += histogram.sum_micros.load(Relaxed);
        for (bucket, exemplar) in histogram.exemplars.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let last = self.exemplars.entry(*bucket).or_insert(*exemplar);
            if last.at < exemplar.at {
                *last = *exemplar;
            }
        }
    }

    /// Returns the upper bound of buckets in seconds, with the last example of each.
    pub fn exemplars(&self) -> impl Iterator<Item = (f64, &Exemplar)> {
        let bound = |bucket: &usize| self.buckets.0.get(*bucket).map_or(f64::INFINITY, |bound| *bound as f64 / 1e6);
        self.exemplars.iter().map(move |(bucket, exemplar)| (bound(bucket), exemplar))
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.rest
    }

    /// Returns their sum, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_micros as f64 / 1e6
    }

    /// Returns the upper bound of each bucket in seconds, and the number of durations in it alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.buckets.0.iter().map(|bound| *bound as f64 / 1e6);
        bounds.zip(self.counts).chain([(f64::INFINITY, self.rest)])
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    // In 64 bits, which is enough for half a million years.
    duration.as_secs().saturating_mul(SECOND).saturating_add(u64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&REQUEST_BUCKETS);
        for micros in [0, 1_000, 1_001, 2_500, 61_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut totals = HistogramTotals::new(&REQUEST_BUCKETS);
        totals.add(&histogram);
        totals.observe(Duration::from_millis(1));
        let buckets: Vec<_> = totals.buckets().collect();
        assert_eq!(buckets.len(), 15);
        assert_eq!((buckets[0], buckets[1], buckets[14]), ((0.001, 3), (0.0025, 2), (f64::INFINITY, 1)));
        assert_eq!((totals.count(), totals.sum()), (6, 61.005_501));
    }

    #[test]
    fn bounds_ascend() {
        assert!(REQUEST_BUCKETS.0.is_sorted() && BOOT_BUCKETS.0.is_sorted() && PHASE_BUCKETS.0.is_sorted());
        assert!(WAIT_BUCKETS.0.is_sorted());
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }
}
