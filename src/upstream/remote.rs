//! What a connection leads to: an instance of this host, or another node, over TLS if both have keys.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, ClientConfig},
};
use tokio_util::either::Either;
use unifaas_actors::{
    Endpoint, InstanceId,
    cluster::{Contact, NodeId},
};

use super::tcp_info::round_trip;
use crate::host::keep_alive::KeepAlive;

/// How long another node may take to accept a connection.
const NODE_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long its TLS handshake may take, which its program has to answer.
const NODE_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A machine that was started again answers these with a reset.
const TCP_KEEPALIVE: KeepAlive = KeepAlive { idle: 5, interval: 5, count: 2 };

/// TCP, or TLS over TCP.
pub type NodeStream<S> = Either<S, Box<TlsStream<S>>>;

/// What a connection leads to.
#[derive(Debug, Clone)]
pub enum Remote {
    Instance(Arc<Endpoint>),
    Node(Arc<NodeEndpoint>),
}

/// What connections are pooled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemoteId {
    Instance(InstanceId),
    Node(NodeId),
}

/// Where another node is reached, as one of its heartbeats has told.
pub struct NodeEndpoint {
    pub node: NodeId,
    pub address: Arc<str>,
    pub contact: Arc<Contact>,
    tls: Option<Arc<ClientConfig>>,
    is_gone: AtomicBool,
    gone: Notify,
}

impl NodeEndpoint {
    /// Makes the endpoint of a node without a connection. `tls`: protects its connections.
    pub fn new(node: NodeId, address: Arc<str>, contact: Arc<Contact>, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { node, address, contact, tls, is_gone: AtomicBool::new(false), gone: Notify::new() }
    }

    /// Ends the connections: the node is not known any more, or is reached elsewhere.
    pub fn set_gone(&self) {
        self.is_gone.store(true, Relaxed);
        self.gone.notify_waiters();
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    async fn gone(&self) {
        let gone = self.gone.notified();
        if !self.is_gone() {
            gone.await;
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What the system says, or `TimedOut`.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let opened = timeout(NODE_CONNECT_TIMEOUT, TcpStream::connect(&*self.address)).await;
        let stream = opened.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        TCP_KEEPALIVE.set(&stream)?;
        if let Some(rtt) = round_trip(&stream) {
            self.contact.set_rtt(rtt);
        }
        Ok(stream)
    }

    /// Shakes hands on a new connection, if connections are protected, and waits until the node has accepted the key of this
    /// one: its session tickets are the first that it sends then.
    ///
    /// # Errors
    /// The node has another key, does not know this one, or does not answer.
    pub async fn secure<S>(&self, stream: S) -> io::Result<NodeStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(config) = &self.tls else { return Ok(Either::Left(stream)) };
        let handshake = async {
            // The key is what counts; the name is not sent.
            let name = Ipv4Addr::UNSPECIFIED.into();
            let mut stream = Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?);
            accepted(&mut stream).await?;
            Ok(Either::Right(stream))
        };
        timeout(NODE_HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Opens a connection, and closes it.
    ///
    /// # Errors
    /// The node cannot be reached, or not with the key of this one.
    #[cfg(feature = "cluster")]
    pub async fn try_connect(&self) -> io::Result<()> {
        self.secure(self.connect().await?).await.map(drop)
    }
}

impl fmt::Debug for NodeEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEndpoint").field("node", &self.node).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Waits for a session ticket, which comes before anything else.
async fn accepted<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut TlsStream<S>) -> io::Result<()> {
    let mut byte = [0; 1];
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
        match (read, buffer.filled().len()) {
            (Poll::Pending, _) if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
            (Poll::Pending, _) => Poll::Pending,
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), 0) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            (Poll::Ready(Ok(())), _) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
    })
    .await
}

/// Whether a node has accepted a connection and ended it before it said anything about the key of this one.
pub fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Whether a node has refused the key of this one.
pub fn is_key_refused(error: &io::Error) -> bool {
    let reason = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(reason, Some(rustls::Error::AlertReceived(_)))
}

impl From<&Arc<Endpoint>> for Remote {
    fn from(endpoint: &Arc<Endpoint>) -> Self {
        Self::Instance(endpoint.clone())
    }
}

impl Remote {
    pub fn id(&self) -> RemoteId {
        match self {
            Self::Instance(endpoint) => RemoteId::Instance(endpoint.instance),
            Self::Node(node) => RemoteId::Node(node.node),
        }
    }

    /// Returns how many connections it may have.
    pub fn max_connections(&self) -> usize {
        match self {
            Self::Instance(endpoint) => endpoint.spec.concurrent_requests.get(),
            Self::Node(_) => usize::MAX,
        }
    }

    /// Returns how many connections a request may open, one after the other: the first one to a node may have been accepted by
    /// a daemon that has left to another one since.
    pub fn max_openings(&self) -> u32 {
        match self {
            Self::Instance(_) => 1,
            Self::Node(_) => 2,
        }
    }

    /// Whether it takes further requests.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Instance(endpoint) => endpoint.is_live(),
            Self::Node(node) => !node.is_gone(),
        }
    }

    /// Whether it serves one request only.
    pub fn is_single_use(&self) -> bool {
        match self {
            Self::Instance(endpoint) => endpoint.spec.single_use,
            Self::Node(_) => false,
        }
    }

    /// Whether it sends nothing any more.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Instance(endpoint) => endpoint.has_ended(),
            Self::Node(node) => node.is_gone(),
        }
    }

    /// Resolves once it sends nothing any more.
    pub async fn ended(&self) {
        match self {
            Self::Instance(endpoint) => endpoint.ended().await,
            Self::Node(node) => node.gone().await,
        }
    }
}
