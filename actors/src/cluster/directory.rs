//! The other nodes, from their heartbeats. Pure: the ClusterActor owns it and tells it the time.

use std::{
    collections::{
        BTreeMap,
        btree_map::Entry::{Occupied, Vacant},
    },
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    beat::{Beat, FunctionList},
    keys::KeyRing,
    node::{Epoch, NodeId, PublicKey},
    suspicion::{Health, LinkClock},
    view::{ClusterView, Contact, PeerView},
};

/// Until the list of a node's functions is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Between the first attempts to reach a node that accepts no connections, and the longest time between two.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// The other nodes.
#[derive(Debug)]
pub struct Peers {
    own: NodeId,
    epoch: Epoch,
    site: Arc<str>,
    /// This node protects its connections.
    is_secure: bool,
    link: LinkClock,
    keys: KeyRing,
    entries: BTreeMap<NodeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    view: Arc<PeerView>,
    heard_at: Instant,
    /// The digest of the list that is known.
    listed: Option<u64>,
    /// The digest of the list that was asked for last, and when.
    asked: Option<(u64, Instant)>,
    /// Attempts to reach it that have failed in a row.
    failures: u32,
    /// When the next attempt is due.
    probe_at: Instant,
}

/// What a heartbeat means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is an own one.
    Own,
    /// Another daemon calls itself this node.
    Impostor {
        /// The run of the other daemon.
        epoch: Epoch,
        /// Where it listens.
        address: Arc<str>,
    },
    /// It is older than what is known.
    Stale,
    /// It is of another node.
    Peer {
        /// The node was not known, or its daemon was started again.
        is_new: bool,
        /// The list of its functions is to be asked for.
        wants_functions: bool,
        /// It had another key before.
        key_before: Option<PublicKey>,
    },
}

/// A change in how a node is judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The node, as it was seen last.
    pub peer: Arc<PeerView>,
    /// How it is judged now. `None`: it is removed.
    pub health: Option<Health>,
}

impl Entry {
    fn new(site: &Arc<str>, beat: Arc<Beat>, contact: Arc<Contact>, now: Instant) -> Self {
        let view = PeerView::new(site.clone(), beat, Health::Fresh, Arc::default(), contact);
        Self { view: Arc::new(view), heard_at: now, listed: None, asked: None, failures: 0, probe_at: now }
    }
}

impl Peers {
    /// Makes the directory of a node that knows no other, and does not protect its connections.
    pub fn new(own: NodeId, epoch: Epoch, site: Arc<str>, now: Instant) -> Self {
        let (is_secure, keys, entries) = Default::default();
        Self { own, epoch, site, is_secure, link: LinkClock::new(now), keys, entries }
    }

    /// Sets whether the node protects its connections. It asks nothing of nodes that do not do the same.
    pub fn with_security(self, is_secure: bool) -> Self {
        Self { is_secure, ..self }
    }

    /// Notes whether the link is up, as far as its connection tells.
    pub fn set_link_up(&mut self, is_up: bool) {
        self.link.set_up(is_up);
    }

    /// Whether nothing can be said about silent nodes.
    pub fn is_frozen(&self, now: Instant) -> bool {
        self.link.is_frozen(now)
    }

    /// Sets the keys that a daemon before has heard.
    pub fn with_keys(self, keys: impl IntoIterator<Item = (NodeId, PublicKey)>, now: Instant) -> Self {
        Self { keys: KeyRing::known(keys, now), ..self }
    }

    /// Takes a heartbeat that has come from a site.
    pub fn heard(&mut self, site: &Arc<str>, beat: Arc<Beat>, now: Instant) -> Heard {
        if beat.node == self.own {
            if beat.epoch != self.epoch {
                return Heard::Impostor { epoch: beat.epoch, address: beat.address.clone() };
            }
            self.link.echoed(now);
            return Heard::Own;
        }
        let (is_near, key) = (*site == self.site, beat.key);
        let (entry, is_new) = match self.entries.entry(beat.node) {
            Occupied(known) if !is_later(&beat, &known.get().view.beat) => return Heard::Stale,
            Occupied(known) if is_same_run(&beat, &known.get().view.beat) => {
                let entry = known.into_mut();
                let PeerView { health, functions, contact, .. } = &*entry.view;
                let (functions, contact) = (functions.clone(), contact.clone());
                entry.view = Arc::new(PeerView::new(site.clone(), beat, *health, functions, contact));
                entry.heard_at = now;
                (entry, false)
            }
            Occupied(known) => {
                let entry = known.into_mut();
                let before = entry.view.clone();
                // A daemon that was upgraded answers what it was asked, on the connections that there are.
                let contact = Some(&before.contact).filter(|it| it.is_near() == is_near);
                let contact = contact.filter(|_| is_same_place(&beat, &before.beat)).cloned();
                let contact = contact.unwrap_or_else(|| Arc::new(Contact::new(is_near)));
                contact.set_unreachable(false);
                *entry = Entry::new(site, beat, contact, now);
                if entry.view.is_compatible(self.is_secure) {
                    // Until the list of the new run comes, that of the one before counts.
                    entry.view = Arc::new(entry.view.with(Health::Fresh, before.functions.clone()));
                }
                (entry, true)
            }
            Vacant(vacant) => (vacant.insert(Entry::new(site, beat, Arc::new(Contact::new(is_near)), now)), true),
        };
        let digest = entry.view.beat.functions;
        let is_asked =
            entry.asked.is_some_and(|(asked, at)| asked == digest && now.saturating_duration_since(at) < ASK_AGAIN);
        let wants_functions = entry.listed != Some(digest) && !is_asked && entry.view.is_compatible(self.is_secure);
        if wants_functions {
            entry.asked = Some((digest, now));
        }
        let key_before = self.keys.heard(entry.view.node(), key, now);
        Heard::Peer { is_new, wants_functions, key_before }
    }

