//! Failures of requests, grouped: what broke, since when, and whether it goes on.
//!
//! The groups also decide which failures are logged: of equal ones one line in a while, with their number.

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::fast::FixedState;
use serde::Serialize;
use tokio::time::Instant;

use crate::{feed::Feed, id::InstanceId, wall_time::WallTime};

/// Groups that are kept. A further group replaces that with the oldest last failure.
const MAX_GROUPS: usize = 64;
/// Bytes kept of a message and of a request id.
const MAX_MESSAGE: usize = 1024;
const MAX_REQUEST_ID: usize = 128;
/// Between two lines of the log about failures of one group.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The groups of failures. Any thread writes them.
#[derive(Debug)]
pub struct ErrorHistory {
    feed: Arc<Feed>,
    groups: Mutex<Vec<Group>>,
    /// Whether there are failures of which no line of the log tells.
    is_unlogged: AtomicBool,
}

#[derive(Debug)]
struct Group {
    /// Of what failures of the group have in common.
    key: u64,
    sequence: u64,
    report: ErrorReport,
    logged_at: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
}

/// A failure of one request, or of an instance that no request waits for.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The function.
    pub function: &'a str,
    /// The stable name, as in `x-unifaas-error`.
    pub code: &'static str,
    /// What the messages of equal failures have in common.
    pub group: &'a str,
    /// What happened.
    pub message: &'a str,
    /// The request.
    pub request_id: Option<&'a str>,
    /// The instance that failed.
    pub instance: Option<InstanceId>,
}

/// A group of failures, as `/debug/errors` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorReport {
    /// The function.
    pub function: String,
    /// The stable name.
    pub code: &'static str,
    /// What happened, the last time.
    pub message: String,
    /// How often it happened.
    pub count: u64,
    /// When it happened first.
    pub first: WallTime,
    /// When it happened last.
    pub last: WallTime,
    /// The last request.
    pub request_id: Option<String>,
    /// The last instance.
    pub instance: Option<InstanceId>,
}

