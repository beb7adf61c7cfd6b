//! The options of `unifaas serve`, which are the settings of the daemon.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    broker::BrokerArgs,
    cluster::ClusterArgs,
    failure::ErrorDetail,
    host::budget::MemoryBudget,
    inbox::DeliverTo,
    listen_address::address,
    log::{AccessLogMode, Format, Level},
    net::Subnet,
    shared::AdminRead,
    snapshot::SnapshotBudget,
    trace::OtlpEndpoint,
};

#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// The file with settings: one line per option of this list, such as `listen = "0.0.0.0:80"` [default:
    /// /etc/unifaas/unifaas.toml, if there is one].
    #[arg(long, env = "UNIFAAS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The registry's directory: each subdirectory with a function.toml is a function [default: /etc/unifaas/registry,
    /// if there is one].
    #[arg(short, long, env = "UNIFAAS_REGISTRY", value_name = "DIR")]
    pub registry: Option<PathBuf>,
    /// Where functions are invoked; HTTP/1.1, and HTTP/2 by prior knowledge.
    #[arg(
        long, env = "UNIFAAS_LISTEN", value_name = "HOST:PORT",
        default_value = "127.0.0.1:8123", value_parser = address
    )]
    pub listen: SocketAddr,
    /// Where instances report that they are ready. Containers and VMs must reach it.
    #[arg(
        long, env = "UNIFAAS_CALLBACK_LISTEN", value_name = "HOST:PORT",
        default_value = "0.0.0.0:8124", value_parser = address
    )]
    pub callback_listen: SocketAddr,
    /// Where /debug is served [default: at --listen, to callers of this host alone].
    ///
    /// At an address other than loopback, every client that can connect sees it.
    #[arg(long, env = "UNIFAAS_ADMIN_LISTEN", value_name = "HOST:PORT", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    /// Where /metrics and /healthz are served to every client that can connect, without TLS.
    ///
    /// A Prometheus in a network of containers is refused at the other listeners.
    #[arg(long, env = "UNIFAAS_METRICS_LISTEN", value_name = "HOST:PORT", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Which users of this host see /debug; `group`: those who may act.
    #[arg(long, env = "UNIFAAS_ADMIN_READ", value_name = "WHO", value_enum, default_value_t = AdminRead::Anyone)]
    pub admin_read: AdminRead,
    /// The group whose members may act, such as restart a function, besides root and the daemon's own user [default:
    /// unifaas, if there is one].
    #[arg(long, env = "UNIFAAS_ADMIN_GROUP", value_name = "GROUP")]
    pub admin_group: Option<String>,
    /// Certificate chain in PEM: --listen and --admin-listen speak TLS with it.
    ///
    /// ALPN offers `h2` and `http/1.1`. Both files are read again when they change.
    #[arg(long, env = "UNIFAAS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM.
    #[arg(long, env = "UNIFAAS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Concurrent connections of clients; at the limit, a new one replaces an idle one, or gets 503.
    #[arg(long, env = "UNIFAAS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4096, value_parser = positive)]
    pub max_connections: usize,
    /// Concurrent connections from one address of another host [default: half of --max-connections].
    ///
    /// With IPv6, from one /64.
    #[arg(long, env = "UNIFAAS_MAX_CONNECTIONS_PER_CLIENT", value_name = "COUNT", value_parser = positive)]
    pub max_connections_per_client: Option<usize>,
    /// How long a client may stall while it sends a body or receives a response, in seconds; 0 for no limit.
    ///
    /// A stalled body gets 408. The connection of a stalled response is reset.
    #[arg(
        long, env = "UNIFAAS_CLIENT_TIMEOUT", value_name = "SECONDS",
        default_value = "30", value_parser = seconds, allow_negative_numbers = true
    )]
    pub client_timeout: Duration,
    /// The addresses for VMs, a /30 each [default: 10.100.0.0/16].
    ///
    /// They must not overlap any address or route of the host.
    #[arg(long, env = "UNIFAAS_SUBNET", value_name = "ADDRESS/BITS")]
    pub subnet: Option<Subnet>,
    /// How many tap devices are kept prepared for VMs, once a function needs any.
    #[arg(long, env = "UNIFAAS_TAP_POOL", value_name = "COUNT", default_value_t = 4)]
    pub tap_pool: usize,
    /// Where the daemon records its resources for the cleanup after a crash, and copies disks to [default:
    /// /var/lib/unifaas as root, else unifaas in $XDG_STATE_HOME or ~/.local/state].
    ///
    /// Where that cannot be written, the default is the next of these, and at last a directory in $TMPDIR.
    #[arg(long, env = "UNIFAAS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How much memory all starting and running instances may declare together: MiB, or a share of what there is.
    ///
    /// A share is of the host's memory, or of the daemon's cgroup limit if that is lower.
    #[arg(
        long, env = "UNIFAAS_MEMORY_BUDGET", value_name = "MIB|PERCENT%", default_value_t = MemoryBudget::Percent(80)
    )]
    pub memory_budget: MemoryBudget,
    /// How much of the disk snapshots may take together: MiB, or a share of the file system; 0 for none.
    ///
    /// Past it, those that were used longest ago are removed.
    #[arg(
        long, env = "UNIFAAS_SNAPSHOT_BUDGET", value_name = "MIB|PERCENT%", default_value_t = SnapshotBudget::Percent(10)
    )]
    pub snapshot_budget: SnapshotBudget,
    /// How many containers and VMs may be starting at once [default: twice the processors].
    #[arg(long, env = "UNIFAAS_MAX_STARTS", value_name = "COUNT")]
    pub max_starts: Option<NonZeroUsize>,
    /// How many processes may be starting at once [default: as many as are needed].
    #[arg(long, env = "UNIFAAS_MAX_PROCESS_STARTS", value_name = "COUNT")]
    pub max_process_starts: Option<NonZeroUsize>,
    /// How much space stored asynchronous invocations and their results may take, in MiB.
    #[arg(long, env = "UNIFAAS_INBOX_SIZE", value_name = "MIB", default_value = "1024", value_parser = positive)]
    pub inbox_size: usize,
    /// How many attempts of asynchronous invocations may be made at once [default: 8 times the processors].
    #[arg(long, env = "UNIFAAS_ASYNC_CONCURRENCY", value_name = "COUNT")]
    pub async_concurrency: Option<NonZeroUsize>,
    /// Where results of asynchronous invocations may be delivered: beginnings of URLs, with commas between them [default:
    /// nowhere].
    ///
    /// The path of a prefix counts up to a slash: `https://HOST/a` allows `/a` and `/a/b`, not `/ab`.
    #[arg(long, env = "UNIFAAS_DELIVER_TO", value_name = "PREFIX,PREFIX")]
    pub deliver_to: Option<DeliverTo>,
    /// The secret that signs deliveries, as Standard Webhooks say: `whsec_` and base64, or any bytes.
    #[arg(long, env = "UNIFAAS_DELIVER_KEY", value_name = "FILE")]
    pub deliver_key: Option<PathBuf>,
    #[command(flatten)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How long requests may continue after the first signal to end, in seconds.
    #[arg(
        long, env = "UNIFAAS_DRAIN_GRACE", value_name = "SECONDS",
        default_value = "10", value_parser = seconds, allow_negative_numbers = true
    )]
    pub drain_grace: Duration,
    /// How long requests may continue in a daemon that an upgrade has replaced, in seconds.
    #[arg(
        long, env = "UNIFAAS_UPGRADE_GRACE", value_name = "SECONDS",
        default_value = "300", value_parser = seconds, allow_negative_numbers = true
    )]
    pub upgrade_grace: Duration,
    /// How much answers to failed requests say.
    ///
    /// `brief` leaves out the output of functions, and reasons that may name files or resources of the host.
    #[arg(
        long, env = "UNIFAAS_ERROR_DETAIL", value_name = "DETAIL", value_enum, default_value_t = ErrorDetail::Full
    )]
    pub error_detail: ErrorDetail,
    /// Which requests are logged.
    ///
    /// `failed`: those that the platform answered with an error, and those that the function answered with 5xx; of equal
    /// ones one line in 10 s.
    #[arg(
        long, env = "UNIFAAS_ACCESS_LOG", value_name = "MODE", value_enum, default_value_t = AccessLogMode::Failed
    )]
    pub access_log: AccessLogMode,
    /// How many functions have metrics of their own, of those that are used; the others share `function="*"`.
    #[arg(long, env = "UNIFAAS_METRICS_FUNCTIONS", value_name = "COUNT", default_value_t = 200)]
    pub metrics_functions: usize,
    /// The OTLP collector that gets traces of requests, over HTTP [default: $OTEL_EXPORTER_OTLP_ENDPOINT; without either,
    /// there are no traces].
    ///
    /// Without traces, `traceparent` and `tracestate` reach functions unchanged.
    #[arg(long, env = "UNIFAAS_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// The share of traces that are exported, of those that begin here. Callers decide about theirs.
    #[arg(long, env = "UNIFAAS_TRACE_SAMPLE", value_name = "SHARE", default_value = "0.01", value_parser = share)]
    pub trace_sample: f64,
    /// The least important messages that are logged.
    #[arg(short, long, env = "UNIFAAS_LOG_LEVEL", value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    pub log_level: Level,
    /// How messages are logged [default: human on a terminal, journal if standard error is the journal, else json].
    #[arg(long, env = "UNIFAAS_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub log_format: Option<Format>,
}

impl Serve {
    /// Returns how many connections one client may have if there may be `connections` in all.
    pub fn connections_per_client(&self, connections: usize) -> usize {
        self.max_connections_per_client.unwrap_or(connections.div_ceil(2))
    }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number, one or more".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share between 0 and 1".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds, zero or more".to_owned())
}
