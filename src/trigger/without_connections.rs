//! In a build without the feature `cluster`.

use std::sync::Arc;

use slog::Logger;
use tokio::sync::oneshot;
use unifaas_actors::trigger::{EventSources, SourceReport, Subscriptions};

use super::{follow_site, status::SourceStatus};
use crate::{broker::BrokerSettings, inbox::Inbox};

/// Connects to nothing.
pub struct Sources {
    mqtt: Arc<SourceStatus>,
    nats: Arc<SourceStatus>,
    log: Logger,
}

impl Sources {
    pub fn new(_: BrokerSettings, _: &Inbox, log: &Logger) -> Self {
        Self { mqtt: SourceStatus::new("mqtt", None), nats: SourceStatus::new("nats", None), log: log.clone() }
    }
}

impl EventSources for Sources {
    fn follow(&mut self, subscriptions: Subscriptions) {
        follow_site(None, &subscriptions, &self.log);
        self.mqtt.set_subscriptions(&subscriptions.mqtt);
        self.nats.set_subscriptions(&subscriptions.nats);
    }

    fn stop(&mut self, _: oneshot::Sender<()>) {}

    fn reports(&self) -> Vec<SourceReport> {
        vec![self.nats.report(), self.mqtt.report()]
    }
}
