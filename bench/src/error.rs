//! Why a benchmark cannot start or go on.

use std::{io, path::PathBuf};

/// An error of the whole run. Failures of a function are samples instead.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Arguments that do not fit together, or nothing that can be measured.
    #[error("{0}")]
    Usage(String),
    /// The registry cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    /// The results cannot be written.
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, io::Error),
    /// A result file is not what this version writes.
    #[error("{}: {}", .0.display(), .1)]
    Format(PathBuf, String),
    /// The daemon does not start, or has ended.
    #[error("the daemon {0}")]
    Daemon(String),
    /// A signal ended the run.
    #[error("interrupted")]
    Interrupted,
    /// The system refused something that no measurement is possible without.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}
