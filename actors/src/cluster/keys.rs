//! The keys of the other nodes, as their heartbeats have told. Pure.
//!
//! What may write heartbeats is trusted with keys, too: NATS is the one root. A key counts for as long as a node that is
//! cut off from NATS goes on with the nodes that it knows.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    node::{NodeId, PublicKey},
    suspicion::FROZEN_FOR,
};

/// How long a key counts after the last heartbeat that had it.
const TRUSTED_FOR: Duration = FROZEN_FOR;

/// Keys that count, and the nodes that they belong to.
pub type TrustedKeys = HashMap<PublicKey, NodeId>;

/// The keys of the other nodes.
#[derive(Debug, Default)]
pub struct KeyRing {
    held: BTreeMap<NodeId, Held>,
    trusted: Arc<TrustedKeys>,
}

#[derive(Debug)]
struct Held {
    key: PublicKey,
    heard_at: Instant,
}

impl KeyRing {
    /// Makes a ring of keys that a daemon before has heard.
    pub fn known(keys: impl IntoIterator<Item = (NodeId, PublicKey)>, now: Instant) -> Self {
        let held = keys.into_iter().map(|(node, key)| (node, Held { key, heard_at: now })).collect();
        let mut ring = Self { held, trusted: Arc::default() };
        ring.publish();
        ring
    }

    /// Takes the key of a heartbeat. Returns the key before it.
    pub fn heard(&mut self, node: NodeId, key: Option<PublicKey>, now: Instant) -> Option<PublicKey> {
        let before = match (self.held.entry(node), key) {
            (Entry::Occupied(mut held), Some(key)) if held.get().key == key => {
                held.get_mut().heard_at = now;
                return None;
            }
            (Entry::Occupied(mut held), Some(key)) => Some(held.insert(Held { key, heard_at: now }).key),
            (Entry::Occupied(held), None) => Some(held.remove().key),
            (Entry::Vacant(vacant), Some(key)) => {
                vacant.insert(Held { key, heard_at: now });
                None
            }
            (Entry::Vacant(_), None) => return None,
        };
        self.publish();
        before
    }

    /// Drops the keys that were not heard for [`TRUSTED_FOR`].
    pub fn expire(&mut self, now: Instant) {
        let before = self.held.len();
        self.held.retain(|_, held| now.saturating_duration_since(held.heard_at) < TRUSTED_FOR);
        if self.held.len() != before {
            self.publish();
        }
    }

    /// Returns the keys that count.
    pub fn trusted(&self) -> &Arc<TrustedKeys> {
        &self.trusted
    }

    fn publish(&mut self) {
        self.trusted = Arc::new(self.held.iter().map(|(node, held)| (held.key, *node)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);
    const KEYS: [PublicKey; 2] = [PublicKey([1; 32]), PublicKey([2; 32])];

    #[test]
    fn a_new_key_replaces_the_one_before_at_once() {
        let (mut ring, now) = (KeyRing::default(), Instant::now());
        assert_eq!(ring.heard(NODE, Some(KEYS[0]), now), None);
        assert_eq!(ring.heard(NODE, Some(KEYS[0]), now), None);
        assert_eq!(ring.trusted().get(&KEYS[0]), Some(&NODE));
        assert_eq!(ring.heard(NODE, Some(KEYS[1]), now), Some(KEYS[0]));
        assert_eq!((ring.trusted().get(&KEYS[0]), ring.trusted().get(&KEYS[1])), (None, Some(&NODE)));
        assert_eq!(ring.heard(NODE, None, now), Some(KEYS[1]));
        assert!(ring.trusted().is_empty());
    }

    #[test]
    fn a_key_counts_for_ten_minutes_after_its_last_heartbeat() {
        let (mut ring, now) = (KeyRing::default(), Instant::now());
        ring.heard(NODE, Some(KEYS[0]), now);
        ring.heard(NODE, Some(KEYS[0]), now + Duration::from_secs(60));
        ring.expire(now + Duration::from_secs(659));
        assert_eq!(ring.trusted().len(), 1);
        ring.expire(now + Duration::from_secs(660));
        assert!(ring.trusted().is_empty());
    }
}
