//! Connections of a node with itself, over loopback.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use slog::{Discard, o};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{HandshakeKind, pki_types::ServerName},
};
use unifaas_actors::{
    AdmissionActor, HostLimits,
    cluster::{ClusterActor, Epoch, NodeId, NodeSettings},
};

use super::*;

/// Connections of each kind.
const COUNT: usize = 20;

/// Makes the TLS of a node that knows its own key.
fn tls(base: &std::path::Path) -> (PeerTls, PublicKey) {
    let log = Logger::root(Discard, o!());
    let key = NodeKey::open(base).unwrap();
    let public = key.public;
    let settings = NodeSettings {
        node: NodeId(1),
        epoch: Epoch::new(1, 0),
        name: "n".into(),
        site: "s".into(),
        address: "127.0.0.1:1".into(),
        key: Some(public),
        known_keys: vec![(NodeId(2), public)],
        labels: BTreeMap::new(),
    };
    let admission = AdmissionActor::launch(HostLimits { memory: 1, process_starts: 1, starts: 1 });
    let cluster = ClusterActor::launch(settings, Arc::default(), admission, log.clone());
    (PeerTls::new(key, cluster, log).unwrap(), public)
}

/// Connects with these sessions. Returns the kind and the time of the handshake, and the key that the listener is shown.
async fn connected(tls: &PeerTls, client: Arc<ClientConfig>) -> (HandshakeKind, Duration, PublicKey) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (tcp, from) = listener.accept().await.unwrap();
        let (mut stream, shown) = tls.accept(tcp, from.ip()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        (stream, shown)
    };
    let connect = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let since = Instant::now();
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let mut stream = TlsConnector::from(client).connect(name, tcp).await.unwrap();
        let took = since.elapsed();
        // What resumes the session comes after the handshake.
        stream.read_exact(&mut [0]).await.unwrap();
        (stream.get_ref().1.handshake_kind().unwrap(), took)
    };
    let ((_, shown), (kind, took)) = tokio::join!(accept, connect);
    (kind, took, shown)
}

#[actix::test]
async fn later_connections_resume_the_session_of_the_first_one() {
    let base = tempfile::tempdir().unwrap();
    let (tls, public) = tls(base.path());
    let known = tls.client(public).unwrap();
    connected(&tls, known.clone()).await;
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..COUNT {
        let expected = [HandshakeKind::Full, HandshakeKind::Resumed];
        let clients = [tls.client(public).unwrap(), known.clone()];
        for ((client, expected), times) in clients.into_iter().zip(expected).zip(&mut times) {
            let (kind, took, shown) = connected(&tls, client).await;
            assert_eq!((kind, shown), (expected, public), "the key is also known of a resumed session");
            times.push(took);
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    eprintln!("medians: a full handshake {:?}, a resumed one {:?}", times[0][COUNT / 2], times[1][COUNT / 2]);
}
