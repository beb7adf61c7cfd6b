//! What is shown of published functions: at `/debug/cluster`, `/metrics` and by `unifaas versions`.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use serde::Serialize;
use unifaas_actors::cluster::{
    BlobId, FailedVersion, Listed, LocalVersions, PublishedVersion, RolloutStep, Trial, next_step, place_of,
};

use super::{Functions, lock};

/// What a node knows of published functions, and has of them.
#[derive(Debug, Serialize)]
pub struct FunctionsReport {
    /// Why the catalogue is not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Bytes that were fetched from other nodes, and served to them.
    pub fetched_bytes: u64,
    pub served_bytes: u64,
    /// Blobs that were refused, as their content was another.
    pub damaged_blobs: u64,
    pub functions: BTreeMap<String, FunctionVersions>,
}

/// The versions of a function.
#[derive(Debug, Serialize)]
pub struct FunctionVersions {
    /// The state of the function on this node.
    pub state: VersionState,
    /// The version that this node serves, unless it is shadowed.
    pub serves: Option<BlobId>,
    pub revision: u64,
    pub wanted: Option<BlobId>,
    pub before: Option<BlobId>,
    pub trial: Option<Trial>,
    /// This node takes part in a trial of more percent than that.
    pub place: u8,
    /// The listed versions, the last one first.
    pub versions: Vec<ListedVersion>,
    /// Versions that have failed here.
    pub failed: BTreeMap<BlobId, FailedVersion>,
    /// Why this node has not what it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How a function on this node is to the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// It is as the catalogue says.
    Current,
    /// Another version is to be served.
    Behind,
    /// A wanted version has failed here.
    Failed,
    /// The registry has a function of that name.
    Shadowed,
    /// It was removed.
    Removed,
    /// The catalogue has not been read since the start, or does not have it.
    Unlisted,
}

/// A listed version.
#[derive(Debug, Serialize)]
pub struct ListedVersion {
    #[serde(flatten)]
    pub version: PublishedVersion,
    /// Whether this node has its files.
    pub is_held: bool,
}

impl VersionState {
    pub const ALL: [Self; 6] =
        [Self::Current, Self::Behind, Self::Failed, Self::Shadowed, Self::Removed, Self::Unlisted];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Failed => "failed",
            Self::Shadowed => "shadowed",
            Self::Removed => "removed",
            Self::Unlisted => "unlisted",
        }
    }
}

impl Functions {
    /// Reports all functions.
    pub fn report(&self) -> FunctionsReport {
        let catalogue = self.catalogue.load_full();
        let mut names: Vec<_> = catalogue.iter().map(|(name, _)| name.to_string()).collect();
        names.extend(self.store.functions().into_iter().filter(|name| catalogue.get(name).is_none()));
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        FunctionsReport {
            trouble: lock(&self.trouble).clone(),
            fetched_bytes: counter(&self.counters.fetched),
            served_bytes: counter(&self.counters.served),
            damaged_blobs: counter(&self.counters.damaged),
            functions: names
                .into_iter()
                .map(|name| (name.clone(), self.versions(&name, catalogue.get(&name))))
                .collect(),
        }
    }

    /// Reports a function, if it is published.
    pub fn report_of(&self, function: &str) -> Option<FunctionVersions> {
        let catalogue = self.catalogue.load_full();
        let listed = catalogue.get(function);
        let is_known = listed.is_some() || self.store.local(function).current.is_some();
        is_known.then(|| self.versions(function, listed))
    }

    fn versions(&self, function: &str, listed: Option<&Listed>) -> FunctionVersions {
        let (local, place) = (self.store.local(function), place_of(self.node, function));
        let publication = listed.and_then(|listed| listed.publication.as_ref());
        let versions = publication.map(|publication| publication.versions.clone()).unwrap_or_default();
        let with_state =
            |version: PublishedVersion| ListedVersion { is_held: local.held.contains(&version.version), version };
        FunctionVersions {
            state: self.state(function, listed, place, &local),
            serves: local.current,
            revision: listed.map_or(0, |listed| listed.revision),
            wanted: publication.map(|publication| publication.wanted),
            before: publication.and_then(|publication| publication.before),
            trial: publication.and_then(|publication| publication.trial),
            place,
            versions: versions.into_iter().map(with_state).collect(),
            failed: local.failed.clone(),
            problem: lock(&self.problems).get(&Arc::from(function)).cloned(),
        }
    }

    fn state(&self, function: &str, listed: Option<&Listed>, place: u8, local: &LocalVersions) -> VersionState {
        let Some(listed) = listed else { return VersionState::Unlisted };
        let Some(publication) = &listed.publication else { return VersionState::Removed };
        match next_step(Some(publication), place, local) {
            _ if self.is_shadowed(function) => VersionState::Shadowed,
            _ if !local.failed.is_empty() => VersionState::Failed,
            RolloutStep::Rest => VersionState::Current,
            RolloutStep::Fetch(_) | RolloutStep::Switch(_) | RolloutStep::Forget => VersionState::Behind,
        }
    }
}
