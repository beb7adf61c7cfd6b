//! Opens a connection to a node, to see whether it accepts one and how far away it is.

use unifaas_actors::cluster::PeerView;

use super::{PeerTls, endpoint_of};

/// Returns whether the node accepts a connection, and with TLS the key of this one. Notes its round trip.
pub async fn probe(peer: &PeerView, tls: Option<&PeerTls>) -> bool {
    endpoint_of(peer, tls).try_connect().await.is_ok()
}
