//! The published functions and their versions, as all nodes are to have them. Its one place is the NATS server of the site; a
//! node keeps what it has last read.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::blob_id::BlobId;

/// Versions of a function that stay listed, besides those in use.
const MAX_VERSIONS: usize = 10;

/// A function that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Its versions, the newest first.
    pub versions: Vec<PublishedVersion>,
    /// The version that nodes serve.
    pub wanted: BlobId,
    /// The version that they served before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BlobId>,
    /// A version that only some nodes serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// A version that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedVersion {
    /// The id of its manifest.
    pub version: BlobId,
    /// The bytes of its files.
    pub bytes: u64,
    /// When it was published, by the clock of the node that did.
    pub at: String,
}

/// A version that a share of the nodes serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which one.
    pub version: BlobId,
    /// The share.
    pub percent: u8,
}

/// Why a function cannot be rolled out or back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// No version begins like that.
    #[error("no listed version begins with {0:?}")]
    NoSuchVersion(String),
    /// Several versions do.
    #[error("several versions begin with {0:?}")]
    Ambiguous(String),
    /// There is nothing to go back to.
    #[error("there is no version before")]
    NoVersionBefore,
}

impl Publication {
    /// Makes the publication of a function with its first version, which all nodes serve.
    pub fn first(version: PublishedVersion) -> Self {
        Self { wanted: version.version, versions: vec![version], before: None, trial: None }
    }

    /// Adds a version, and rolls it out to a share of the nodes.
    pub fn add(&mut self, version: PublishedVersion, percent: u8) {
        let id = version.version;
        self.versions.retain(|known| known.version != id);
        self.versions.insert(0, version);
        self.set_share(id, percent);
        let used = [Some(self.wanted), self.before, self.trial.map(|trial| trial.version)];
        let mut index = 0;
        self.versions.retain(|known| {
            index += 1;
            index <= MAX_VERSIONS || used.contains(&Some(known.version))
        });
    }

    /// Has a share of the nodes serve a listed version.
    ///
    /// # Errors
    /// There is no such version, or there are several.
    pub fn roll_out(&mut self, version: &str, percent: u8) -> Result<BlobId, RolloutError> {
        let version = self.find(version)?;
        self.set_share(version, percent);
        Ok(version)
    }

    /// Ends a trial, or else goes back to the version before. Returns the version that nodes serve then.
    ///
    /// # Errors
    /// There was none.
    pub fn roll_back(&mut self) -> Result<BlobId, RolloutError> {
        if self.trial.take().is_none() {
            let before = self.before.ok_or(RolloutError::NoVersionBefore)?;
            self.before = Some(std::mem::replace(&mut self.wanted, before));
        }
        Ok(self.wanted)
    }

    /// Whether a version is listed.
    pub fn lists(&self, version: &BlobId) -> bool {
        self.versions.iter().any(|known| known.version == *version)
    }

    fn set_share(&mut self, version: BlobId, percent: u8) {
        self.trial = None;
        if version == self.wanted {
            return;
        }
        if percent >= 100 {
            self.before = Some(std::mem::replace(&mut self.wanted, version));
        } else {
            self.trial = Some(Trial { version, percent });
        }
    }

    /// Returns the version that begins with these digits.
    fn find(&self, digits: &str) -> Result<BlobId, RolloutError> {
        let mut found = self.versions.iter().filter(|known| known.version.to_string().starts_with(digits));
        match (found.next(), found.next()) {
            (Some(only), None) if !digits.is_empty() => Ok(only.version),
            (Some(_), _) => Err(RolloutError::Ambiguous(digits.to_owned())),
            (None, _) => Err(RolloutError::NoSuchVersion(digits.to_owned())),
        }
    }
}

/// What a node has read of all publications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue(BTreeMap<Arc<str>, Listed>);

/// What was last read of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its revision, which the next change has to name.
    pub revision: u64,
    /// `None`: the function was removed.
    pub publication: Option<Publication>,
}

impl Catalogue {
    /// Returns what is known of a function.
    pub fn get(&self, function: &str) -> Option<&Listed> {
        self.0.get(function)
    }

    /// Returns the revision that the next change of a function has to name.
    pub fn revision(&self, function: &str) -> u64 {
        self.get(function).map_or(0, |listed| listed.revision)
    }

    /// Returns a function that is published.
    pub fn publication(&self, function: &str) -> Option<&Publication> {
        self.get(function)?.publication.as_ref()
    }

    /// Returns all that is known.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Listed)> {
        self.0.iter()
    }

    /// Notes what was read. An older revision than the known one comes late, unless the server has `begun_anew`.
    pub fn note(&mut self, function: Arc<str>, listed: Listed, begun_anew: bool) {
        if begun_anew || listed.revision >= self.revision(&function) {
            self.0.insert(function, listed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> BlobId {
        BlobId::of(&[number])
    }

    fn version(number: u8) -> PublishedVersion {
        PublishedVersion { version: id(number), bytes: 1, at: "2026-11-30T00:00:00Z".to_owned() }
    }

    #[test]
    fn version_is_tried_by_some_nodes_and_then_served_by_all() {
        let mut publication = Publication::first(version(1));
        publication.add(version(2), 10);
        assert_eq!((publication.wanted, publication.trial), (id(1), Some(Trial { version: id(2), percent: 10 })));
        let digits = id(2).short();
        assert_eq!(publication.roll_out(&digits, 100), Ok(id(2)));
        assert_eq!((publication.wanted, publication.before, publication.trial), (id(2), Some(id(1)), None));
        assert_eq!(publication.roll_out("xyz", 1), Err(RolloutError::NoSuchVersion("xyz".to_owned())));
        assert_eq!(publication.roll_out("", 1), Err(RolloutError::Ambiguous(String::new())));
    }

    #[test]
    fn rollback_ends_a_trial_or_swaps_the_last_two_versions() {
        let mut publication = Publication::first(version(1));
        assert_eq!(publication.roll_back(), Err(RolloutError::NoVersionBefore));
        publication.add(version(2), 100);
        publication.add(version(3), 50);
        assert_eq!((publication.roll_back(), publication.trial), (Ok(id(2)), None));
        assert_eq!(publication.roll_back(), Ok(id(1)));
        assert_eq!(publication.roll_back(), Ok(id(2)));
    }

    #[test]
    fn last_ten_versions_stay_and_those_in_use() {
        let mut publication = Publication::first(version(0));
        (1..=20).for_each(|number| publication.add(version(number), 1));
        assert_eq!(publication.versions.len(), MAX_VERSIONS + 1);
        assert!(publication.lists(&id(0)) && publication.lists(&id(11)) && !publication.lists(&id(10)));
        publication.add(version(11), 1);
        assert_eq!(publication.versions[0].version, id(11), "the same again is not listed twice");
        assert_eq!(publication.versions.len(), MAX_VERSIONS + 1);
    }

    #[test]
    fn late_news_of_a_function_does_not_count() {
        let mut catalogue = Catalogue::default();
        let listed = |revision, number| Listed { revision, publication: Some(Publication::first(version(number))) };
        catalogue.note("f".into(), listed(5, 1), false);
        catalogue.note("f".into(), listed(4, 2), false);
        assert_eq!(catalogue.publication("f").map(|it| it.wanted), Some(id(1)));
        catalogue.note("f".into(), listed(1, 2), true);
        assert_eq!((catalogue.publication("f").map(|it| it.wanted), catalogue.revision("f")), (Some(id(2)), 1));
        catalogue.note("f".into(), Listed { revision: 2, publication: None }, false);
        assert_eq!((catalogue.publication("f"), catalogue.revision("f")), (None, 2));
    }
}
