//! TLS towards servers: receivers of results, and brokers of messages.

use std::{io, sync::Arc};

use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// Returns how TLS is spoken to servers that these certificates verify. Without any, those that this host trusts count.
///
/// # Errors
/// When there is no certificate.
pub fn client_config(certificates: &[CertificateDer<'static>]) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if certificates.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        roots.add_parsable_certificates(certificates.iter().cloned());
    }
    if roots.is_empty() {
        return Err(io::Error::other("this host has no certificates of authorities, see SSL_CERT_FILE"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
