//! The settings in effect, as `/debug` shows them: those that were given, and what they come to on this host.

use std::path::Path;

use slog::{Logger, warn};
use unifaas_actors::HostLimits;

use super::error::DaemonError;
use crate::{
    cli::Serve,
    config::Configuration,
    host::{open_files, operators::Operators},
    http::{ConnLimits, Listeners},
    net::Subnet,
    shared::Settings,
    trace::OtlpEndpoint,
};

/// Where OpenTelemetry's programs look for the address of a collector.
pub const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What the settings come to on this host.
pub struct EffectiveSettings<'a> {
    /// The registry, as an absolute path.
    pub root: &'a Path,
    pub listeners: &'a Listeners,
    pub state_dir: &'a Path,
    pub operators: &'a Operators,
    pub collector: Option<&'a OtlpEndpoint>,
    pub limits: HostLimits,
    pub connections: &'a ConnLimits,
    pub async_concurrency: usize,
}

impl EffectiveSettings<'_> {
    /// Returns the settings as they are shown: without secrets.
    ///
    /// # Errors
    /// When the address of a listener is not known.
    pub fn shown(&self, configuration: &Configuration) -> Result<Settings, DaemonError> {
        let Self { root, listeners, state_dir, operators, collector, limits, connections, async_concurrency } = *self;
        let options = &configuration.serve;
        let path = |path: &Path| path.display().to_string();
        Ok(Settings {
            config: configuration.file.as_deref().map(path),
            registry: path(root),
            listen: listeners.front()?.to_string(),
            callback_listen: listeners.callback()?.to_string(),
            admin_listen: listeners.admin()?.map(|admin| admin.to_string()),
            metrics_listen: listeners.metrics()?.map(|metrics| metrics.to_string()),
            peer_listen: listeners.peer()?.map(|peer| peer.to_string()),
            admin_read: options.admin_read,
            admin_group: operators.group().map(str::to_owned),
            otlp_endpoint: collector.map(ToString::to_string),
            nats: options.broker.nats.as_ref().map(ToString::to_string),
            mqtt: options.broker.mqtt.as_ref().map(ToString::to_string),
            trace_sample: options.trace_sample,
            tls_cert: options.tls_cert.as_deref().map(path),
            subnet: options.subnet.unwrap_or(Subnet::DEFAULT).to_string(),
            state_dir: path(state_dir),
            drain_grace_seconds: options.drain_grace.as_secs_f64(),
            error_detail: options.error_detail,
            access_log: options.access_log,
            max_connections: connections.connections,
            max_connections_per_client: connections.connections_per_client,
            client_timeout_seconds: options.client_timeout.as_secs_f64(),
            memory_budget: limits.memory,
            snapshot_budget: options.snapshot_budget.to_string(),
            max_starts: limits.starts,
            max_process_starts: options.max_process_starts,
            inbox_size: options.inbox_size as u64,
            async_concurrency,
        })
    }
}

/// Returns the collector of traces: that of the settings, or that of OpenTelemetry's own variable.
pub fn otlp_endpoint(options: &Serve) -> Result<Option<OtlpEndpoint>, DaemonError> {
    let of_variable = || std::env::var(OTLP_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
    if let Some(endpoint) = &options.otlp_endpoint {
        return Ok(Some(endpoint.clone()));
    }
    let parsed = of_variable().map(|endpoint| endpoint.parse()).transpose();
    parsed.map_err(|error: String| DaemonError::OtlpVariable(error))
}

/// Returns how many connections there may be.
pub fn connection_limits(options: &Serve, log: &Logger) -> ConnLimits {
    let connections = options.max_connections.min(open_files::max_connections());
    if connections < options.max_connections {
        warn!(log, "there can be fewer connections than --max-connections says: each request needs two open files";
            "wanted" => options.max_connections, "connections" => connections);
    }
    ConnLimits {
        connections,
        connections_per_client: options.connections_per_client(connections),
        client_timeout: (!options.client_timeout.is_zero()).then_some(options.client_timeout),
    }
}
