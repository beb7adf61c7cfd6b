//! `/metrics`: counters and gauges in the OpenMetrics text format.
//!
//! Nothing is counted here: a scrape reads the counters that functions, listeners and the log have anyway. The text is made
//! on a thread that may block, one scrape at a time. docs/observability.md lists the metrics.
//!
//! | file | content |
//! | --- | --- |
//! | `functions.rs` | metrics by function |
//! | `daemon.rs` | metrics of the daemon: admission, connections, the log |
//! | `inbox.rs` | metrics of asynchronous invocations |
//! | `triggers.rs` | metrics of schedules and of the connections to brokers |
//! | `cluster.rs` | metrics of a node among others |
//! | `process.rs` | `process_*`, as every exporter has them |
//! | `encode.rs` | how samples are written |

mod cluster;
mod daemon;
mod encode;
mod functions;
mod inbox;
mod process;
mod triggers;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use actix_web::{HttpResponse, web};
use cluster::ClusterMetrics;
use daemon::DaemonMetrics;
use functions::FunctionMetrics;
use inbox::InboxMetrics;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, encoding::text, registry::Registry};
use tokio::{sync::Mutex, time::timeout};
use triggers::TriggerMetrics;
use unifaas_actors::{AdmissionQuestion, trigger::TriggerQuestion};

use super::{Pages, access::AdminAccess};
use crate::shared::Shared;

/// The media type of the text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long the admission actor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one scrape after the other.
#[derive(Debug, Default)]
pub struct Scrapes(Mutex<()>);

/// Everything that a scrape reads.
#[derive(Debug)]
struct Scrape {
    functions: FunctionMetrics,
    daemon: DaemonMetrics,
    /// `None`: the actor did not answer in time.
    inbox: Option<InboxMetrics>,
    /// The same.
    triggers: Option<TriggerMetrics>,
    /// `None`: there are no other nodes.
    cluster: Option<ClusterMetrics>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.functions.encode(&mut encoder)?;
        self.daemon.encode(&mut encoder)?;
        if let Some(inbox) = &self.inbox {
            inbox.encode(&mut encoder)?;
        }
        if let Some(triggers) = &self.triggers {
            triggers.encode(&mut encoder)?;
        }
        if let Some(cluster) = &self.cluster {
            cluster.encode(&mut encoder)?;
        }
        process::encode(&mut encoder)
    }
}

/// Adds exemplars to their buckets. `prometheus-client` writes only those of its own histograms.
fn with_exemplars(text: String, exemplars: &HashMap<String, String>) -> String {
    if exemplars.is_empty() {
        return text;
    }
    let mut whole = String::with_capacity(text.len() + exemplars.len() * 128);
    for line in text.lines() {
        whole.push_str(line);
        if let Some(exemplar) = line.rsplit_once(' ').and_then(|(sample, _)| exemplars.get(sample)) {
            whole.push_str(exemplar);
        }
        whole.push('\n');
    }
    whole
}

/// Serves the page.
pub async fn metrics(_: AdminAccess, shared: web::Data<Shared>, pages: web::Data<Pages>) -> HttpResponse {
    scrape(shared.into_inner(), &pages).await
}

async fn scrape(shared: Arc<Shared>, pages: &Pages) -> HttpResponse {
    let _turn = pages.scrapes.0.lock().await;
    let admission = timeout(ACTOR_TIMEOUT, shared.admission.send(AdmissionQuestion));
    let triggers = timeout(ACTOR_TIMEOUT, pages.control.triggers.send(TriggerQuestion));
    let (admission, inbox, triggers) = tokio::join!(admission, shared.inbox.overview_with_site(), triggers);
    let (admission, triggers) = (admission.ok().and_then(Result::ok), triggers.ok().and_then(Result::ok));
    let text = web::block(move || {
        let functions = FunctionMetrics::read(&shared);
        let daemon = DaemonMetrics::read(&shared, admission);
        let inbox = inbox.map(|overview| InboxMetrics::read(&shared, overview));
        let triggers = triggers.map(|report| TriggerMetrics::read(&shared, report));
        let cluster = shared.cluster.as_ref().map(|cluster| ClusterMetrics::read(&shared, cluster));
        let exemplars = functions.exemplars();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { functions, daemon, inbox, triggers, cluster }));
        let mut text = String::new();
        text::encode(&mut text, &registry).map(|()| with_exemplars(text, &exemplars))
    });
    match text.await {
        Ok(Ok(text)) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        // The daemon ends.
        _ => HttpResponse::InternalServerError().finish(),
    }
}
