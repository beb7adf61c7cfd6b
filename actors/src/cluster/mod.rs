//! Nodes that know each other: which there are, which of them answer, and where a request is served soonest.
//!
//! A node tells the others about itself in heartbeats, over NATS. Each node judges the others by its own clock alone, and
//! decides by itself: there is no consensus, and a node that hears of no other serves on alone.
//!
//! | file | content |
//! | --- | --- |
//! | `node.rs` | what identifies a node |
//! | `beat.rs` | heartbeats, and the list of a node's functions |
//! | `suspicion.rs` | what the silence of a node means; pure |
//! | `directory.rs` | the other nodes, from their heartbeats; pure |
//! | `keys.rs` | their keys, and which count; pure |
//! | `view.rs` | what any thread reads of them |
//! | `place.rs` | where a request is served soonest; pure |
//! | `actor.rs`, `messages.rs` | the ClusterActor, which owns the directory |
//! | `blob_id.rs`, `manifest.rs` | published content: its identity, and the files of a version; pure |
//! | `catalogue.rs` | the published functions and their versions, as all nodes are to have them; pure |
//! | `rollout.rs` | which version a node serves, and what it has to do for that; pure |
//! | `report.rs` | what it tells about the cluster |
//! | `handle.rs`, `forwards.rs` | what the threads that serve requests use |

mod actor;
mod beat;
mod blob_id;
mod catalogue;
mod directory;
mod forwards;
mod handle;
mod keys;
mod manifest;
mod messages;
mod node;
mod place;
mod report;
mod rollout;
#[cfg(test)]
mod simulation;
mod suspicion;
mod view;

pub use actor::{ClusterActor, ClusterLink, Join, NodeSettings};
pub use beat::{Beat, FunctionList, FunctionLoad, MAX_NODE_VERSIONS, NodeVersions, OfferedFunction};
pub use blob_id::{BlobHasher, BlobId};
pub use catalogue::{Catalogue, Listed, Publication, PublishedVersion, RolloutError, Trial};
pub use forwards::{ForwardCounts, ForwardStats, ForwardTable};
pub use handle::{ClusterHandle, PlacementRecord};
pub use keys::TrustedKeys;
pub use manifest::{Content, MAX_MANIFEST, MAX_VERSION, Manifest, ManifestError};
pub use messages::{
    BeatReceived, ClusterQuestion, FunctionsListed, KeyHeard, LinkChanged, LinkState, PeerTried, StartDraining,
    VersionsChanged,
};
pub use node::{Epoch, NodeId, PublicKey};
pub use place::{Candidate, Choice, LocalOffer, Request, StartKind};
pub use report::{ClusterReport, PeerReport};
pub use rollout::{FailedVersion, LocalVersions, RolloutStep, next_step, outdated, place_of, version_for};
pub use suspicion::Health;
pub use view::{ClusterView, Contact, PeerView, has_labels};
