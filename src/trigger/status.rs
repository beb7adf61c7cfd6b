//! The state of a connection to a broker. The connection writes it, and pages read it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use unifaas_actors::{
    inbox::UnixMillis,
    trigger::{SourceReport, SourceState, Subscription, SubscriptionProblem},
};

/// The state of a connection, and its counters.
#[derive(Debug)]
pub struct SourceStatus {
    kind: &'static str,
    broker: Option<String>,
    link: Mutex<Link>,
    subscriptions: AtomicUsize,
    pub received: AtomicU64,
    pub stored: AtomicU64,
    pub refused: AtomicU64,
    pub dropped: AtomicU64,
}

#[derive(Debug)]
struct Link {
    phase: Phase,
    since: UnixMillis,
    error: Option<String>,
    /// By function and index.
    problems: BTreeMap<(Arc<str>, usize), String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Disconnected,
    Connected,
    Stopped,
}

impl SourceStatus {
    /// Returns the state of a connection that is not needed yet.
    pub fn new(kind: &'static str, broker: Option<String>) -> Arc<Self> {
        let (phase, since) = (Phase::Disconnected, UnixMillis::now());
        Arc::new(Self {
            kind,
            broker,
            link: Mutex::new(Link { phase, since, error: None, problems: BTreeMap::new() }),
            subscriptions: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Takes over which subscriptions there are.
    pub fn set_subscriptions<S>(&self, subscriptions: &[Subscription<S>]) {
        self.subscriptions.store(subscriptions.len(), Relaxed);
        let is_present = |(function, index): &(Arc<str>, usize)| {
            subscriptions.iter().any(|it| it.function == *function && it.index == *index)
        };
        self.link().problems.retain(|subscription, _| is_present(subscription));
    }

    /// Notes that there is a connection. Returns whether there was none.
    pub fn set_connected(&self) -> bool {
        let mut link = self.link();
        let is_news = link.phase == Phase::Disconnected;
        link.error = None;
        link.enter(Phase::Connected);
        is_news
    }

    /// Notes that there is no connection. Returns whether there was one, or the reason is a new one.
    pub fn set_disconnected(&self, error: Option<String>) -> bool {
        let mut link = self.link();
        let is_news = link.phase == Phase::Connected || error.is_some() && link.error != error;
        link.enter(Phase::Disconnected);
        link.error = error.or(link.error.take());
        is_news
    }

    /// Notes that there will be no connection any more.
    pub fn set_stopped(&self) {
        self.link().enter(Phase::Stopped);
    }

    /// Notes an error of the connection. Returns whether it is a new one.
    pub fn set_error(&self, error: &str) -> bool {
        let mut link = self.link();
        let is_news = link.error.as_deref() != Some(error);
        link.error = Some(error.to_owned());
        is_news
    }

    /// Notes why a subscription does not work, or that it works. Returns whether that is new.
    pub fn set_problem<S>(&self, subscription: &Subscription<S>, problem: Option<String>) -> bool {
        let key = (subscription.function.clone(), subscription.index);
        let problems = &mut self.link().problems;
        let before = match problem.clone() {
            Some(problem) => problems.insert(key, problem),
            None => problems.remove(&key),
        };
        before != problem
    }

    /// Returns what the pages show.
    pub fn report(&self) -> SourceReport {
        let subscriptions = self.subscriptions.load(Relaxed);
        let link = self.link();
        let state = match (&self.broker, link.phase) {
            (_, Phase::Stopped) => SourceState::Stopped,
            _ if subscriptions == 0 => SourceState::Unused,
            (None, _) => SourceState::NoBroker,
            (Some(_), Phase::Connected) => SourceState::Connected,
            (Some(_), Phase::Disconnected) => SourceState::Connecting,
        };
        let problems = link.problems.iter().map(|((function, index), error)| SubscriptionProblem {
            function: function.clone(),
            index: *index,
            error: error.clone(),
        });
        SourceReport {
            kind: self.kind,
            broker: self.broker.clone(),
            state,
            since: link.since,
            error: link.error.clone(),
            subscriptions,
            problems: problems.collect(),
            received: self.received.load(Relaxed),
            stored: self.stored.load(Relaxed),
            refused: self.refused.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        // Each change is complete, so a panic of another holder does not matter.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Notes a change. The last phase is for good.
    fn enter(&mut self, phase: Phase) {
        if self.phase != phase && self.phase != Phase::Stopped {
            (self.phase, self.since) = (phase, UnixMillis::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriptions(count: usize) -> Vec<Subscription<()>> {
        (0..count).map(|index| Subscription { function: "f".into(), index, spec: () }).collect()
    }

    #[test]
    fn state_is_that_of_the_connection_if_a_function_needs_one() {
        let status = SourceStatus::new("mqtt", Some("mqtt://b".to_owned()));
        assert_eq!(status.report().state, SourceState::Unused);
        status.set_subscriptions(&subscriptions(2));
        assert_eq!(status.report().state, SourceState::Connecting);
        assert!(status.set_disconnected(Some("refused".to_owned())));
        assert!(!status.set_disconnected(Some("refused".to_owned())));
        assert_eq!(status.report().error.as_deref(), Some("refused"));
        status.set_connected();
        assert_eq!((status.report().state, status.report().error), (SourceState::Connected, None));
        assert!(status.set_disconnected(None));
        status.set_stopped();
        assert_eq!(status.report().state, SourceState::Stopped);
        let without = SourceStatus::new("nats", None);
        without.set_subscriptions(&subscriptions(1));
        assert_eq!(without.report().state, SourceState::NoBroker);
    }

    #[test]
    fn problem_stays_until_its_subscription_works_or_is_gone() {
        let status = SourceStatus::new("nats", None);
        let all = subscriptions(2);
        status.set_subscriptions(&all);
        assert!(status.set_problem(&all[1], Some("no stream".to_owned())));
        assert!(!status.set_problem(&all[1], Some("no stream".to_owned())));
        assert!(!status.set_problem(&all[0], None));
        let report = status.report();
        assert_eq!((report.problems.len(), report.problems[0].index), (1, 1));
        assert!(status.set_problem(&all[1], None));
        status.set_problem(&all[1], Some("no stream".to_owned()));
        status.set_subscriptions(&all[..1]);
        assert!(status.report().problems.is_empty());
    }
}
