//! Subscriptions at brokers, and the connections to them as the TriggerActor sees them. The daemon makes the connections.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::oneshot;

use super::messages::{SourceReport, SourceState, SubscriptionProblem, SubscriptionReport, SubscriptionSpec};
use crate::spec::{MqttSpec, NatsSpec, Triggers};

/// A trigger of a function that gets messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription<S> {
    /// The function.
    pub function: Arc<str>,
    /// Its position among those of its kind in the function's file.
    pub index: usize,
    /// What the file says.
    pub spec: S,
}

/// All subscriptions of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// Those at the NATS server.
    pub nats: Vec<Subscription<NatsSpec>>,
    /// Those at the MQTT broker.
    pub mqtt: Vec<Subscription<MqttSpec>>,
    /// The functions that run what any node of the site has accepted.
    pub shared: BTreeSet<Arc<str>>,
}

/// Connections to brokers. None of the calls blocks.
pub trait EventSources {
    /// Keeps exactly these subscriptions from now on. Connects with the first one.
    fn follow(&mut self, subscriptions: Subscriptions);

    /// Takes no more messages, completes those on the way, and closes the connections, all of it in a short time. Then
    /// `stopped` is answered or dropped.
    fn stop(&mut self, stopped: oneshot::Sender<()>);

    /// Returns the state of the connections.
    fn reports(&self) -> Vec<SourceReport>;
}

impl Subscriptions {
    /// Takes over the triggers of a function. Returns whether subscriptions have changed.
    pub fn set(&mut self, function: &Arc<str>, triggers: Triggers) -> bool {
        let shared = match triggers.shares_work {
            true => self.shared.insert(function.clone()),
            false => self.shared.remove(function),
        };
        let nats = replace(&mut self.nats, function, triggers.nats);
        replace(&mut self.mqtt, function, triggers.mqtt) || nats || shared
    }

    /// Returns what the subscriptions of a function do, by the state of the connections.
    pub fn reports_of(&self, function: &str, sources: &[SourceReport]) -> Vec<SubscriptionReport> {
        let nats = of(&self.nats, function).map(|it| (it.index, "nats", SubscriptionSpec::Nats(it.spec.clone())));
        let mqtt = of(&self.mqtt, function).map(|it| (it.index, "mqtt", SubscriptionSpec::Mqtt(it.spec.clone())));
        let report = |(index, kind, spec)| {
            let source = sources.iter().find(|source| source.kind == kind);
            let is_own = |problem: &&SubscriptionProblem| *problem.function == *function && problem.index == index;
            let problem = source.and_then(|source| source.problems.iter().find(is_own));
            SubscriptionReport {
                kind,
                index,
                spec,
                state: source.map_or(SourceState::Unused, |source| source.state),
                error: problem.map(|problem| problem.error.clone()).or_else(|| source?.error.clone()),
            }
        };
        nats.chain(mqtt).map(report).collect()
    }
}

fn of<'a, S>(all: &'a [Subscription<S>], function: &'a str) -> impl Iterator<Item = &'a Subscription<S>> {
    all.iter().filter(move |subscription| *subscription.function == *function)
}

fn replace<S: PartialEq>(all: &mut Vec<Subscription<S>>, function: &Arc<str>, specs: Vec<S>) -> bool {
    let present = all.iter().filter(|subscription| subscription.function == *function).map(|it| &it.spec);
    if present.eq(&specs) {
        return false;
    }
    all.retain(|subscription| subscription.function != *function);
    let new = specs.into_iter().enumerate();
    all.extend(new.map(|(index, spec)| Subscription { function: function.clone(), index, spec }));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn triggers(topics: &[&str]) -> Triggers {
        let spec = |topic: &&str| MqttSpec { topic: (*topic).to_owned(), qos: 1, path: "/".to_owned() };
        Triggers { mqtt: topics.iter().map(spec).collect(), ..Triggers::default() }
    }

    #[test]
    fn subscriptions_of_a_function_are_replaced_as_a_whole() {
        let (mut all, f, g) = (Subscriptions::default(), Arc::from("f"), Arc::from("g"));
        assert!(!all.set(&f, triggers(&[])));
        assert!(all.set(&f, triggers(&["a", "b"])));
        assert!(all.set(&g, triggers(&["a"])));
        assert!(!all.set(&f, triggers(&["a", "b"])));
        assert!(all.set(&f, triggers(&["b"])));
        let left: Vec<_> = all.mqtt.iter().map(|it| (&*it.function, it.index, it.spec.topic.as_str())).collect();
        assert_eq!(left, [("g", 0, "a"), ("f", 0, "b")]);
        assert!(all.set(&g, triggers(&[])));
        assert_eq!(all.mqtt.len(), 1);
    }
    #[test]
    fn subscriptions_of_a_function_have_the_state_of_their_connection_and_their_own_problem() {
        let (mut all, f) = (Subscriptions::default(), Arc::from("f"));
        all.set(&Arc::from("g"), triggers(&["x"]));
        all.set(&f, triggers(&["a", "b"]));
        let problem = SubscriptionProblem { function: f, index: 1, error: "refused".to_owned() };
        let source = SourceReport {
            kind: "mqtt",
            broker: Some("mqtt://h:1883".to_owned()),
            state: SourceState::Connected,
            since: crate::inbox::UnixMillis(0),
            error: None,
            subscriptions: 3,
            problems: vec![problem],
            received: 0,
            stored: 0,
            refused: 0,
            dropped: 0,
        };
        let reports = all.reports_of("f", std::slice::from_ref(&source));
        let shown: Vec<_> = reports.iter().map(|it| (it.spec.subject(), it.state, it.error.as_deref())).collect();
        let connected = SourceState::Connected;
        assert_eq!(shown, [("a", connected, None), ("b", connected, Some("refused"))]);
        let away = SourceReport { state: SourceState::Connecting, error: Some("away".to_owned()), ..source };
        assert_eq!(all.reports_of("f", &[away])[0].error.as_deref(), Some("away"));
        assert!(all.reports_of("none", &[]).is_empty());
    }
}
