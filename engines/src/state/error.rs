//! Why a state directory cannot be used, or a resource not be recorded.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::Uid;
use unifaas_actors::sandbox::LaunchError;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon holds the lock.
    #[error("the state directory {} is in use by another daemon{}", path.display(), pid(*.holder))]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The PID of the other daemon, if it is known.
        holder: Option<i32>,
    },
    /// Another user than the daemon's owns the directory.
    #[error("the state directory {path} belongs to user {owner}, and the daemon runs as user {own}: its owner could make \
        the daemon end anything. Give it to the daemon (chown {own} {path}), or name another one with --state-dir",
        path = path.display())]
    Foreign {
        /// The state directory.
        path: PathBuf,
        /// The user that owns it.
        owner: Uid,
        /// The user that the daemon runs as.
        own: Uid,
    },
    /// Every user may write to the directory.
    #[error("every user may write to the state directory {path} (mode {mode:04o}), and could make the daemon end anything. \
        Name a directory of the daemon's own with --state-dir, or forbid it if no other program needs this one \
        (chmod o-w {path})", path = path.display())]
    Public {
        /// The state directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// An operation of the file system failed.
    #[error("cannot use the state directory: {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

fn pid(holder: Option<i32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// Names the file of an error.
pub fn error(path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// Why a resource cannot be recorded, and so must not be created.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal cannot be written, so nothing can be started: {}: {source}", path.display())]
pub struct JournalError {
    pub(super) path: PathBuf,
    pub(super) source: Arc<io::Error>,
}

impl JournalError {
    /// Returns whether the disk, or a limit on it, is exhausted.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

impl From<JournalError> for LaunchError {
    fn from(error: JournalError) -> Self {
        // Neither is the function's fault.
        if error.is_full() { Self::Exhausted(error.to_string()) } else { Self::Missing(error.to_string()) }
    }
}

/// Returns whether an error says that the disk, or a limit on it, is exhausted.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_error_is_never_the_fault_of_a_function() {
        let launch_error = |kind: io::ErrorKind| {
            let error = JournalError { path: "/j".into(), source: Arc::new(kind.into()) };
            assert!(error.to_string().contains("/j"), "{error}");
            LaunchError::from(error)
        };
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(matches!(launch_error(full), LaunchError::Exhausted(_)));
        }
        assert!(matches!(launch_error(io::ErrorKind::ReadOnlyFilesystem), LaunchError::Missing(_)));
    }
}
