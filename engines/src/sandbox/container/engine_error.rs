//! Why a call to the container engine failed.

use std::time::Duration;

use bollard::errors::Error;
use unifaas_actors::sandbox::LaunchError;

/// Why a call to the container engine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No engine listens there, or the connection was lost during the call.
    #[error("the container engine at {host} cannot be reached: {why}")]
    Absent { host: String, why: String },
    /// The engine accepts connections and does not answer.
    #[error("the container engine at {host} did not answer within {} s ({call})", limit.as_secs())]
    TimedOut { host: String, call: &'static str, limit: Duration },
    /// An error response, with the engine's message.
    #[error("the container engine refused: {words}")]
    Refused { status: u16, words: String },
    /// The response is not one of a known engine.
    #[error("the container engine's answer was not understood: {0}")]
    Unexpected(String),
}

impl EngineError {
    /// Translates what bollard says of a call to the engine at `host`.
    pub fn of(error: &Error, host: &str) -> Self {
        let absent = |why: String| Self::Absent { host: host.to_owned(), why };
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: *status_code, words: message.trim().to_owned() }
            }
            Error::DockerStreamError { error } => Self::Refused { status: 500, words: error.trim().to_owned() },
            Error::SocketNotFoundError(path) => absent(format!("there is no socket {path}")),
            Error::UnsupportedURISchemeError { .. } => {
                Self::Unexpected("DOCKER_HOST must start with unix://, tcp:// or http://".to_owned())
            }
            Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
                absent(innermost(error))
            }
            other => Self::Unexpected(other.to_string()),
        }
    }

    /// Returns whether the engine does not know the object of the call.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Returns whether the object of the call is busy, or already in the wanted state.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl From<EngineError> for LaunchError {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Absent { .. } => LaunchError::Missing(error.to_string()),
            // The words of Docker and Podman when a network has no free address.
            EngineError::Refused { words, .. }
                if words.contains("no available IP") || words.contains("no available ip") =>
            {
                LaunchError::Exhausted(error.to_string())
            }
            _ => LaunchError::Refused(error.to_string()),
        }
    }
}

/// Returns the first cause: the errors around it only say that something failed.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_without_free_addresses_is_exhaustion() {
        let words =
            "failed to set up container networking: no available IPv4 addresses on this network's address pools";
        let full = EngineError::Refused { status: 403, words: words.to_owned() };
        assert!(matches!(LaunchError::from(full), LaunchError::Exhausted(_)));
    }
}
