//! The last starts, and the slowest ones of each function.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    boot::{BootRecord, BootReport, Phase},
    feed::Feed,
    id::InstanceId,
    stats::{HistogramTotals, PHASE_BUCKETS},
};

/// Records of the last starts.
const MAX_RECENT: usize = 512;
/// Slowest starts of a function, and how long they count.
const MAX_SLOWEST: usize = 4;
const SLOWEST_AGE: Duration = Duration::from_secs(3600);
/// Bytes that all records take.
const MAX_BYTES: usize = 512 << 10;

/// The starts that are remembered. InstanceActors add theirs.
#[derive(Debug)]
pub struct BootHistory {
    feed: Arc<Feed>,
    boots: Mutex<Boots>,
}

#[derive(Debug, Default)]
struct Boots {
    /// Oldest first.
    recent: VecDeque<Entry>,
    /// By function, the slowest first. They may be among the recent ones.
    slowest: HashMap<Arc<str>, Vec<Entry>>,
    /// How long each phase took, by the kind of sandbox. All starts that have succeeded.
    phases: BTreeMap<&'static str, [PhaseTimes; Phase::ALL.len()]>,
    /// Of all entries. A record that is in both counts twice.
    bytes: usize,
}

/// How long a phase took in all starts.
pub type PhaseTimes = HistogramTotals<14>;

#[derive(Debug, Clone)]
struct Entry {
    sequence: u64,
    ended: Instant,
    /// When it was added. Its times are complete then but for the first byte.
    size: usize,
    record: Arc<BootRecord>,
}

