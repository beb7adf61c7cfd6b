//! What a connection leads to: an instance of this host, or another node.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{net::TcpStream, sync::Notify, time::timeout};
use unifaas_actors::{
    Endpoint, InstanceId,
    cluster::{Contact, NodeId},
};

use super::tcp_info::round_trip;

/// How long another node may take to accept a connection.
const NODE_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

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
#[derive(Debug)]
pub struct NodeEndpoint {
    pub node: NodeId,
    pub address: Arc<str>,
    pub contact: Arc<Contact>,
    is_gone: AtomicBool,
    gone: Notify,
}

impl NodeEndpoint {
    pub fn new(node: NodeId, address: Arc<str>, contact: Arc<Contact>) -> Self {
        Self { node, address, contact, is_gone: AtomicBool::new(false), gone: Notify::new() }
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
        if let Some(rtt) = round_trip(&stream) {
            self.contact.set_rtt(rtt);
        }
        Ok(stream)
    }
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
