//! What the ClusterActor tells about the cluster, for `/debug/cluster` and other views.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    beat::{Beat, FunctionLoad, NodeVersions},
    handle::PlacementRecord,
    messages::LinkState,
    node::{Epoch, NodeId, PublicKey},
    suspicion::Health,
    view::PeerView,
};
use crate::wall_time::rounded_ms;

/// What a node knows of the others.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterReport {
    /// This node.
    pub node: NodeId,
    /// What it is called.
    pub name: Arc<str>,
    /// Its site.
    pub site: Arc<str>,
    /// The run of its daemon.
    pub epoch: Epoch,
    /// The link to the others.
    pub link: LinkState,
    /// Whether nodes are judged by their connections alone, as the link does not work.
    pub is_frozen: bool,
    /// The last heartbeat that was sent.
    pub beat: Option<Arc<Beat>>,
    /// What this node has of published functions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<Arc<str>, NodeVersions>,
    /// The other nodes.
    pub peers: Vec<PeerReport>,
    /// The last placements of requests, the newest one first.
    pub placements: Vec<PlacementRecord>,
}

/// What a node knows of another one.
#[derive(Debug, Clone, Serialize)]
pub struct PeerReport {
    /// The node.
    pub node: NodeId,
    /// What it is called.
    pub name: Arc<str>,
    /// Its site.
    pub site: Arc<str>,
    /// Where it is reached.
    pub address: Arc<str>,
    /// The key by which it is known. `None`: connections to it are not protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// How it is judged.
    pub health: Health,
    /// Why it is suspect, or nothing is forwarded to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it takes no more requests.
    pub is_draining: bool,
    /// Since its last heartbeat, in milliseconds.
    pub age_ms: f64,
    /// The round trip of a connection, once there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Memory in which instances could be started there, in MiB.
    pub memory_free: u64,
    /// Functions that it serves for others.
    pub functions: usize,
    /// What is going on with them.
    pub loads: BTreeMap<Arc<str>, FunctionLoad>,
    /// What it has of published functions: of those that have not changed lately, only which version it serves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<Arc<str>, NodeVersions>,
}

impl PeerReport {
    /// Reports a node that was last heard `age` ago. `is_secure`: this node protects its connections.
    pub(super) fn new(peer: &PeerView, age: Duration, is_secure: bool) -> Self {
        let PeerView { site, health, functions, contact, beat, .. } = peer;
        let listed = functions.iter().filter_map(|(name, offered)| {
            let version = offered.version.clone()?;
            let versions = NodeVersions { serves: Some(version.clone()), holds: vec![version], ..Default::default() };
            Some((name.clone(), versions))
        });
        Self {
            node: beat.node,
            name: beat.name.clone(),
            site: site.clone(),
            address: beat.address.clone(),
            key: beat.key,
            health: *health,
            why: reason(peer, age, is_secure),
            is_draining: beat.is_draining,
            age_ms: rounded_ms(age),
            rtt_ms: contact.measured_rtt().map(rounded_ms),
            memory_free: beat.memory_free,
            functions: functions.len(),
            loads: beat.loads.clone(),
            versions: listed.chain(beat.versions.clone()).collect(),
        }
    }
}

/// Why a node is suspect, or nothing is forwarded to it, in words.
fn reason(peer: &PeerView, silent: Duration, is_secure: bool) -> Option<String> {
    match peer.health {
        Health::Silent => Some(format!("it was not heard for {:.1} s", silent.as_secs_f64())),
        Health::Unreachable => Some("it accepts no connection".to_owned()),
        Health::Fresh if peer.is_compatible(is_secure) => None,
        Health::Fresh if is_secure => Some("it has --peer-security none, unlike this node".to_owned()),
        Health::Fresh => Some("this node has --peer-security none, unlike it".to_owned()),
    }
}
