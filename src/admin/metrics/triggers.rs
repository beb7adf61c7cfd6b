//! Metrics of triggers: the firings of schedules, and the connections to brokers.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge},
    registry::Unit::Seconds,
};
use unifaas_actors::{
    inbox::UnixMillis,
    trigger::{SourceReport, SourceState, TriggerReport},
};

use super::encode::describe;
use crate::shared::Shared;

/// What `/metrics` shows of triggers.
#[derive(Debug)]
pub struct TriggerMetrics {
    fired: u64,
    /// The last and the next firing, by series.
    firings: BTreeMap<String, (Option<UnixMillis>, Option<UnixMillis>)>,
    sources: Vec<SourceReport>,
}

impl TriggerMetrics {
    pub fn read(shared: &Shared, report: TriggerReport) -> Self {
        let mut firings = BTreeMap::<_, (Option<UnixMillis>, Option<UnixMillis>)>::new();
        for schedule in &report.cron {
            let series = shared.history.usage.series_of(&schedule.function);
            let (last, next) = firings.entry(series.to_owned()).or_default();
            *last = (*last).max(schedule.last);
            *next = next.iter().copied().chain(schedule.next).min();
        }
        let sources = report.sources.into_iter().filter(|source| source.broker.is_some()).collect();
        Self { fired: report.fired, firings, sources }
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Firings of schedules that became invocations.";
        describe(encoder, Counter, "unifaas_cron_firings", None, help)?.counter(&[], self.fired)?;
        let help = "The last instant for which a schedule of the function has fired.";
        let mut last = describe(encoder, Gauge, "unifaas_cron_last_firing_timestamp", Some(&Seconds), help)?;
        for (function, (instant, _)) in &self.firings {
            instant.map_or(Ok(()), |instant| last.gauge(&[("function", function)], seconds(instant)))?;
        }
        let help = "The next instant for which a schedule of the function fires.";
        let mut next = describe(encoder, Gauge, "unifaas_cron_next_firing_timestamp", Some(&Seconds), help)?;
        for (function, (_, instant)) in &self.firings {
            instant.map_or(Ok(()), |instant| next.gauge(&[("function", function)], seconds(instant)))?;
        }
        let help = "Whether there is a connection to the broker.";
        let mut connected = describe(encoder, Gauge, "unifaas_trigger_connected", None, help)?;
        for source in &self.sources {
            connected.gauge(&[("source", source.kind)], u64::from(source.state == SourceState::Connected))?;
        }
        let help = "Messages of brokers, by what they became: invocations, or nothing.";
        let mut messages = describe(encoder, Counter, "unifaas_trigger_messages", None, help)?;
        for source in &self.sources {
            let counts = [("stored", source.stored), ("refused", source.refused), ("dropped", source.dropped)];
            for (result, count) in counts {
                messages.counter(&[("source", source.kind), ("result", result)], count)?;
            }
        }
        Ok(())
    }
}

fn seconds(time: UnixMillis) -> f64 {
    time.0 as f64 / 1e3
}
