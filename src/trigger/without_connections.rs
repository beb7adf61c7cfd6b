//! In a build without the feature `cluster`.

use std::sync::Arc;

use slog::Logger;
use tokio::sync::oneshot;
use unifaas_actors::{
    inbox::InboxHandle,
    trigger::{EventSources, SourceReport, Subscriptions},
};

use super::{SourceSettings, status::SourceStatus};

/// Connects to nothing.
pub struct Sources {
    mqtt: Arc<SourceStatus>,
    nats: Arc<SourceStatus>,
}

impl Sources {
    pub fn new(_: SourceSettings, _: InboxHandle, _: &Logger) -> Self {
        Self { mqtt: SourceStatus::new("mqtt", None), nats: SourceStatus::new("nats", None) }
    }
}

impl EventSources for Sources {
    fn follow(&mut self, subscriptions: Subscriptions) {
        self.mqtt.set_subscriptions(&subscriptions.mqtt);
        self.nats.set_subscriptions(&subscriptions.nats);
    }

    fn stop(&mut self, _: oneshot::Sender<()>) {}

    fn reports(&self) -> Vec<SourceReport> {
        vec![self.nats.report(), self.mqtt.report()]
    }
}
