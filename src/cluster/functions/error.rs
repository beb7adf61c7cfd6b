//! Why a function cannot be published, kept or fetched.

use std::{io, path::PathBuf};

use unifaas_actors::cluster::{BlobId, ManifestError, RolloutError};

/// Why files cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is left half-done: the version before is as it was.
    #[error("cannot write below {}: {source}", directory.display())]
    Disk { directory: PathBuf, source: io::Error },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("content is not that of blob {expected}: it is {found}")]
    Damaged { expected: BlobId, found: BlobId },
    #[error("a file has more bytes than its manifest says")]
    TooLong,
    #[error("the content ends before the last file")]
    TooShort,
}

/// Why the files of a version were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// With what the last node has said.
    #[error("no node has given blob {blob}: {last}")]
    NoSource { blob: String, last: String },
}

/// Why a request about published functions fails.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("this daemon runs without --cluster, so there are no nodes to publish to")]
    NoCluster,
    #[error("publishing is for root and the user of the daemon: what is published runs on all nodes")]
    NotAllowed,
    /// The NATS server is not connected, has no JetStream, or refuses.
    #[error("the catalogue of functions cannot be changed: {0}")]
    Unavailable(String),
    #[error(
        "{0:?} was changed by another command at the same time, and not by this one: see `unifaas versions`, and repeat it"
    )]
    Conflict(String),
    #[error("{0:?} is not published")]
    NotPublished(String),
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// What came is no function.
    #[error("it cannot be published: {0}")]
    Refused(String),
    /// It cannot be kept here.
    #[error(transparent)]
    Store(Box<StoreError>),
}

impl From<StoreError> for PublishError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Disk { .. } => Self::Store(Box::new(error)),
            refused => Self::Refused(refused.to_string()),
        }
    }
}
