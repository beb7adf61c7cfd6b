//! What can go wrong with an exchange.

use std::{error::Error as _, io};

/// Why an attempt came to no response.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// No connection could be opened.
    #[error("could not connect to the instance: {0}")]
    Connect(#[source] io::Error),
    /// The connection ended before the head of a response was complete.
    #[error("the instance broke the connection off {}", if *.heard { "in its response" } else { "before it responded" })]
    Broken {
        /// Whether any byte of the response had come.
        heard: bool,
        /// Whether the connection had been kept from an earlier request: its end is not the instance's failure then.
        reused: bool,
        /// Whether the instance provably read nothing of the request, or was ending when it came.
        retryable: bool,
        /// What the system said; nothing for an orderly end at the wrong place.
        #[source]
        source: Option<io::Error>,
    },
    /// The response is malformed.
    #[error(transparent)]
    Malformed(#[from] MalformedResponse),
    /// Another node refused the request and did nothing with it.
    #[error("the node refused the request ({code})")]
    Refused {
        /// Its `x-unifaas-error`.
        code: String,
        /// When to try again.
        retry_after: Option<std::time::Duration>,
    },
    /// The caller gave the request body up.
    #[error("the request body was not sent to its end")]
    UploadAborted,
}

impl AttemptError {
    /// Returns whether another node refused the request because its daemon ends.
    pub fn is_draining(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "draining")
    }

    /// Returns whether the request may be offered to another instance.
    pub fn is_retryable(&self) -> bool {
        match self {
            // What one instance is too busy to accept would be too much for the next one, too.
            Self::Connect(error) => error.kind() != io::ErrorKind::TimedOut,
            Self::Broken { retryable, .. } => *retryable,
            Self::Refused { .. } => true,
            Self::Malformed(_) | Self::UploadAborted => false,
        }
    }
}

/// Why a response body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended first.
    #[error("the instance broke the connection off in its response")]
    Broken(#[source] Option<io::Error>),
    /// The chunks are malformed.
    #[error(transparent)]
    Malformed(#[from] MalformedResponse),
}

/// How a response is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedResponse {
    /// The head cannot be parsed, or is too large.
    #[error("its response head is malformed ({0})")]
    Head(String),
    /// The head gives several body lengths, or none that is known.
    #[error("its response has no clear length")]
    Length,
    /// The chunked encoding is malformed.
    #[error("its chunked body is malformed")]
    Chunk,
    /// A `101` to a request without `Upgrade`.
    #[error("its response switches to another protocol, which was not requested")]
    UnaskedUpgrade,
}

impl MalformedResponse {
    /// Returns what is wrong with the head if that is why hyper failed.
    pub(super) fn of_head(error: &hyper::Error) -> Option<Self> {
        error.is_parse().then(|| Self::Head(error.to_string()))
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        let source = io_error(&error);
        // hyper's decoder reports bad chunks as these two, and an early end as others.
        match source.as_ref().map(io::Error::kind) {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => MalformedResponse::Chunk.into(),
            _ => Self::Broken(source.filter(|error| error.raw_os_error().is_some())),
        }
    }
}

/// Returns a copy of the system's error behind hyper's.
pub(super) fn io_error(error: &hyper::Error) -> Option<io::Error> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    Some(
        source
            .raw_os_error()
            .map_or_else(|| io::Error::new(source.kind(), source.to_string()), io::Error::from_raw_os_error),
    )
}
