//! Opens a connection to a node, to see whether it accepts one and how far away it is.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};
use unifaas_actors::cluster::PeerView;

use crate::http::round_trip;

/// How long a node may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns whether the node accepts a connection. Notes its round trip.
pub async fn probe(peer: &PeerView) -> bool {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(&*peer.beat.address)).await {
        Ok(Ok(stream)) => {
            if let Some(rtt) = round_trip(&stream) {
                peer.contact.set_rtt(rtt);
            }
            true
        }
        Ok(Err(_)) | Err(_) => false,
    }
}