    /// Takes the key of a node that is not asked for help itself.
    pub fn heard_key(&mut self, node: NodeId, key: Option<PublicKey>, now: Instant) {
        if node != self.own {
            self.keys.heard(node, key, now);
        }
    }

    /// Takes the list of a node's functions, which had that digest.
    pub fn listed(&mut self, node: NodeId, digest: u64, functions: FunctionList) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.listed = Some(digest);
            entry.view = Arc::new(entry.view.with(entry.view.health, Arc::new(functions)));
        }
    }

    /// Notes that no connection to a node could be opened.
    pub fn failed(&mut self, node: NodeId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.view.contact.set_unreachable(true);
            entry.failures = entry.failures.saturating_add(1);
            let interval = PROBE_INTERVAL.saturating_mul(1 << (entry.failures - 1).min(16));
            entry.probe_at = now + interval.min(MAX_PROBE_INTERVAL);
        }
    }

    /// Notes that a connection to a node was opened.
    pub fn reached(&mut self, node: NodeId) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.view.contact.set_unreachable(false);
            entry.failures = 0;
        }
    }

    /// Returns the nodes to which a connection is to be opened now: those that are new, and those that accepted none.
    pub fn probes(&mut self, now: Instant) -> Vec<Arc<PeerView>> {
        let is_due = |entry: &&mut Entry| {
            let contact = &entry.view.contact;
            entry.probe_at <= now && (contact.is_unreachable() || contact.measured_rtt().is_none())
        };
        let due = self.entries.values_mut().filter(is_due);
        // Until its result is known.
        due.map(|entry| {
            entry.probe_at = now + MAX_PROBE_INTERVAL;
            entry.view.clone()
        })
        .collect()
    }

    /// Judges all nodes, and forgets those that are removed.
    pub fn judge(&mut self, now: Instant) -> Vec<Judged> {
        let (link, mut changes) = (self.link, Vec::new());
        self.keys.expire(now);
        self.entries.retain(|_, entry| {
            let (before, is_unreachable) = (entry.view.health, entry.view.contact.is_unreachable());
            let health = link.judge(entry.heard_at, is_unreachable, now);
            if let Some(health) = health.filter(|health| *health != before) {
                entry.view = Arc::new(entry.view.with(health, entry.view.functions.clone()));
            }
            if health != Some(before) {
                changes.push(Judged { peer: entry.view.clone(), health });
            }
            health.is_some()
        });
        changes
    }

    /// Returns what other threads read.
    pub fn view(&self, now: Instant) -> ClusterView {
        let peers = self.entries.values().map(|entry| entry.view.clone()).collect();
        ClusterView { own: self.own, peers, is_frozen: self.is_frozen(now), keys: self.keys.trusted().clone() }
    }

    /// Returns each node, and for how long it was not heard.
    pub fn ages(&self, now: Instant) -> impl Iterator<Item = (&Arc<PeerView>, Duration)> {
        self.entries.values().map(move |entry| (&entry.view, now.saturating_duration_since(entry.heard_at)))
    }
}

fn is_later(beat: &Beat, known: &Beat) -> bool {
    (beat.epoch, beat.sequence) > (known.epoch, known.sequence)
}

fn is_same_run(beat: &Beat, known: &Beat) -> bool {
    beat.epoch == known.epoch && is_same_place(beat, known)
}

/// Whether the node is reached as before.
fn is_same_place(beat: &Beat, known: &Beat) -> bool {
    (&beat.address, beat.key) == (&known.address, known.key)
}

#[cfg(test)]
mod tests;
