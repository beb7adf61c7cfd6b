//! The keys of the other nodes in the state directory: a daemon that is started or upgraded serves them before it has heard
//! their next heartbeats.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Read as _},
    path::Path,
};

use unifaas_actors::cluster::{NodeId, PublicKey};

use crate::state::file;

const FILE: &str = "cluster-peers";
/// Largest file that is read: the keys of some thousand nodes.
const MAX_FILE: u64 = 256 * 1024;

/// Returns the keys that a daemon before has kept. A file that is damaged has none.
pub fn read(base: &Path) -> Vec<(NodeId, PublicKey)> {
    let read = || {
        let mut content = Vec::new();
        let file = file::open_regular(&base.join(FILE), OpenOptions::new().read(true))?;
        file.take(MAX_FILE).read_to_end(&mut content)?;
        io::Result::Ok(content)
    };
    let keys = read().ok().and_then(|content| serde_json::from_slice::<BTreeMap<_, _>>(&content).ok());
    keys.unwrap_or_default().into_iter().collect()
}

/// Keeps keys.
///
/// # Errors
/// When the file cannot be written.
#[cfg(feature = "cluster")]
pub fn write(base: &Path, keys: &unifaas_actors::cluster::TrustedKeys) -> io::Result<()> {
    let keys: BTreeMap<_, _> = keys.iter().map(|(key, node)| (node, key)).collect();
    file::replace(&base.join(FILE), &serde_json::to_vec(&keys)?)
}

#[cfg(all(test, feature = "cluster"))]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), []);
        let key = (PublicKey([7; 32]), NodeId(3));
        write(directory.path(), &[key].into_iter().collect()).unwrap();
        assert_eq!(read(directory.path()), [(key.1, key.0)]);
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(read(directory.path()), []);
    }
}
