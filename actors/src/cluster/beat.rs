//! Heartbeats: what a node tells the others about itself, and the list of its functions, which is asked for.
//!
//! Both are JSON. Fields that a node does not know are ignored, so that nodes of several versions can be together.

use std::{collections::BTreeMap, hash::BuildHasher as _, sync::Arc};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::node::{Epoch, NodeId, PublicKey};

/// Functions whose load a heartbeat has, so that it stays below 32 KiB with names of usual length.
const MAX_LOADS: usize = 256;

/// Published functions in a heartbeat, for the same reason: those that have changed last. What the node serves of others is in
/// its [`FunctionList`].
pub const MAX_NODE_VERSIONS: usize = 32;

/// A heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// The node.
    pub node: NodeId,
    /// The run of its daemon.
    pub epoch: Epoch,
    /// Counts the beats of the run.
    pub sequence: u64,
    /// What the node is called.
    pub name: Arc<str>,
    /// Where other nodes reach it: host and port.
    pub address: Arc<str>,
    /// The key that it has at `address`. `None`: connections are not protected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// The labels that it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It takes no more requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_draining: bool,
    /// Memory in which instances could be started, in MiB.
    pub memory_free: u64,
    /// Instances that are starting.
    pub starting: u32,
    /// The digest of its [`FunctionList`].
    pub functions: u64,
    /// Its functions that have instances or waiting requests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loads: BTreeMap<Arc<str>, FunctionLoad>,
    /// What it has of published functions: of those that have changed last, if there are many.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<Arc<str>, NodeVersions>,
}

/// What a node has of a published function. Versions are their first digits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVersions {
    /// The version that it serves, unless its registry has a function of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<String>,
    /// Wanted versions of which it has every file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<String>,
    /// Wanted versions that have failed there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Its registry has a function of that name, which is served instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_shadowed: bool,
}

/// What is going on with a function on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionLoad {
    /// Free slots of instances that are ready.
    pub free: u32,
    /// Slots of all its instances.
    pub capacity: u32,
    /// Requests that wait for a slot.
    pub waiting: u32,
    /// How long a slot is usually held, in microseconds. 0: it is not known.
    pub service_us: u32,
    /// How long a boot usually takes, in microseconds, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_us: Option<u32>,
    /// The function keeps failing to start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_failing: bool,
    /// The function can have no more instances, whatever memory is free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_full: bool,
}

/// The functions that a node serves for others, by name.
pub type FunctionList = BTreeMap<Arc<str>, OfferedFunction>;

/// A function that a node serves for others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OfferedFunction {
    /// Memory of an instance, in MiB.
    pub memory: u64,
    /// The longest that a request may take until its response begins, in milliseconds: in the queue, for a boot and in the
    /// function. `None`: there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<u64>,
    /// The first digits of its version, if it is published and heartbeats have no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Beat {
    /// Keeps the loads that matter most to others, so that the beat does not exceed its size: those with free slots, then
    /// those with most waiting requests.
    pub fn bounded(mut self) -> Self {
        if self.loads.len() > MAX_LOADS {
            let mut loads: Vec<_> = self.loads.into_iter().collect();
            loads.sort_by_key(|(_, load)| std::cmp::Reverse((load.free, load.waiting)));
            loads.truncate(MAX_LOADS);
            self.loads = loads.into_iter().collect();
        }
        self
    }
}

/// Returns the digest of a list. Only the node itself makes it: to the others it is a number that changes with the list.
pub fn digest(functions: &FunctionList) -> u64 {
    FixedState::default().hash_one(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(loads: impl IntoIterator<Item = (String, FunctionLoad)>) -> Beat {
        Beat {
            node: NodeId(7),
            epoch: Epoch::new(1, 2),
            sequence: 3,
            name: "a".into(),
            address: "10.0.0.1:8125".into(),
            key: Some(PublicKey([9; 32])),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            is_draining: false,
            memory_free: 1024,
            starting: 0,
            functions: 5,
            loads: loads.into_iter().map(|(name, load)| (name.into(), load)).collect(),
            versions: BTreeMap::new(),
        }
    }

    #[test]
    fn beats_are_read_as_they_are_written_and_unknown_fields_are_ignored() {
        let load = FunctionLoad { free: 1, capacity: 4, service_us: 1500, boot_us: Some(80_000), ..Default::default() };
        let sent = beat([("hello".to_owned(), load)]);
        let text = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<Beat>(&text).unwrap(), sent, "{text}");
        let later = text.replacen('{', r#"{"of_a_later_version":[1],"#, 1);
        assert_eq!(serde_json::from_str::<Beat>(&later).unwrap(), sent);
        let offered = OfferedFunction { memory: 128, ..Default::default() };
        let list = FunctionList::from([("hello".into(), offered)]);
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, r#"{"hello":{"memory":128}}"#);
        assert_eq!(serde_json::from_str::<FunctionList>(&text).unwrap(), list);
    }

    #[test]
    fn beat_of_a_node_with_many_functions_stays_small() {
        let load =
            |index: u32| FunctionLoad { free: index % 3, waiting: index, boot_us: Some(1), ..Default::default() };
        let name = |index| format!("function-of-a-usual-length-{index}");
        let mut beat = beat((0..10_000).map(|index| (name(index), load(index)))).bounded();
        let digits = |count| vec!["0123456789ab".to_owned(); count];
        let versions = NodeVersions { serves: digits(1).pop(), holds: digits(3), failed: digits(1), is_shadowed: true };
        beat.versions = (0..MAX_NODE_VERSIONS as u32).map(|index| (name(index).into(), versions.clone())).collect();
        assert_eq!(beat.loads.len(), MAX_LOADS);
        assert!(beat.loads.values().all(|load| load.free == 2));
        assert!(serde_json::to_string(&beat).unwrap().len() <= 32 * 1024);
    }

    #[test]
    fn digest_changes_with_the_list() {
        let list = |memory| FunctionList::from([("f".into(), OfferedFunction { memory, ..Default::default() })]);
        assert_eq!(digest(&list(1)), digest(&list(1)));
        assert_ne!(digest(&list(1)), digest(&list(2)));
        assert_ne!(digest(&list(1)), digest(&FunctionList::new()));
    }
}
