//! How the last hour was: a point each 5 s for the daemon, and for each of the functions that were used last.
//!
//! A task reads counters that are kept anyway. A point takes 19 bytes, so that an hour of 200 functions takes 2.6 MiB.

use std::{
    collections::VecDeque,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use foldhash::{HashMap, HashMapExt, fast::FixedState};
use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval, timeout},
};
use unifaas_actors::{AdmissionQuestion, FunctionHandle};

use super::{
    attention::Recent,
    counters::Counters,
    point::{Packed, Point},
};
use crate::shared::Shared;

/// Seconds between two points.
pub const STEP: f64 = 5.0;
/// Points of an hour.
const POINTS: usize = 720;
/// Functions with points of their own.
const MAX_FUNCTIONS: usize = 200;
/// Points between two snapshots of the counters, and the snapshots that are kept: those of the last five minutes.
const SNAPSHOT: usize = 12;
const SNAPSHOTS: usize = 6;
/// Functions that are read without a pause for other tasks.
const SLICE: usize = 256;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The points of the last hour. One task writes it.
#[derive(Debug, Default)]
pub struct UsageHistory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    functions: HashMap<Arc<str>, Series>,
    daemon: VecDeque<Packed>,
    /// Of all instances, in MiB.
    memory: VecDeque<f32>,
}

#[derive(Debug)]
struct Series {
    points: VecDeque<Packed>,
    before: Counters,
    snapshots: VecDeque<Counters>,
    /// Points since the last snapshot.
    since_snapshot: usize,
    /// Points since a request has ended.
    unused: usize,
}

impl UsageHistory {
    /// Adds points until the daemon ends.
    pub async fn record(self: Arc<Self>, shared: Weak<Shared>) {
        let mut clock = interval(Duration::from_secs_f64(STEP));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The requests of each function that was used, by the hash of its name.
        let mut seen = HashMap::new();
        loop {
            clock.tick().await;
            let Some(shared) = shared.upgrade() else { return };
            self.add(&shared, &mut seen).await;
        }
    }

    async fn add(&self, shared: &Shared, seen: &mut HashMap<u32, u32>) {
        let question = timeout(ANSWER_TIMEOUT, shared.admission.send(AdmissionQuestion));
        let memory = question.await.ok().and_then(Result::ok).map_or(f32::NAN, |report| report.memory_taken as f32);
        let all = shared.directory.all();
        let (mut sum, mut position) = (Counters::default(), 0);
        let (mut queue, mut instances) = (0, 0);
        for handle in all.values() {
            position += 1;
            if position % SLICE == 0 {
                yield_now().await;
            }
            let (requests, _) = handle.requests();
            if requests == 0 {
                continue;
            }
            // What is counted beyond 32 bits differs as well.
            let before = seen.insert(hash(handle.name()), requests as u32);
            let is_used = before != Some(requests as u32);
            if let Some((change, now)) = self.update(handle, is_used, before.is_none()) {
                sum.add(&change);
                queue += now.0;
                instances += now.1;
            }
        }
        if seen.len() > 2 * all.len() {
            seen.clear();
        }
        let mut inner = self.lock();
        inner.functions.retain(|name, _| all.contains_key(&**name));
        push(&mut inner.daemon, Packed::from(sum.point(queue, instances)));
        push(&mut inner.memory, memory);
    }

    /// Adds a point of a function. Returns what has happened since the one before, and its queue and instances.
    fn update(&self, handle: &FunctionHandle, is_used: bool, is_first: bool) -> Option<(Counters, (usize, usize))> {
        let counters = Counters::read(handle);
        let mut inner = self.lock();
        if !inner.functions.contains_key(handle.name()) {
            if !is_used {
                return None;
            }
            inner.make_space();
            // What was counted long ago did not happen now.
            let before = if is_first { Counters::default() } else { counters.clone() };
            inner.functions.insert(handle.name().into(), Series::new(before));
        }
        let series = inner.functions.get_mut(handle.name())?;
        let summary = handle.summary();
        let now = (summary.waiting, summary.idle + summary.busy);
        series.unused = if is_used { 0 } else { series.unused + 1 };
        Some((series.add(counters, now.0, now.1), now))
    }

