//! Who this node is: the random number of its state directory, and the run of its daemon.
//!
//! They are in the state directory itself, not in that of a further life: the daemon after an upgrade is the same node.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use unifaas_actors::cluster::{Epoch, NodeId};

use crate::state::{self, StateError, file};

/// The number of runs so far.
const RUNS: &str = "cluster-runs";
/// Largest of these files.
const MAX_FILE: u64 = 1024;

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Identity {
    pub node: NodeId,
    pub epoch: Epoch,
}

/// A file of the identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl Identity {
    /// Reads the identity of a state directory, and makes what is missing. Counts a run.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(base: &Path) -> Result<Self, IdentityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { path, source }
        };
        let identity = state::identity_of(base)?;
        // It writes 16 hexadecimal digits.
        let node = identity.parse().unwrap_or(NodeId(0));
        let path = base.join(RUNS);
        let before = read(&path).map_err(at(&path))?;
        let before = before.and_then(|text| str::from_utf8(&text).ok()?.trim().parse::<u32>().ok());
        let runs = before.unwrap_or(0).saturating_add(1);
        file::replace(&path, format!("{runs}\n").as_bytes()).map_err(at(&path))?;
        Ok(Self { node, epoch: Epoch::new(runs, rand::random()) })
    }
}

/// Returns what is in a file, if there is one.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match file::open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => {
            let mut content = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut content)?;
            Ok(Some(content))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_stays_and_runs_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| Identity::open(directory.path()).unwrap());
        assert_eq!(first.node, second.node);
        assert!(second.epoch > first.epoch);
    }
}
