//! The messages of the ClusterActor, and what it reports. Requests are imperative, facts are in the past tense.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::Message;
use serde::Serialize;

use super::{
    beat::{Beat, FunctionList, FunctionLoad},
    handle::PlacementRecord,
    node::{Epoch, NodeId},
    suspicion::Health,
};

/// A heartbeat has come. Sent by the link.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct BeatReceived {
    /// The site that it was sent in.
    pub site: Arc<str>,
    /// The heartbeat.
    pub beat: Arc<Beat>,
}

/// The list of a node's functions has come. Sent by the link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FunctionsListed {
    /// The node.
    pub node: NodeId,
    /// The digest that the list was asked for with.
    pub digest: u64,
    /// The functions.
    pub functions: FunctionList,
}

/// The state of the link has changed. Sent by the link.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkChanged(pub LinkState);

/// How the link to the other nodes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// There is no connection.
    Disconnected {
        /// Why, if that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The server is connected.
    Connected {
        /// Which server.
        server: String,
        /// Its version.
        version: String,
    },
    /// Another daemon has the identity of this node, so this one does not join.
    Refused {
        /// Where the other daemon runs.
        why: String,
    },
}

/// A connection to a node could be opened, or could not. Sent by what has tried.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PeerTried {
    /// The node.
    pub node: NodeId,
    /// Whether it could.
    pub is_reached: bool,
}

/// The slots that the last heartbeat has told of are used up, or a slot is free again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct BeatSoon;

/// Tells the other nodes that this one takes no more requests.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartDraining;

/// Asks what the node knows of the others.
#[derive(Debug, Message)]
#[rtype(result = "ClusterReport")]
pub struct ClusterQuestion;

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
    /// How it is judged.
    pub health: Health,
    /// Why it is suspect.
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
}

/// Why a node is suspect, in words.
pub(super) fn reason(health: Health, silent: Duration) -> Option<String> {
    match health {
        Health::Fresh => None,
        Health::Silent => Some(format!("it was not heard for {:.1} s", silent.as_secs_f64())),
        Health::Unreachable => Some("it accepts no connection".to_owned()),
    }
}
