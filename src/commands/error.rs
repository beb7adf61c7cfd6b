//! Why a command failed, and the exit status for it.

use std::{io, process::ExitCode};

use crate::config::ConfigError;

/// The exit status when the arguments or the settings are wrong, as clap has it.
pub const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The question has an answer, which is no. The text says why.
    #[error("{0}")]
    No(String),
    /// An argument is wrong in a way that only the command can see.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error(
        "no daemon answers at {url} ({origin}): {reason}\n\
         Start one with `unifaas --registry DIR` or `systemctl start unifaas`, or say where it is with --url or UNIFAAS_URL."
    )]
    NoDaemon {
        url: String,
        /// Which setting says so.
        origin: String,
        reason: String,
    },
    /// There is no such function or instance.
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    NotAllowed(String),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    fn status(&self) -> u8 {
        match self {
            Self::No(_) | Self::Output(_) => 1,
            Self::Usage(_) | Self::Settings(ConfigError::File(_) | ConfigError::Variable { .. }) => USAGE,
            Self::Settings(ConfigError::Usage(error)) => u8::try_from(error.exit_code()).unwrap_or(USAGE),
            Self::NoDaemon { .. } => 3,
            Self::NotFound(_) => 4,
            Self::NotAllowed(_) => 5,
        }
    }

    /// Prints the error to standard error, and returns the exit status.
    pub fn report(self) -> ExitCode {
        match &self {
            // The reader has all it wanted, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Settings(ConfigError::Usage(error)) => {
                // The reader may have gone.
                let _ = error.print();
            }
            error => super::terminal::words(&format!("unifaas: {error}")),
        }
        ExitCode::from(self.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_status() {
        let no_daemon =
            CommandError::NoDaemon { url: "http://h:1".into(), origin: "default".into(), reason: "refused".into() };
        assert!(no_daemon.to_string().starts_with("no daemon answers at http://h:1 (default): refused\nStart one"));
        for (error, status) in [
            (CommandError::No("".into()), 1),
            (CommandError::Usage("".into()), 2),
            (no_daemon, 3),
            (CommandError::NotFound("".into()), 4),
            (CommandError::NotAllowed("".into()), 5),
            (CommandError::Output(io::ErrorKind::StorageFull.into()), 1),
        ] {
            assert_eq!(error.status(), status, "{error:?}");
        }
    }
}
