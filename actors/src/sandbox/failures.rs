//! How an instance exits, and why it could not be started, restored, paused, captured or reclaimed.

use std::fmt;

use crate::redact::Redactor;

/// How an instance exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxExit {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The kernel killed it because it exceeded its memory limit.
    OutOfMemory {
        /// The limit, in MiB.
        limit: u64,
    },
    /// The engine's own description.
    Other(String),
}

impl SandboxExit {
    /// Returns the exit with the instance's secrets redacted.
    pub fn redacted(self, redactor: &Redactor) -> Self {
        match self {
            Self::Other(text) => Self::Other(redactor.redact(text).into_owned()),
            other => other,
        }
    }
}

impl fmt::Display for SandboxExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxExit::Code(code) => write!(f, "exited with status {code}"),
            SandboxExit::Signal(signal) => {
                write!(f, "killed by signal {signal}")?;
                // Only signals whose name explains the failure.
                let name = match signal {
                    6 => "SIGABRT",
                    7 => "SIGBUS",
                    11 => "SIGSEGV",
                    24 => "SIGXCPU",
                    25 => "SIGXFSZ",
                    31 => "SIGSYS",
                    _ => return Ok(()),
                };
                write!(f, " ({name})")
            }
            SandboxExit::OutOfMemory { limit } => write!(f, "out of memory (limit {limit} MiB)"),
            SandboxExit::Other(text) => f.write_str(text),
        }
    }
}

/// Why an instance could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The host cannot run such a function: an engine, a device or a privilege is missing.
    #[error("{0}")]
    Missing(String),
    /// The host has nothing left of a resource that each instance needs.
    #[error("{0}")]
    Exhausted(String),
    /// The engine or the operating system returned this error.
    #[error("{0}")]
    Refused(String),
    /// There is a snapshot, and no clone could be restored from it.
    #[error(transparent)]
    NotRestored(#[from] RestoreError),
}

/// Why a clone could not be restored from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// An error was reported, or the clone has ended.
    #[error("{0}")]
    Failed(String),
    /// It took too long. Nothing has failed.
    #[error("{0}")]
    TimedOut(String),
}

impl LaunchError {
    /// Returns the error with the instance's secrets redacted.
    pub fn redacted(self, redactor: &Redactor) -> Self {
        let redact = |text: String| redactor.redact(text).into_owned();
        match self {
            Self::Missing(text) => Self::Missing(redact(text)),
            Self::Exhausted(text) => Self::Exhausted(redact(text)),
            Self::Refused(text) => Self::Refused(redact(text)),
            Self::NotRestored(RestoreError::Failed(text)) => RestoreError::Failed(redact(text)).into(),
            Self::NotRestored(RestoreError::TimedOut(text)) => RestoreError::TimedOut(redact(text)).into(),
        }
    }
}

/// Why an instance could not be paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// This kind of sandbox cannot be paused.
    #[error("this kind of sandbox cannot be paused")]
    Unsupported,
    /// The engine or the operating system returned this error.
    #[error("{0}")]
    Failed(String),
}

/// Why no snapshot could be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaptureError(pub String);

/// Why a resource could not be reclaimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not give back {what}: {why}")]
pub struct ReclaimError {
    /// The resource.
    pub what: String,
    /// The reason.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ReadyToken;

    #[test]
    fn exits_and_errors_redact_the_engine_s_text_only() {
        let env = [("KEY".to_owned(), "hunter2".to_owned())].into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let redactor = Redactor::new(ReadyToken::random(), &env.into());
        let exit = SandboxExit::Other("killed: hunter2".to_owned()).redacted(&redactor);
        assert_eq!(exit, SandboxExit::Other("killed: ${KEY}".to_owned()));
        assert_eq!(SandboxExit::Code(7).redacted(&redactor), SandboxExit::Code(7));
        let error = LaunchError::Refused("no hunter2".to_owned()).redacted(&redactor);
        assert_eq!(error, LaunchError::Refused("no ${KEY}".to_owned()));
    }
}
