//! Who this node is: the random number of its state directory, the run of its daemon, and its key.
//!
//! They are in the state directory itself, not in that of a further life: the daemon after an upgrade is the same node.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use unifaas_actors::cluster::{Epoch, NodeId, PublicKey};

use crate::state::{self, StateError, file};

/// The number of runs so far.
const RUNS: &str = "cluster-runs";
/// An Ed25519 key as PKCS#8.
const KEY: &str = "peer-key";
/// Largest of these files.
const MAX_FILE: u64 = 1024;

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Identity {
    pub node: NodeId,
    pub epoch: Epoch,
    pub public: PublicKey,
}

/// A file of the identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no Ed25519 key in PKCS#8; removed, it is made anew, and other nodes learn the new one", path.display())]
    Key { path: PathBuf },
    #[error("no random numbers can be had for a key")]
    NoRandomness,
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
        let path = base.join(KEY);
        let private = match read(&path).map_err(at(&path))? {
            Some(key) => key,
            None => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                let made = made.map_err(|_| IdentityError::NoRandomness)?.as_ref().to_vec();
                file::replace(&path, &made).map_err(at(&path))?;
                made
            }
        };
        let pair = Ed25519KeyPair::from_pkcs8(&private).map_err(|_| IdentityError::Key { path: path.clone() })?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| IdentityError::Key { path })?;
        Ok(Self { node, epoch: Epoch::new(runs, rand::random()), public: PublicKey(public) })
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
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn identity_stays_and_runs_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| Identity::open(directory.path()).unwrap());
        assert_eq!((first.node, first.public), (second.node, second.public));
        assert!(second.epoch > first.epoch);
        let mode = fs::metadata(directory.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn broken_key_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(KEY), "no key").unwrap();
        let error = Identity::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("peer-key is no Ed25519 key"), "{error}");
    }
}
