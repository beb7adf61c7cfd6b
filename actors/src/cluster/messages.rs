//! The messages of the ClusterActor. Requests are imperative, facts are in the past tense. Its report is in `report.rs`.

use std::{collections::BTreeMap, sync::Arc};

use actix::Message;
use serde::Serialize;

use super::{
    beat::{Beat, FunctionList, NodeVersions},
    node::{NodeId, PublicKey},
    report::ClusterReport,
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

/// The key of a node has come that is never asked for help, as it is of another site: it may ask this one. Sent by the link.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct KeyHeard {
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: Option<PublicKey>,
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

/// What this node has of published functions has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct VersionsChanged {
    /// Those that have changed last, as many as a heartbeat has.
    pub told: BTreeMap<Arc<str>, NodeVersions>,
    /// The others.
    pub untold: BTreeMap<Arc<str>, NodeVersions>,
}

/// Tells the other nodes that this one takes no more requests.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartDraining;

/// Asks what the node knows of the others.
#[derive(Debug, Message)]
#[rtype(result = "ClusterReport")]
pub struct ClusterQuestion;
