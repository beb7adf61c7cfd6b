//! Why a state directory cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state directory {} is in use by another daemon{}", path.display(), pid(*.holder))]
    InUse { path: PathBuf, holder: Option<i32> },
    #[error("the state directory {path} belongs to user {owner}, and the daemon runs as user {own}: its owner could make \
        the daemon end anything. Give it to the daemon (chown {own} {path}), or name another one with --state-dir",
        path = path.display())]
    Foreign { path: PathBuf, owner: Uid, own: Uid },
    #[error("every user may write to the state directory {path} (mode {mode:04o}), and could make the daemon end anything. \
        Name a directory of the daemon's own with --state-dir, or forbid it if no other program needs this one \
        (chmod o-w {path})", path = path.display())]
    Public { path: PathBuf, mode: u32 },
    #[error("cannot use the state directory: {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn pid(holder: Option<i32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// Names the file of an error.
pub fn error(path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}
