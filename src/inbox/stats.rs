//! What is measured of the inbox, for `/debug`, the metrics and the dashboard.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use unifaas_actors::{
    CommitTimes, HistogramTotals,
    inbox::{CallbackState, FunctionInbox, InboxReport, State, StoreFact, UnixMillis},
};

/// Dead letters by function, of those that have any.
type DeadCounts = Arc<BTreeMap<Arc<str>, usize>>;

/// Counters, written by the store's thread and by that of the deliveries.
#[derive(Debug, Default)]
pub struct InboxStats {
    is_open: AtomicBool,
    is_damaged: AtomicBool,
    problem: Mutex<Option<String>>,
    bytes: AtomicU64,
    dead: Mutex<DeadCounts>,
    accepted: AtomicU64,
    done: AtomicU64,
    died: AtomicU64,
    retried: AtomicU64,
    commands: AtomicU64,
    groups: AtomicU64,
    commits: CommitTimes,
    undelivered: AtomicU64,
    delivered: AtomicU64,
    redelivered: AtomicU64,
    delivery_failed: AtomicU64,
    stored_node: AtomicU64,
    stored_site: AtomicU64,
    handed_over: AtomicU64,
}

impl InboxStats {
    /// Notes that the database is open or closed.
    pub fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Relaxed);
    }

    /// Notes whether the database is damaged.
    pub fn set_damaged(&self, is_damaged: bool) {
        self.is_damaged.store(is_damaged, Relaxed);
    }

    /// Returns whether the database is damaged.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Relaxed)
    }

    /// Notes why the database cannot be used. `None`: it can.
    pub fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Notes what the database has.
    pub fn set_content<'a>(&self, bytes: u64, dead: impl Iterator<Item = (&'a Arc<str>, usize)>) {
        self.bytes.store(bytes, Relaxed);
        let dead = dead.map(|(function, count)| (function.clone(), count)).collect();
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(dead);
    }

    /// Counts a fact.
    pub fn count_fact(&self, fact: &StoreFact) {
        let counter = match fact {
            StoreFact::Queued(_) => &self.accepted,
            StoreFact::Settled(record) => return self.count_end(&record.state),
            StoreFact::Opened { .. } | StoreFact::Cancelled(_) | StoreFact::Kept(_) | StoreFact::Stale(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts the end of an attempt by the state that followed from it.
    pub fn count_end(&self, state: &State) {
        let counter = match state {
            State::Done { .. } => &self.done,
            State::Dead { .. } => &self.died,
            State::Queued { .. } | State::Running => &self.retried,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a client's invocation for the site, by where it was stored when the client was answered.
    pub fn count_stored(&self, is_on_site: bool) {
        let counter = if is_on_site { &self.stored_site } else { &self.stored_node };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts an invocation that was handed over to the site.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "there is no site"))]
    pub fn count_handed_over(&self) {
        self.handed_over.fetch_add(1, Relaxed);
    }

    /// Counts a group of commands that was committed together.
    pub fn count_group(&self, commands: usize, took: Duration) {
        self.commands.fetch_add(commands as u64, Relaxed);
        self.groups.fetch_add(1, Relaxed);
        self.commits.observe(took);
    }

    /// Counts an attempt to deliver a result.
    pub fn count_delivery(&self, state: CallbackState) {
        let counter = match state {
            CallbackState::Waiting => &self.redelivered,
            CallbackState::Delivered => &self.delivered,
            CallbackState::Failed => &self.delivery_failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Notes how many results are to be delivered.
    pub fn set_undelivered(&self, count: usize) {
        self.undelivered.store(count as u64, Relaxed);
    }

    /// Returns how long commits took.
    pub fn commits(&self) -> HistogramTotals<14> {
        self.commits.totals()
    }

    /// Adds what is measured here to what the InboxActor has.
    pub fn overview(&self, unended: InboxReport, now: UnixMillis) -> InboxOverview {
        let dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut functions: BTreeMap<_, _> =
            unended.functions.into_iter().map(|it| (it.function.clone(), (it, 0))).collect();
        for (name, count) in &*dead {
            let none = || (FunctionInbox { function: name.clone(), queued: 0, running: 0, first_due: None }, 0);
            functions.entry(name.clone()).or_insert_with(none).1 = *count;
        }
        let functions: Vec<_> = functions.into_values().map(|(it, dead)| FunctionOverview::of(it, dead, now)).collect();
        InboxOverview {
            queued: unended.queued,
            running: unended.running,
            dead: dead.values().sum(),
            oldest_seconds: functions.iter().map(|it| it.oldest_seconds).fold(0.0, f64::max),
            store: self.store(),
            site_problem: None,
            site_undelivered: None,
            functions,
        }
    }

    fn store(&self) -> StoreReport {
        let (usual, last) = self.commits.usual_and_last();
        StoreReport {
            is_open: self.is_open.load(Relaxed),
            problem: self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            bytes: self.bytes.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            done: self.done.load(Relaxed),
            died: self.died.load(Relaxed),
            retried: self.retried.load(Relaxed),
            undelivered: self.undelivered.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            redelivered: self.redelivered.load(Relaxed),
            delivery_failed: self.delivery_failed.load(Relaxed),
            stored_node: self.stored_node.load(Relaxed),
            stored_site: self.stored_site.load(Relaxed),
            handed_over: self.handed_over.load(Relaxed),
            commands: self.commands.load(Relaxed),
            groups: self.groups.load(Relaxed),
            commit_ms: usual.as_micros() as f64 / 1e3,
            last_commit_ms: last.as_micros() as f64 / 1e3,
        }
    }
}

/// What the inbox has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InboxOverview {
    pub queued: usize,
    pub running: usize,
    pub dead: usize,
    /// For how long the invocation has waited that has been due for longest.
    pub oldest_seconds: f64,
    /// Those that have anything, by name.
    pub functions: Vec<FunctionOverview>,
    #[serde(flatten)]
    pub store: StoreReport,
    /// Why invocations for the site stay on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_problem: Option<String>,
    /// Results of the site that are to be delivered, by all nodes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_undelivered: Option<u64>,
}

impl InboxOverview {
    /// Returns what a function has, if it has anything.
    pub fn of(&self, function: &str) -> Option<&FunctionOverview> {
        let position = self.functions.binary_search_by(|it| (*it.function).cmp(function)).ok()?;
        self.functions.get(position)
    }
}

/// What the inbox has of a function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionOverview {
    pub function: Arc<str>,
    pub queued: usize,
    pub running: usize,
    pub dead: usize,
    pub oldest_seconds: f64,
    /// When the first attempt was or is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_due: Option<UnixMillis>,
}

impl FunctionOverview {
    fn of(FunctionInbox { function, queued, running, first_due }: FunctionInbox, dead: usize, now: UnixMillis) -> Self {
        let oldest_seconds = first_due.map_or(0.0, |due| due.until(now).as_millis() as f64 / 1e3);
        Self { function, queued, running, dead, oldest_seconds, first_due }
    }
}

/// What is measured of the database and of deliveries.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StoreReport {
    /// Whether the database is open.
    pub is_open: bool,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Bytes in use.
    pub bytes: u64,
    /// Invocations that were accepted, done, given up, and tried again, since the start of the daemon.
    pub accepted: u64,
    pub done: u64,
    pub died: u64,
    pub retried: u64,
    /// Results that are to be delivered. Since the start of the daemon: confirmed, to be sent again, and given up.
    pub undelivered: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub delivery_failed: u64,
    /// Clients' invocations that are for the site, by where they were stored when the client was answered.
    pub stored_node: u64,
    pub stored_site: u64,
    /// Invocations that were handed over to the site.
    pub handed_over: u64,
    /// Commands, and the groups that they were committed in.
    pub commands: u64,
    pub groups: u64,
    /// The usual time of a commit, and that of the last one.
    pub commit_ms: f64,
    pub last_commit_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overview_has_each_function_with_its_dead_letters_and_its_oldest_invocation() {
        let stats = InboxStats::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        stats.set_content(7, [(&a, 2), (&b, 3)].into_iter());
        let waiting = FunctionInbox { function: b, queued: 4, running: 1, first_due: Some(UnixMillis(1500)) };
        let unended = InboxReport { queued: 4, running: 1, functions: vec![waiting] };
        let overview = stats.overview(unended.clone(), UnixMillis(4000));
        let of = |overview: &InboxOverview| -> Vec<_> {
            overview.functions.iter().map(|it| (it.function.to_string(), it.dead, it.oldest_seconds)).collect()
        };
        assert_eq!(of(&overview), [("a".to_owned(), 2, 0.0), ("b".to_owned(), 3, 2.5)]);
        assert_eq!((overview.dead, overview.oldest_seconds, overview.store.bytes), (5, 2.5, 7));
        assert_eq!(stats.overview(unended, UnixMillis(1000)).oldest_seconds, 0.0, "it is not due yet");
    }
}
