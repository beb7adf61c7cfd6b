//! Verifies the other side of a connection between nodes by the raw public key that it shows.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use unifaas_actors::cluster::{ClusterHandle, PublicKey};

use super::key::shown_key;

/// The key of the other side is not the one of a known node, or not that of the node.
pub fn unknown_key() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Compares the keys that the other side shows, and verifies that it has them.
pub struct KeyVerifier {
    provider: Arc<CryptoProvider>,
    expected: Expected,
}

/// The keys that are accepted.
pub enum Expected {
    One(PublicKey),
    /// Those of the known nodes.
    AnyOf(Arc<ClusterHandle>),
}

impl KeyVerifier {
    pub fn new(provider: Arc<CryptoProvider>, expected: Expected) -> Self {
        Self { provider, expected }
    }

    fn check_key(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let is_expected = shown_key(shown).is_some_and(|key| match &self.expected {
            Expected::One(expected) => key == *expected,
            Expected::AnyOf(cluster) => cluster.trusts(&key),
        });
        is_expected.then_some(()).ok_or_else(unknown_key)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }
}

impl fmt::Debug for KeyVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVerifier").finish_non_exhaustive()
    }
}

/// What both verifiers have in common.
macro_rules! verifies_raw_keys {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            shown: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify_signature(message, shown, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(shown).map(|()| ServerCertVerified::assertion())
    }

    verifies_raw_keys!();
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(shown).map(|()| ClientCertVerified::assertion())
    }

    verifies_raw_keys!();
}