impl BootHistory {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self { feed, boots: Mutex::default() }
    }

    /// Adds a start that has succeeded or failed.
    pub(crate) fn add(&self, record: Arc<BootRecord>) {
        let (size, ended) = (record.size(), Instant::now());
        let mut boots = self.lock();
        let entry = Entry { sequence: self.feed.next_sequence(), ended, size, record };
        if entry.record.is_ready() {
            boots.observe_phases(&entry.record);
        }
        boots.add_to_slowest(&entry);
        boots.bytes += size;
        boots.recent.push_back(entry);
        boots.shrink(ended);
    }

    /// Notes how long the first response of an instance took, whose first request has waited for its boot.
    pub fn observe_first_byte(&self, kind: &'static str, took: Duration) {
        self.lock().phases_of(kind)[Phase::FirstByte as usize].observe(took);
    }

    /// Returns how long each phase took in all starts of each kind of sandbox.
    pub fn phases(&self) -> Vec<(&'static str, Phase, PhaseTimes)> {
        let boots = self.lock();
        let kinds =
            boots.phases.iter().flat_map(|(kind, times)| times.iter().zip(Phase::ALL).map(move |it| (*kind, it)));
        kinds.map(|(kind, (times, phase))| (kind, phase, times.clone())).collect()
    }

    /// Returns the last starts, of one function or of all, the last one first.
    pub fn recent(&self, function: Option<&str>, limit: usize) -> Vec<BootReport> {
        let boots = self.lock();
        let wanted = |entry: &&Entry| function.is_none_or(|function| *entry.record.function == *function);
        let records: Vec<_> =
            boots.recent.iter().rev().filter(wanted).take(limit).map(|entry| entry.record.clone()).collect();
        drop(boots);
        records.iter().map(|record| record.report()).collect()
    }

    /// Returns the slowest starts of the last hour, of one function or of all, the slowest first.
    pub fn slowest(&self, function: Option<&str>, limit: usize) -> Vec<BootReport> {
        let (boots, now) = (self.lock(), Instant::now());
        let wanted = boots.slowest.iter().filter(|(name, _)| function.is_none_or(|function| ***name == *function));
        let entries = wanted.flat_map(|(_, slowest)| slowest).filter(|entry| now - entry.ended < SLOWEST_AGE);
        let mut records: Vec<_> = entries.map(|entry| entry.record.clone()).collect();
        drop(boots);
        records.sort_by_key(|record| std::cmp::Reverse(record.took()));
        records.iter().take(limit).map(|record| record.report()).collect()
    }

    /// Returns the start of an instance.
    pub fn of_instance(&self, id: InstanceId) -> Option<BootReport> {
        let boots = self.lock();
        let slowest = boots.slowest.values().flatten();
        let mut entries = boots.recent.iter().rev().chain(slowest);
        let record = entries.find(|entry| entry.record.instance == id).map(|entry| entry.record.clone());
        drop(boots);
        record.map(|record| record.report())
    }

    /// Returns the starts behind the event of that sequence number, oldest first, each with its own.
    pub fn since(&self, sequence: u64) -> Vec<(u64, BootReport)> {
        let boots = self.lock();
        let since = boots.recent.iter().filter(|entry| entry.sequence > sequence);
        since.map(|entry| (entry.sequence, entry.record.report())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Boots> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Boots {
    fn phases_of(&mut self, kind: &'static str) -> &mut [PhaseTimes; Phase::ALL.len()] {
        self.phases.entry(kind).or_insert_with(|| std::array::from_fn(|_| HistogramTotals::new(&PHASE_BUCKETS)))
    }

    fn observe_phases(&mut self, record: &BootRecord) {
        let times = self.phases_of(record.kind);
        let mut before = Duration::ZERO;
        for (phase, end) in record.clock.boot_phases() {
            times[phase as usize].observe(end - before);
            before = end;
        }
    }

    fn add_to_slowest(&mut self, entry: &Entry) {
        let slowest = self.slowest.entry(entry.record.function.clone()).or_default();
        let before = sum(slowest);
        slowest.retain(|slow| entry.ended - slow.ended < SLOWEST_AGE);
        let position = slowest.partition_point(|slow| slow.record.took() >= entry.record.took());
        slowest.insert(position, entry.clone());
        slowest.truncate(MAX_SLOWEST);
        self.bytes = self.bytes + sum(slowest) - before;
    }

    fn shrink(&mut self, now: Instant) {
        while self.recent.len() > MAX_RECENT {
            self.forget_oldest();
        }
        if self.bytes > MAX_BYTES {
            self.slowest.retain(|_, slowest| {
                let before = sum(slowest);
                slowest.retain(|slow| now - slow.ended < SLOWEST_AGE);
                self.bytes = self.bytes + sum(slowest) - before;
                !slowest.is_empty()
            });
        }
        while self.bytes > MAX_BYTES {
            // The slowest starts of the function that has not been slow for longest.
            let oldest = self.slowest.iter().min_by_key(|(_, slowest)| slowest.iter().map(|slow| slow.ended).max());
            match oldest.map(|(function, _)| function.clone()) {
                Some(function) => self.bytes -= self.slowest.remove(&function).map_or(0, |slowest| sum(&slowest)),
                None => self.forget_oldest(),
            }
        }
    }

    fn forget_oldest(&mut self) {
        self.bytes -= self.recent.pop_front().map_or(0, |oldest| oldest.size);
    }
}

fn sum(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        boot::{BootClock, StartCause},
        id::InstanceId,
    };

    fn boots() -> BootHistory {
        BootHistory::new(Arc::default())
    }

    /// Adds a start that has taken so many milliseconds.
    async fn add(boots: &BootHistory, function: &str, ms: u64) -> InstanceId {
        let (instance, clock) = (InstanceId::random(), BootClock::new(Instant::now()));
        let record = BootRecord::new(function.into(), "process", 1, instance, StartCause::Minimum, clock);
        tokio::time::advance(Duration::from_millis(ms)).await;
        record.set_ready(Instant::now());
        boots.add(Arc::new(record));
        instance
    }

    fn times(reports: &[BootReport]) -> Vec<u64> {
        reports.iter().map(|report| report.took_us / 1000).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_starts_are_kept() {
        let boots = boots();
        let mut ids = Vec::new();
        for number in 0..MAX_RECENT + 10 {
            ids.push(add(&boots, if number % 2 == 0 { "even" } else { "odd" }, 1).await);
        }
        let recent = boots.recent(None, usize::MAX);
        assert_eq!((recent.len(), recent[0].instance), (MAX_RECENT, *ids.last().unwrap()));
        assert_eq!(recent[MAX_RECENT - 1].instance, ids[10]);
        assert_eq!(boots.recent(Some("odd"), 3).len(), 3);
        assert!(boots.recent(Some("odd"), 3).iter().all(|report| &*report.function == "odd"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_a_function_are_kept_for_an_hour() {
        let boots = boots();
        for ms in [10, 70, 30, 50, 20, 60] {
            add(&boots, "f", ms).await;
        }
        add(&boots, "g", 55).await;
        for _ in 0..MAX_RECENT {
            add(&boots, "g", 1).await;
        }
        assert_eq!(times(&boots.slowest(Some("f"), usize::MAX)), [70, 60, 50, 30]);
        assert_eq!(times(&boots.slowest(None, 3)), [70, 60, 55]);
        assert!(boots.recent(Some("f"), 1).is_empty());
        tokio::time::advance(SLOWEST_AGE).await;
        assert!(boots.slowest(Some("f"), 1).is_empty());
        add(&boots, "f", 5).await;
        assert_eq!(times(&boots.slowest(Some("f"), usize::MAX)), [5]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_records_take_bounded_memory() {
        let boots = boots();
        for number in 0..10_000 {
            add(&boots, &format!("f{number}"), 1).await;
        }
        let kept = boots.lock();
        let entries = kept.recent.iter().chain(kept.slowest.values().flatten());
        let size: usize = entries.map(|entry| entry.size).sum();
        assert_eq!(kept.bytes, size);
        assert!(size <= MAX_BYTES && size > MAX_BYTES / 2, "{size}");
        assert_eq!(kept.recent.len(), MAX_RECENT);
        assert!(kept.slowest.contains_key("f9999") && !kept.slowest.contains_key("f0"));
    }

    #[tokio::test(start_paused = true)]
    async fn starts_since_an_event_are_known() {
        let boots = boots();
        add(&boots, "f", 1).await;
        let first = boots.since(0)[0].0;
        let second = add(&boots, "f", 1).await;
        let since = boots.since(first);
        assert_eq!((since.len(), since[0].1.instance), (1, second));
    }
}
