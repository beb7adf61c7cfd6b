//! The key of this node: Ed25519, in the state directory. Other nodes know this one by its public part.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};
use tokio_rustls::rustls::{
    crypto::ring::sign::any_eddsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use unifaas_actors::cluster::PublicKey;

use crate::state::file;

const KEY: &str = "cluster-key";
/// Largest file that is read.
const MAX_FILE: u64 = 4096;
/// What is before the key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key of this node.
#[derive(Debug, Clone)]
pub struct NodeKey {
    /// Proves to other nodes that this is the node.
    pub certified: Arc<CertifiedKey>,
    pub public: PublicKey,
}

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use the key of this node, {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("other users may read the key of this node, {} (mode {mode:03o}): its mode has to be 600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is no Ed25519 key in PEM: without the file, the node gets a new key", .0.display())]
    Malformed(PathBuf),
    #[error("the host has no random numbers for the key of this node")]
    Random,
}

impl NodeKey {
    /// Reads the key of a state directory. Makes one if there is none.
    ///
    /// # Errors
    /// When it cannot be read or written, is no key, or is not secret.
    pub fn open(base: &Path) -> Result<Self, KeyError> {
        let path = base.join(KEY);
        let at = |source| KeyError::File { path: path.clone(), source };
        let pem = match file::open_regular(&path, OpenOptions::new().read(true)) {
            Ok(file) => {
                let mode = file.metadata().map_err(at)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Exposed { path, mode });
                }
                let mut pem = Vec::new();
                file.take(MAX_FILE).read_to_end(&mut pem).map_err(at)?;
                pem
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pem = new_pem()?.into_bytes();
                file::replace(&path, &pem).map_err(at)?;
                pem
            }
            Err(error) => return Err(at(error)),
        };
        Self::from_pem(&pem).ok_or(KeyError::Malformed(path))
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let signer = any_eddsa_type(&PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?).ok()?;
        let spki = signer.public_key()?.into_owned();
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki.to_vec())], signer);
        Some(Self { certified: Arc::new(certified), public: public_key(&spki)? })
    }
}

/// Returns the Ed25519 key of a `SubjectPublicKeyInfo`.
fn public_key(spki: &SubjectPublicKeyInfoDer<'_>) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(PublicKey)
}

/// Returns the key that a node shows in a handshake, in place of a certificate.
pub fn shown_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    public_key(&SubjectPublicKeyInfoDer::from(certificate.as_ref()))
}

fn new_pem() -> Result<String, KeyError> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    let text = BASE64_STANDARD.encode(pkcs8);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn key_stays_and_is_read_by_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| NodeKey::open(directory.path()).unwrap());
        assert_eq!(first.public, second.public);
        assert_eq!(shown_key(&first.certified.cert[0]), Some(first.public));
        let path = directory.path().join(KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("cluster-key (mode 640)"), "{error}");
        fs::remove_file(&path).unwrap();
        assert_ne!(NodeKey::open(directory.path()).unwrap().public, first.public);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY);
        for content in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            file::replace(&path, content.as_bytes()).unwrap();
            let error = NodeKey::open(directory.path()).unwrap_err();
            assert!(matches!(&error, KeyError::Malformed(at) if *at == path), "{error}");
        }
    }
}