    /// Returns the points of the daemon, oldest first.
    pub fn daemon(&self) -> Vec<Point> {
        self.lock().daemon.iter().map(|point| Point::from(*point)).collect()
    }

    /// Returns the memory of all instances, in MiB, oldest first.
    pub fn memory(&self) -> Vec<Option<f64>> {
        self.lock().memory.iter().map(|mib| (!mib.is_nan()).then(|| f64::from(*mib))).collect()
    }

    /// Returns the points of a function, oldest first. Empty: it was not used in the last hour, or long ago.
    pub fn of(&self, function: &str) -> Vec<Point> {
        self.lock()
            .functions
            .get(function)
            .into_iter()
            .flat_map(|series| &series.points)
            .map(|it| (*it).into())
            .collect()
    }

    /// Returns how a function has been doing for five minutes.
    pub fn recent_of(&self, function: &str) -> Option<Recent> {
        self.lock().functions.get(function).map(Series::recent)
    }

    /// Returns how each function has been doing for five minutes.
    pub fn recent(&self) -> HashMap<Arc<str>, Recent> {
        self.lock().functions.iter().map(|(name, series)| (name.clone(), series.recent())).collect()
    }
}

impl UsageHistory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Removes the function that has not been used for longest, if there are too many.
    fn make_space(&mut self) {
        if self.functions.len() >= MAX_FUNCTIONS {
            let oldest = self.functions.iter().max_by_key(|(_, series)| series.unused).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.functions.remove(&name));
        }
    }
}

impl Series {
    /// Begins with the counts before the first point.
    fn new(before: Counters) -> Self {
        let snapshots = VecDeque::from([before.clone()]);
        Self { points: VecDeque::with_capacity(POINTS), before, snapshots, since_snapshot: 0, unused: 0 }
    }

    /// Adds a point. Returns what has happened since the one before.
    fn add(&mut self, counters: Counters, queue: usize, instances: usize) -> Counters {
        let change = counters.since(&self.before);
        push(&mut self.points, Packed::from(change.point(queue, instances)));
        self.since_snapshot += 1;
        if self.since_snapshot == SNAPSHOT {
            self.since_snapshot = 0;
            self.snapshots.push_back(counters.clone());
            if self.snapshots.len() > SNAPSHOTS {
                self.snapshots.pop_front();
            }
        }
        self.before = counters;
        change
    }

    fn recent(&self) -> Recent {
        let points = self.snapshots.len().saturating_sub(1) * SNAPSHOT + self.since_snapshot;
        let begin = self.snapshots.front().unwrap_or(&self.before);
        self.before.since(begin).recent(points as f64 * STEP)
    }
}

fn push<T>(points: &mut VecDeque<T>, point: T) {
    if points.len() == POINTS {
        points.pop_front();
    }
    points.push_back(point);
}

fn hash(name: &str) -> u32 {
    FixedState::default().hash_one(name) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_all_functions_takes_less_than_three_mebibytes() {
        let series = size_of::<Packed>() * POINTS + size_of::<Counters>() * (SNAPSHOTS + 1) + size_of::<Series>();
        assert!(series * (MAX_FUNCTIONS + 1) < 3 << 20);
    }

    #[test]
    fn the_function_that_was_not_used_for_longest_makes_room() {
        let mut inner = Inner::default();
        for number in 0..MAX_FUNCTIONS {
            let series = Series { unused: number, ..Series::new(Counters::default()) };
            inner.functions.insert(format!("f{number}").into(), series);
        }
        inner.make_space();
        assert_eq!((inner.functions.len(), inner.functions.contains_key("f199")), (MAX_FUNCTIONS - 1, false));
        inner.make_space();
        assert_eq!(inner.functions.len(), MAX_FUNCTIONS - 1);
    }

    #[test]
    fn recent_requests_are_those_of_five_minutes() {
        let mut series = Series::new(Counters::default());
        for _ in 0..61 {
            series.add(Counters::default(), 0, 0);
        }
        assert_eq!(series.recent().seconds, 305.0);
        for _ in 0..11 {
            series.add(Counters::default(), 0, 0);
        }
        assert_eq!((series.recent().seconds, series.points.len(), series.snapshots.len()), (300.0, 72, SNAPSHOTS));
    }
}
