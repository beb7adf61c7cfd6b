//! TLS 1.3 between nodes, with raw public keys (RFC 7250) on both sides: a node is who has its key.
//!
//! Which key another node has, its heartbeats tell. A session that is resumed does not show the key again, so the listener
//! compares it for every connection, and for every request.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;
use slog::{Logger, warn};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, Error, ServerConfig,
        client::{AlwaysResolvesClientRawPublicKeys, Resumption},
        crypto::{CryptoProvider, ring},
        server::AlwaysResolvesServerRawPublicKeys,
        version::TLS13,
    },
    server::TlsStream,
};
use unifaas_actors::cluster::{ClusterHandle, PublicKey};

use super::{
    key::{NodeKey, shown_key},
    key_verifier::{Expected, KeyVerifier, unknown_key},
};
use crate::log::LogThrottle;

/// Sessions with one node that are kept to be resumed.
const SESSIONS: usize = 32;

/// TLS of the connections from and to other nodes.
#[derive(Clone)]
pub struct PeerTls(Arc<Inner>);

struct Inner {
    key: NodeKey,
    provider: Arc<CryptoProvider>,
    acceptor: TlsAcceptor,
    cluster: Arc<ClusterHandle>,
    refused: Mutex<Option<RefusedPeer>>,
    unknown_keys: AtomicU64,
    without_tls: AtomicU64,
    throttle: LogThrottle,
    log: Logger,
}

/// Connections that the peer listener has refused.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RefusedPeers {
    /// Connections of nodes whose keys are not known.
    pub unknown_keys: u64,
    /// Connections without a TLS handshake that ends.
    pub without_tls: u64,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<RefusedPeer>,
}

/// A connection that was refused.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedPeer {
    pub from: IpAddr,
    pub why: String,
}

impl PeerTls {
    /// Makes the TLS of a node with a key.
    ///
    /// # Errors
    /// Never with the versions and algorithms that are used.
    pub fn new(key: NodeKey, cluster: Arc<ClusterHandle>, log: Logger) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = KeyVerifier::new(provider.clone(), Expected::AnyOf(cluster.clone()));
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key.certified.clone())));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (refused, unknown_keys, without_tls, throttle) = Default::default();
        Ok(Self(Arc::new(Inner {
            key,
            provider,
            acceptor,
            cluster,
            refused,
            unknown_keys,
            without_tls,
            throttle,
            log,
        })))
    }

    /// Returns how connections to a node with that key are opened.
    ///
    /// # Errors
    /// Never with the versions and algorithms that are used.
    pub fn client(&self, node: PublicKey) -> Result<Arc<ClientConfig>, Error> {
        let Inner { key, provider, .. } = &*self.0;
        let verifier = KeyVerifier::new(provider.clone(), Expected::One(node));
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key.certified.clone())));
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// Shakes hands with another node. Returns its key with the connection.
    ///
    /// # Errors
    /// What comes is no handshake, or no key of a known node.
    pub async fn accept(&self, tcp: TcpStream, from: IpAddr) -> io::Result<(TlsStream<TcpStream>, PublicKey)> {
        let accepted = self.0.acceptor.accept(tcp).await;
        accepted.and_then(|stream| self.with_key(stream)).inspect_err(|error| self.count_refused(from, error))
    }

    fn with_key(&self, stream: TlsStream<TcpStream>) -> io::Result<(TlsStream<TcpStream>, PublicKey)> {
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(shown_key);
        match shown.filter(|key| self.0.cluster.trusts(key)) {
            Some(key) => Ok((stream, key)),
            None => Err(io::Error::other(unknown_key())),
        }
    }

    fn count_refused(&self, from: IpAddr, error: &io::Error) {
        let Inner { refused, unknown_keys, without_tls, throttle, log, .. } = &*self.0;
        let reason = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let is_unknown = reason == Some(&unknown_key());
        let (counter, why) = match reason {
            Some(_) if is_unknown => (unknown_keys, "its key is not that of a known node".to_owned()),
            Some(reason) => (without_tls, reason.to_string()),
            None => (without_tls, error.to_string()),
        };
        counter.fetch_add(1, Relaxed);
        if let Some(times) = throttle.due() {
            warn!(log, "connection of another node refused"; "from" => %from, "why" => &why, "times" => times);
        }
        *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(RefusedPeer { from, why });
    }

    /// Returns the connections that were refused.
    pub fn refused(&self) -> RefusedPeers {
        let Inner { refused, unknown_keys, without_tls, .. } = &*self.0;
        let last = refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RefusedPeers { unknown_keys: unknown_keys.load(Relaxed), without_tls: without_tls.load(Relaxed), last }
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").field("key", &self.0.key.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
