//! How long a function usually has nothing to do. Pure.
//!
//! Only times count during which nothing of the function runs: shorter ones need no prediction, and whether the next request
//! comes soon is known by then.

use std::time::Duration;

const BINS: usize = 60;
/// Where the first bin begins. Shorter times are in it, too.
const SHORTEST: f64 = 10.0;
/// Where the last bin ends: nothing is predicted for more than a day.
const LONGEST: f64 = 86_400.0;
/// As many times count before a prediction.
const LEAST_COUNT: u32 = 10;
/// At this number all counts are halved, so that older times count less.
const MOST_COUNT: u32 = 256;
/// Least coefficient of variation of the bins for a prediction: times that are spread over many bins predict nothing.
const LEAST_VARIATION: f64 = 2.0;

/// When the next request is expected, from the time at which the function went idle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Expected {
    pub from: Duration,
    pub until: Duration,
}

/// Counts idle times in bins, each about a sixth longer than the one before.
#[derive(Debug, Clone)]
pub(crate) struct IdleTimes {
    bins: [u16; BINS],
    /// Those that were longer than a day.
    longer: u32,
    /// What follows from them.
    expected: Option<Expected>,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self { bins: [0; BINS], longer: 0, expected: None }
    }
}

impl IdleTimes {
    /// Counts an idle time.
    pub fn note(&mut self, idle: Duration) {
        let position = (idle.as_secs_f64() / SHORTEST).ln() / (LONGEST / SHORTEST).ln() * BINS as f64;
        // A negative position is in the first bin.
        match self.bins.get_mut(position as usize) {
            Some(bin) => *bin += 1,
            None => self.longer += 1,
        }
        if self.count() >= MOST_COUNT {
            self.bins.iter_mut().for_each(|bin| *bin /= 2);
            self.longer /= 2;
        }
        self.expected = self.predict();
    }

    /// Returns how many idle times count.
    pub fn count(&self) -> u32 {
        self.bins.iter().map(|bin| u32::from(*bin)).sum::<u32>() + self.longer
    }

    /// Returns when the next request is expected: 0.9 of the 5th percentile to 1.1 of the 99th. `None`: there were too few, or
    /// they differ too much.
    pub fn expected(&self) -> Option<Expected> {
        self.expected
    }

    fn predict(&self) -> Option<Expected> {
        let count = self.count();
        if count < LEAST_COUNT || self.variation() <= LEAST_VARIATION {
            return None;
        }
        let (from, until) = (begin_of(self.percentile(0.05)?), begin_of(self.percentile(0.99)? + 1));
        Some(Expected { from: from.mul_f64(0.9), until: until.mul_f64(1.1) })
    }

    /// Returns the standard deviation of the counts of all bins by their mean.
    fn variation(&self) -> f64 {
        let counts = self.bins.map(f64::from);
        let mean = counts.iter().sum::<f64>() / BINS as f64;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / BINS as f64;
        if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
    }

    /// Returns the bin below or in which this share of all times is. `None`: it is longer than a day.
    fn percentile(&self, share: f64) -> Option<usize> {
        let wanted = f64::from(self.count()) * share;
        let mut sum = 0.0;
        self.bins.iter().position(|bin| {
            sum += f64::from(*bin);
            sum >= wanted
        })
    }
}

fn begin_of(bin: usize) -> Duration {
    Duration::from_secs_f64(SHORTEST * (LONGEST / SHORTEST).powf(bin as f64 / BINS as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = f64>) -> IdleTimes {
        let mut idle_times = IdleTimes::default();
        times.into_iter().for_each(|seconds| idle_times.note(Duration::from_secs_f64(seconds)));
        idle_times
    }

    #[test]
    fn equal_times_are_expected_again() {
        for seconds in [11.0, 60.0, 300.0, 3_600.0, 80_000.0] {
            let Expected { from, until } = of([seconds; 20]).expected().unwrap();
            let (from, until) = (from.as_secs_f64() / seconds, until.as_secs_f64() / seconds);
            assert!((0.7..=0.9).contains(&from) && (1.1..=1.3).contains(&until), "{seconds}: {from} to {until}");
        }
    }

    #[test]
    fn few_times_and_times_of_all_lengths_predict_nothing() {
        assert_eq!(of([300.0; 9]).expected(), None);
        assert!(of([300.0; 10]).expected().is_some());
        let spread = (0..600).map(|number| 10.0 * 8_000.0_f64.powf(f64::from(number % 60) / 60.0));
        assert_eq!(of(spread).expected(), None);
    }

    #[test]
    fn times_below_and_above_the_bins_are_counted() {
        let short = of([0.5; 20]);
        assert!(short.expected().unwrap().from < Duration::from_secs(10));
        // One of ten is longer than a day, so the 99th percentile is unknown.
        let long = of((0..20).map(|number| if number % 10 == 0 { 1e6 } else { 60.0 }));
        assert_eq!((long.count(), long.expected()), (20, None));
    }

    #[test]
    fn older_times_count_less() {
        let mut times = of([60.0; 250]);
        for _ in 0..1_500 {
            times.note(Duration::from_secs(6_000));
        }
        assert!(times.count() < MOST_COUNT);
        assert!(times.expected().unwrap().from > Duration::from_secs(4_000), "{times:?}");
    }
}
