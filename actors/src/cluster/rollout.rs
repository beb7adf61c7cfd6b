//! Which version of a published function this node serves, and what it has to do next for that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{blob_id::BlobId, catalogue::Publication, node::NodeId};

/// What a node has of a published function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalVersions {
    /// Versions with all their files.
    pub held: BTreeSet<BlobId>,
    /// The version that is served, unless the registry has a function of that name.
    pub current: Option<BlobId>,
    /// The version that was served before.
    pub before: Option<BlobId>,
    /// Versions that have failed here.
    pub failed: BTreeMap<BlobId, FailedVersion>,
}

/// Why a node does not serve a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedVersion {
    /// The revision of the publication that wanted it. A later one may have it tried again.
    pub revision: u64,
    /// What has failed.
    pub why: String,
}

/// What a node does next about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutStep {
    /// Gets the files of a version.
    Fetch(BlobId),
    /// Serves a version that it has.
    Switch(BlobId),
    /// Serves none: the function was removed.
    Forget,
    /// Nothing: all is as it should be.
    Rest,
}

/// Returns the place of a node among those that a function is rolled out to, from 0 to 99: it takes part in a trial of more
/// percent than that.
pub fn place_of(node: NodeId, function: &str) -> u8 {
    let mut key = node.0.to_be_bytes().to_vec();
    key.extend_from_slice(function.as_bytes());
    (BlobId::of(&key).number() % 100) as u8
}

/// Returns the version that a node in that place serves: the best of those that have not failed there.
pub fn version_for(publication: &Publication, place: u8, local: &LocalVersions) -> BlobId {
    let tried = publication.trial.filter(|trial| place < trial.percent).map(|trial| trial.version);
    let before = publication.before.or(local.before).filter(|version| publication.lists(version));
    let good = [tried, Some(publication.wanted), before];
    let good = good.into_iter().flatten().find(|version| !local.failed.contains_key(version));
    // Without another one, a version that fails is tried on.
    good.unwrap_or(publication.wanted)
}

/// Returns what a node does next. `publication`: `None` if the function was removed.
pub fn next_step(publication: Option<&Publication>, place: u8, local: &LocalVersions) -> RolloutStep {
    let Some(publication) = publication else {
        return if local.current.is_none() { RolloutStep::Rest } else { RolloutStep::Forget };
    };
    let version = version_for(publication, place, local);
    if !local.held.contains(&version) {
        return RolloutStep::Fetch(version);
    }
    if local.current != Some(version) {
        return RolloutStep::Switch(version);
    }
    // What other nodes try is here as well, so that a rollout or its end needs no transfer.
    let others = [Some(publication.wanted), publication.trial.map(|trial| trial.version)];
    match others.into_iter().flatten().find(|version| !local.held.contains(version)) {
        Some(version) => RolloutStep::Fetch(version),
        None => RolloutStep::Rest,
    }
}

/// Returns the versions that a node need not keep: those that are neither listed, nor served, nor served before. `publication`:
/// `None` if the function was removed.
pub fn outdated(publication: Option<&Publication>, local: &LocalVersions) -> Vec<BlobId> {
    let is_kept = |version: &BlobId| {
        publication.is_some_and(|publication| publication.lists(version))
            || [local.current, local.before].contains(&Some(*version))
    };
    local.held.iter().filter(|version| !is_kept(version)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::catalogue::PublishedVersion;

    fn id(number: u8) -> BlobId {
        BlobId::of(&[number])
    }

    fn version(number: u8) -> PublishedVersion {
        PublishedVersion { version: id(number), bytes: 1, at: String::new() }
    }

    fn local(held: &[u8], current: Option<u8>) -> LocalVersions {
        let held = held.iter().map(|number| id(*number)).collect();
        LocalVersions { held, current: current.map(id), ..LocalVersions::default() }
    }

    fn fail(local: &mut LocalVersions, number: u8) {
        local.failed.insert(id(number), FailedVersion { revision: 1, why: "it does not start".to_owned() });
    }

    #[test]
    fn places_of_nodes_are_known_and_even() {
        assert_eq!([1, 2, 3].map(|node| place_of(NodeId(node), "f")), [1, 16, 78]);
        let below = |percent| (0..10_000).filter(|node| place_of(NodeId(*node), "hello") < percent).count();
        for percent in [1_u8, 10, 50, 90] {
            let (found, expected) = (below(percent), usize::from(percent) * 100);
            assert!(found.abs_diff(expected) < 150, "{percent} %: {found}");
        }
        assert_eq!((below(0), below(100)), (0, 10_000));
    }

    #[test]
    fn node_gets_a_version_and_then_serves_it() {
        let publication = Publication::first(version(1));
        let step = |local: &LocalVersions| next_step(Some(&publication), 0, local);
        assert_eq!(step(&local(&[], None)), RolloutStep::Fetch(id(1)));
        assert_eq!(step(&local(&[1], None)), RolloutStep::Switch(id(1)));
        assert_eq!(step(&local(&[1], Some(1))), RolloutStep::Rest);
        assert_eq!(next_step(None, 0, &local(&[1], Some(1))), RolloutStep::Forget);
        assert_eq!(next_step(None, 0, &local(&[], None)), RolloutStep::Rest);
    }

    #[test]
    fn nodes_below_the_percentage_try_a_version_and_all_hold_it() {
        let mut publication = Publication::first(version(1));
        publication.add(version(2), 30);
        let step = |place, local: &LocalVersions| next_step(Some(&publication), place, local);
        assert_eq!(step(29, &local(&[1], Some(1))), RolloutStep::Fetch(id(2)));
        assert_eq!(step(29, &local(&[1, 2], Some(1))), RolloutStep::Switch(id(2)));
        assert_eq!(step(30, &local(&[1], Some(1))), RolloutStep::Fetch(id(2)));
        assert_eq!(step(30, &local(&[1, 2], Some(1))), RolloutStep::Rest);
    }

    #[test]
    fn version_that_fails_here_gives_way_to_the_one_before() {
        let mut publication = Publication::first(version(1));
        publication.add(version(2), 100);
        let mut local = local(&[1, 2], Some(2));
        fail(&mut local, 2);
        assert_eq!(next_step(Some(&publication), 0, &local), RolloutStep::Switch(id(1)));
        fail(&mut local, 1);
        assert_eq!(next_step(Some(&publication), 0, &local), RolloutStep::Rest, "there is no other");
    }

    #[test]
    fn listed_and_served_versions_are_kept() {
        let publication = Publication::first(version(5));
        let mut local = local(&[1, 2, 3, 5], Some(3));
        local.before = Some(id(2));
        assert_eq!(outdated(Some(&publication), &local), [id(1)]);
    }
}