impl ErrorHistory {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        let (groups, is_unlogged) = Default::default();
        Self { feed, groups, is_unlogged }
    }

    /// Notes a failure that has lines of the log of its own.
    pub(crate) fn note(&self, failed: Failed<'_>) {
        drop(self.update(failed));
    }

    /// Notes a failed request. Returns for how many failures of its group a line of the log is due.
    pub fn note_request(&self, failed: Failed<'_>) -> Option<u64> {
        let mut groups = self.update(failed);
        let group = groups.last_mut()?;
        group.unlogged += 1;
        let due = group.take_due(Instant::now());
        if due.is_none() {
            self.is_unlogged.store(true, Relaxed);
        }
        due
    }

    /// Returns the groups of which a line of the log is due, although no further failure happened, each with its number.
    pub fn take_overdue(&self) -> Vec<(ErrorReport, u64)> {
        if !self.is_unlogged.load(Relaxed) {
            return Vec::new();
        }
        let (mut groups, now) = (self.lock(), Instant::now());
        let overdue = groups.iter_mut().filter(|group| group.unlogged > 0);
        let overdue = overdue.filter_map(|group| Some((group.take_due(now)?, group)));
        let overdue = overdue.map(|(times, group)| (group.report.clone(), times)).collect();
        self.is_unlogged.store(groups.iter().any(|group| group.unlogged > 0), Relaxed);
        overdue
    }

    /// Returns the groups, of one function or of all, the last failure first.
    pub fn reports(&self, function: Option<&str>) -> Vec<ErrorReport> {
        let reports = self.lock().iter().rev().map(|group| group.report.clone()).collect::<Vec<_>>();
        reports.into_iter().filter(|report| function.is_none_or(|function| report.function == function)).collect()
    }

    /// Returns the groups with failures behind the event of that sequence number, oldest first, each with its own.
    pub fn since(&self, sequence: u64) -> Vec<(u64, ErrorReport)> {
        let groups = self.lock();
        let since = groups.iter().filter(|group| group.sequence > sequence);
        since.map(|group| (group.sequence, group.report.clone())).collect()
    }

    /// Counts a failure. Its group is the last one then.
    fn update(&self, failed: Failed<'_>) -> MutexGuard<'_, Vec<Group>> {
        let key = FixedState::default().hash_one((failed.function, failed.code, failed.group));
        let now = WallTime::now();
        let mut groups = self.lock();
        let mut group = match groups.iter().position(|group| group.key == key) {
            Some(known) => groups.remove(known),
            None => {
                if groups.len() == MAX_GROUPS {
                    groups.remove(0);
                }
                Group::new(key, failed, now)
            }
        };
        group.sequence = self.feed.next_sequence();
        let report = &mut group.report;
        report.count += 1;
        report.last = now;
        report.message = bounded(failed.message, MAX_MESSAGE);
        report.request_id = failed.request_id.map(|id| bounded(id, MAX_REQUEST_ID)).or(report.request_id.take());
        report.instance = failed.instance.or(report.instance);
        groups.push(group);
        groups
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn new(key: u64, failed: Failed<'_>, now: WallTime) -> Self {
        let report = ErrorReport {
            function: failed.function.to_owned(),
            code: failed.code,
            message: String::new(),
            count: 0,
            first: now,
            last: now,
            request_id: None,
            instance: None,
        };
        Self { key, sequence: 0, report, logged_at: None, unlogged: 0 }
    }

    fn take_due(&mut self, now: Instant) -> Option<u64> {
        if self.logged_at.is_some_and(|at| now - at < LOG_INTERVAL) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

fn bounded(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors() -> ErrorHistory {
        ErrorHistory::new(Arc::default())
    }

    fn failed<'a>(function: &'a str, group: &'a str, message: &'a str) -> Failed<'a> {
        Failed { function, code: "boot_failed", group, message, request_id: Some("r"), instance: None }
    }

    #[tokio::test(start_paused = true)]
    async fn equal_failures_are_one_group_with_the_last_of_each() {
        let (errors, id) = (errors(), InstanceId::random());
        errors.note(failed("f", "full", "3 wait"));
        errors.note(Failed { request_id: Some("second"), instance: Some(id), ..failed("f", "full", "9 wait") });
        errors.note(Failed { request_id: None, ..failed("f", "full", "7 wait") });
        errors.note(failed("g", "full", "1 waits"));
        errors.note(Failed { code: "start_failed", ..failed("f", "full", "other") });
        let reports = errors.reports(None);
        let shown: Vec<_> = reports.iter().map(|report| (&*report.function, report.code, report.count)).collect();
        assert_eq!(shown, [("f", "start_failed", 1), ("g", "boot_failed", 1), ("f", "boot_failed", 3)]);
        let last = &errors.reports(Some("f"))[1];
        assert_eq!((&*last.message, last.request_id.as_deref(), last.instance), ("7 wait", Some("second"), Some(id)));
        assert!(last.first <= last.last);
    }

    #[test]
    fn the_group_that_happened_longest_ago_makes_room() {
        let errors = errors();
        for number in 0..MAX_GROUPS {
            errors.note(failed("f", &number.to_string(), "x"));
        }
        errors.note(failed("f", "0", "x"));
        errors.note(failed("f", "new", &"é".repeat(MAX_MESSAGE)));
        let reports = errors.reports(None);
        assert_eq!((reports.len(), reports[0].message.len(), reports[1].count), (MAX_GROUPS, MAX_MESSAGE, 2));
        assert_eq!(errors.lock()[0].report.count, 1);
    }

    #[test]
    fn groups_since_an_event_are_known() {
        let errors = errors();
        errors.note(failed("f", "a", "a"));
        errors.note(failed("f", "b", "b"));
        let all = errors.since(0);
        assert_eq!((all.len(), all[0].0 < all[1].0), (2, true));
        errors.note(failed("f", "a", "again"));
        let since = errors.since(all[1].0);
        assert_eq!((since.len(), &*since[0].1.message, since[0].1.count), (1, "again", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_of_the_log_is_due_once_an_interval() {
        let errors = errors();
        let times = |group| errors.note_request(failed("f", group, "x"));
        assert_eq!([times("a"), times("a"), times("b"), times("a")], [Some(1), None, Some(1), None]);
        assert!(errors.take_overdue().is_empty());
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(times("b"), Some(1));
        let overdue: Vec<_> = errors.take_overdue().into_iter().map(|(report, times)| (report.count, times)).collect();
        assert_eq!(overdue, [(3, 2)], "two of a were not logged");
        assert!(errors.take_overdue().is_empty() && !errors.is_unlogged.load(Relaxed));
        assert_eq!(times("a"), None);
    }
}
