//! Metrics of a node among others: which it knows, and the requests that it forwards and serves for them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge},
};
use unifaas_actors::cluster::{ForwardCounts, Health};

use super::encode::describe;
use crate::{
    cluster::{Cluster, FunctionsReport, PeerTls, RefusedPeers, VersionState},
    shared::Shared,
};

/// What `/metrics` shows of the other nodes.
#[derive(Debug)]
pub struct ClusterMetrics {
    /// This node: its name, its site and its id.
    own: (Arc<str>, Arc<str>, String),
    is_frozen: bool,
    /// The other nodes by how they are judged.
    nodes: [(&'static str, u64); 3],
    refused: Option<RefusedPeers>,
    /// Counters by series.
    forwards: BTreeMap<String, ForwardCounts>,
    published: FunctionsReport,
}

impl ClusterMetrics {
    pub fn read(shared: &Shared, cluster: &Cluster) -> Self {
        let view = cluster.handle.view();
        let count = |health| view.peers.iter().filter(|peer| peer.health == health).count() as u64;
        let mut forwards = BTreeMap::<String, ForwardCounts>::new();
        for (function, counts) in cluster.handle.forwards.counts() {
            let sum = forwards.entry(shared.history.usage.series_of(&function).to_owned()).or_default();
            sum.add(counts);
        }
        Self {
            own: (cluster.name.clone(), cluster.site().clone(), view.own.to_string()),
            is_frozen: view.is_frozen,
            nodes: [
                ("fresh", count(Health::Fresh)),
                ("silent", count(Health::Silent)),
                ("unreachable", count(Health::Unreachable)),
            ],
            refused: cluster.tls().map(PeerTls::refused),
            forwards,
            published: cluster.functions.report(),
        }
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, site, id) = &self.own;
        let help = "This node among others; always 1.";
        let labels = [("node", &**name), ("site", &**site), ("id", id)];
        describe(encoder, Gauge, "unifaas_node_info", None, help)?.gauge(&labels, 1u64)?;
        let help = "Other nodes that are known, by how they are judged.";
        let mut nodes = describe(encoder, Gauge, "unifaas_nodes", None, help)?;
        self.nodes.iter().try_for_each(|(health, count)| nodes.gauge(&[("health", health)], *count))?;
        let help = "Whether the link to the other nodes does not work, so that they are judged by their connections.";
        describe(encoder, Gauge, "unifaas_nodes_frozen", None, help)?.gauge(&[], u64::from(self.is_frozen))?;
        if let Some(refused) = &self.refused {
            let help = "Connections that the peer listener has refused.";
            let mut counter = describe(encoder, Counter, "unifaas_refused_peers", None, help)?;
            counter.counter(&[("reason", "unknown_key")], refused.unknown_keys)?;
            counter.counter(&[("reason", "without_tls")], refused.without_tls)?;
        }
        let help = "Attempts to have a request served by another node, by what came of them.";
        let mut forwarded = describe(encoder, Counter, "unifaas_forwarded", None, help)?;
        for (function, counts) in &self.forwards {
            let results =
                [("ok", counts.forwarded_ok), ("refused", counts.forward_refused), ("failed", counts.forward_failed)];
            for (result, count) in results {
                forwarded.counter(&[("function", function), ("result", result)], count)?;
            }
        }
        let help = "Requests that were served for other nodes.";
        let mut served = describe(encoder, Counter, "unifaas_served_for_peers", None, help)?;
        for (function, counts) in &self.forwards {
            served.counter(&[("function", function)], counts.served_for_peers)?;
        }
        self.encode_published(encoder)
    }

    fn encode_published(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let FunctionsReport { trouble, fetched_bytes, served_bytes, damaged_blobs, functions } = &self.published;
        let help = "Published functions, by how this node is to the catalogue.";
        let mut published = describe(encoder, Gauge, "unifaas_published_functions", None, help)?;
        for state in VersionState::ALL {
            let count = functions.values().filter(|versions| versions.state == state).count();
            published.gauge(&[("state", state.name())], count as u64)?;
        }
        let help = "Whether the catalogue of published functions is followed.";
        describe(encoder, Gauge, "unifaas_catalogue_followed", None, help)?.gauge(&[], u64::from(trouble.is_none()))?;
        let help = "Bytes of published functions that nodes have sent each other.";
        let mut bytes = describe(encoder, Counter, "unifaas_blob_bytes", None, help)?;
        bytes.counter(&[("direction", "fetched")], *fetched_bytes)?;
        bytes.counter(&[("direction", "served")], *served_bytes)?;
        let help = "Blobs that were refused, as their content was not that of their name.";
        describe(encoder, Counter, "unifaas_damaged_blobs", None, help)?.counter(&[], *damaged_blobs)
    }
}
