//! How long commits of the inbox take.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    histogram::{Histogram, HistogramTotals, PHASE_BUCKETS, micros},
    starts::smooth,
};

/// Times of commits, written by the store's thread.
#[derive(Debug)]
pub struct CommitTimes {
    histogram: Histogram<14>,
    /// In microseconds.
    usual: AtomicU64,
    last: AtomicU64,
}

impl Default for CommitTimes {
    fn default() -> Self {
        let (usual, last) = Default::default();
        Self { histogram: Histogram::new(&PHASE_BUCKETS), usual, last }
    }
}

impl CommitTimes {
    /// Counts a commit.
    pub fn observe(&self, took: Duration) {
        self.histogram.observe(took);
        self.last.store(micros(took), Relaxed);
        smooth(&self.usual, took);
    }

    /// Returns how long a commit takes usually, and how long the last one took.
    pub fn usual_and_last(&self) -> (Duration, Duration) {
        let duration = |micros: &AtomicU64| Duration::from_micros(micros.load(Relaxed));
        (duration(&self.usual), duration(&self.last))
    }

    /// Returns all times.
    pub fn totals(&self) -> HistogramTotals<14> {
        let mut totals = HistogramTotals::new(&PHASE_BUCKETS);
        totals.add(&self.histogram);
        totals
    }
}
