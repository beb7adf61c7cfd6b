//! Metrics of the daemon: admission, connections, callbacks and the log.

use std::fmt;

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge},
    registry::Unit::Bytes,
};
use unifaas_actors::AdmissionReport;

use super::encode::describe;
use crate::{
    http::{ConnectionReport, ListenerKind},
    log,
    shared::Shared,
    trace::Tracer,
};

/// What `/metrics` shows of the daemon.
#[derive(Debug)]
pub struct DaemonMetrics {
    /// `None`: the actor did not answer in time.
    admission: Option<AdmissionReport>,
    listeners: Vec<Listener>,
    /// Bytes.
    budget: u64,
    callbacks_refused: u64,
    snapshot_bytes: u64,
    spans_lost: u64,
    is_draining: bool,
}

#[derive(Debug)]
struct Listener {
    name: &'static str,
    limit: usize,
    connections: ConnectionReport,
    foreign: u64,
}

impl DaemonMetrics {
    pub fn read(shared: &Shared, admission: Option<AdmissionReport>) -> Self {
        let settings = shared.settings();
        let listeners = ListenerKind::ALL.into_iter().filter(|kind| match kind {
            ListenerKind::Front | ListenerKind::Callback => true,
            ListenerKind::Admin => settings.admin_listen.is_some(),
            ListenerKind::Metrics => settings.metrics_listen.is_some(),
            ListenerKind::Peer => settings.peer_listen.is_some(),
        });
        let listeners = listeners.map(|kind| {
            let open = shared.server.connections(kind);
            let (limit, connections, foreign) = (open.limit(), open.report(), open.foreign());
            Listener { name: kind.name(), limit, connections, foreign }
        });
        Self {
            admission,
            listeners: listeners.collect(),
            budget: settings.memory_budget << 20,
            callbacks_refused: shared.callbacks_refused(),
            snapshot_bytes: shared.snapshots.bytes(),
            spans_lost: shared.tracer.as_ref().map_or(0, Tracer::lost),
            is_draining: shared.is_draining(),
        }
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_admission(encoder)?;
        self.encode_connections(encoder)?;
        let help = "Ready callbacks that were refused.";
        describe(encoder, Counter, "unifaas_callbacks_refused", None, help)?.counter(&[], self.callbacks_refused)?;
        let help = "Disk space of all snapshots.";
        describe(encoder, Gauge, "unifaas_snapshot", Some(&Bytes), help)?.gauge(&[], self.snapshot_bytes)?;
        let help = "Messages that the log has lost because its reader was too slow.";
        describe(encoder, Counter, "unifaas_log_lines_lost", None, help)?.counter(&[], log::lost_lines())?;
        let help = "Spans of traces that no collector has taken.";
        describe(encoder, Counter, "unifaas_spans_lost", None, help)?.counter(&[], self.spans_lost)?;
        let help = "Whether the daemon refuses requests because it ends.";
        describe(encoder, Gauge, "unifaas_draining", None, help)?.gauge(&[], u64::from(self.is_draining))?;
        let help = "Always 1, with the version of the daemon.";
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        describe(encoder, Gauge, "unifaas_build_info", None, help)?.gauge(&version, 1_u64)
    }

    fn encode_admission(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Memory that instances may be charged together.";
        describe(encoder, Gauge, "unifaas_memory_budget", Some(&Bytes), help)?.gauge(&[], self.budget)?;
        let Some(admission) = &self.admission else { return Ok(()) };
        let help = "Memory that instances are charged: what they declare, and paused ones what they hold.";
        let taken = admission.memory_taken << 20;
        describe(encoder, Gauge, "unifaas_memory_taken", Some(&Bytes), help)?.gauge(&[], taken)?;
        let help = "Instances that are starting: processes, and containers or virtual machines.";
        let mut starts = describe(encoder, Gauge, "unifaas_starts_in_progress", None, help)?;
        let isolated = admission.starting.saturating_sub(admission.starting_processes);
        starts.gauge(&[("kind", "process")], admission.starting_processes)?;
        starts.gauge(&[("kind", "isolated")], isolated)?;
        let help = "Functions that wait for memory or for permission to start an instance.";
        describe(encoder, Gauge, "unifaas_functions_waiting", None, help)?.gauge(&[], admission.functions_waiting)
    }

    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut open = describe(encoder, Gauge, "unifaas_connections", None, "Open connections, by listener.")?;
        for listener in &self.listeners {
            open.gauge(&[("listener", listener.name)], listener.connections.open)?;
        }
        let help = "Connections that there may be at once, by listener.";
        let mut limits = describe(encoder, Gauge, "unifaas_connections_limit", None, help)?;
        for listener in &self.listeners {
            limits.gauge(&[("listener", listener.name)], listener.limit)?;
        }
        let help = "Connections that were refused at the limit, closed for others or because they were too slow, or \
                    refused for their address.";
        let mut refused = describe(encoder, Counter, "unifaas_connections_refused", None, help)?;
        for Listener { name, connections, foreign, .. } in &self.listeners {
            for (reason, count) in
                [("full", connections.refused), ("evicted", connections.evicted), ("foreign", *foreign)]
            {
                refused.counter(&[("listener", name), ("reason", reason)], count)?;
            }
        }
        Ok(())
    }
}
