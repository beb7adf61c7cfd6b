//! This node among others: its identity, its options and its link to them.
//!
//! What is decided is decided in `unifaas_actors::cluster`. Nothing of this runs without `--cluster`.
//!
//! | file | content |
//! | --- | --- |
//! | `settings.rs`, `servers.rs` | the options |
//! | `identity.rs`, `key.rs` | the node's id, run and key, in the state directory |
//! | `known_keys.rs` | the keys of other nodes, kept for the next daemon |
//! | `peer_tls.rs`, `key_verifier.rs` | TLS between nodes, by their keys |
//! | `link.rs`, `link_handle.rs`, `nats_client.rs` | the link to the other nodes, on NATS, and JetStream on its connection |
//! | `functions/` | published functions: their catalogue and their files |
//! | `denials.rs` | what the NATS server does not let this node do |
//! | `subjects.rs` | the subjects of its messages |
//! | `probe.rs` | whether a node accepts connections |

#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "nothing is asked for"))]
mod denials;
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "nothing is published"))]
mod functions;
mod identity;
mod key;
mod key_verifier;
mod known_keys;
#[cfg(feature = "cluster")]
mod link;
#[cfg(feature = "cluster")]
mod link_handle;
#[cfg(feature = "cluster")]
mod nats_client;
mod options;
mod peer_tls;
#[cfg(feature = "cluster")]
mod probe;
mod servers;
mod settings;
#[cfg(feature = "cluster")]
mod subjects;
#[cfg(not(feature = "cluster"))]
mod without_link;

#[cfg(feature = "cluster")]
use std::collections::BTreeMap;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use actix::{Addr, Recipient};
use actix_http::header::HeaderValue;
use slog::{Logger, o, warn};
use tokio_rustls::rustls;
use unifaas_actors::{
    AdmissionActor, Directory, FilesChanged, Roots,
    cluster::{ClusterActor, ClusterHandle, Epoch, Join, NodeId, NodeSettings, PeerView, StartDraining},
};

use crate::{broker::BrokerSettings, upstream::NodeEndpoint};
pub use denials::CountedDenial;
pub use functions::{
    ChangeKind, Changed, DIRECTORY as PUBLISHED, FunctionVersions, Functions, FunctionsReport, PublishError,
    StoreError, Upload, Uploaded, VersionState,
};
#[cfg(feature = "cluster")]
use functions::{Reconciler, Surroundings};
use identity::Identity;
pub use identity::IdentityError;
use key::{KeyError, NodeKey};
#[cfg(feature = "cluster")]
use link::Link;
#[cfg(feature = "cluster")]
pub use nats_client::NatsClient;
pub use options::ClusterArgs;
pub use peer_tls::{PeerTls, RefusedPeers};
pub use servers::NatsServers;
pub use settings::{NodeLabel, PeerAddress, PeerSecurity, Site, host_name};
#[cfg(not(feature = "cluster"))]
use without_link::Link;

/// What the link needs to know.
#[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "without NATS there is no link"))]
#[derive(Debug, Clone)]
pub struct LinkSettings {
    pub servers: NatsServers,
    /// How to log in at them, and how to verify them.
    pub login: BrokerSettings,
    pub site: Arc<str>,
    /// Other sites whose nodes may be asked for help.
    pub overflow: Vec<Arc<str>>,
    pub node: NodeId,
    pub epoch: Epoch,
    /// Where other nodes reach this one.
    pub address: Arc<str>,
    /// The state directory.
    pub state: PathBuf,
    /// Protects connections to other nodes.
    pub tls: Option<PeerTls>,
    /// Gets the connection to the server.
    #[cfg(feature = "cluster")]
    pub client: NatsClient,
}

/// Returns where a node is reached, without connections.
fn endpoint_of(peer: &PeerView, tls: Option<&PeerTls>) -> NodeEndpoint {
    let client = tls.zip(peer.beat.key).and_then(|(tls, key)| tls.client(key).ok());
    NodeEndpoint::new(peer.node(), peer.beat.address.clone(), peer.contact.clone(), client)
}

/// What a node among others knows of the daemon.
#[derive(Clone)]
pub struct ClusterActors {
    pub directory: Arc<Directory>,
    pub admission: Addr<AdmissionActor>,
    /// Gets the names of functions whose version has changed.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "without NATS nothing is published"))]
    pub registry: Recipient<FilesChanged>,
    /// Where functions are.
    pub roots: Roots,
}

/// This node among others.
pub struct Cluster {
    /// What is known of the others.
    pub handle: Arc<ClusterHandle>,
    /// What this node is called.
    pub name: Arc<str>,
    settings: LinkSettings,
    endpoints: Mutex<HashMap<NodeId, Arc<NodeEndpoint>>>,
    link: Mutex<Option<Link>>,
    /// What is published, and the files of it.
    pub functions: Arc<Functions>,
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "without NATS there is no link"))]
    actors: ClusterActors,
    #[cfg(feature = "cluster")]
    labels: BTreeMap<String, String>,
    #[cfg(feature = "cluster")]
    reconciler: Mutex<Option<Reconciler>>,
    log: Logger,
}

/// Why this node cannot join others.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("no TLS between nodes: {0}")]
    Tls(#[from] rustls::Error),
    #[error("--peer-listen {0} does not say where other nodes reach this one: --peer-address HOST:PORT does")]
    NoAddress(SocketAddr),
    #[error("published functions: {0}")]
    Store(#[from] StoreError),
    #[error("cannot join other nodes (--cluster): {0}")]
    Link(#[from] io::Error),
}

impl Cluster {
    /// Makes the node that the options describe, if they name servers. `listen`: where other nodes reach it on this host. It
    /// joins the others with [`join`](Self::join).
    ///
    /// # Errors
    /// When its identity cannot be used, or it has no address.
    pub fn launch(
        options: &ClusterArgs,
        login: &BrokerSettings,
        base: &Path,
        listen: Option<SocketAddr>,
        actors: ClusterActors,
        log: &Logger,
    ) -> Result<Option<Self>, ClusterError> {
        let Some((servers, listen)) = options.cluster.clone().zip(listen) else { return Ok(None) };
        let address = match &options.peer_address {
            Some(PeerAddress(address)) => address.clone(),
            None if listen.ip().is_unspecified() => return Err(ClusterError::NoAddress(listen)),
            None => listen.to_string().into(),
        };
        let Identity { node, epoch } = Identity::open(base)?;
        let (Site(site), log) = (options.site.clone(), log.new(o!()));
        let overflow = options.overflow.iter().map(|Site(site)| site.clone()).collect();
        let name: Arc<str> = options.node_name.clone().unwrap_or_else(host_name).into();
        let is_secure = options.peer_security.unwrap_or(PeerSecurity::Tls) == PeerSecurity::Tls;
        let node_key = is_secure.then(|| NodeKey::open(base)).transpose()?;
        let key = node_key.as_ref().map(|key| key.public);
        if is_secure && servers.first().0.scheme != "tls" {
            warn!(log, "what can write to the NATS server can join the nodes, as there is no TLS to it (tls://)";
                "servers" => %servers);
        }
        let labels = settings::labels(&options.node_label);
        let known_keys = if is_secure { known_keys::read(base) } else { Vec::new() };
        let own = NodeSettings {
            node,
            epoch,
            name: name.clone(),
            site: site.clone(),
            address: address.clone(),
            key,
            known_keys,
            labels: labels.clone(),
        };
        let handle = ClusterActor::launch(own, actors.directory.clone(), actors.admission.clone(), log.new(o!()));
        let functions = Arc::new(Functions::open(base, node, actors.roots.clone())?);
        let tls = node_key.map(|key| PeerTls::new(key, handle.clone(), log.new(o!()))).transpose()?;
        let settings = LinkSettings {
            servers,
            login: login.clone(),
            site,
            overflow,
            node,
            epoch,
            address,
            state: base.to_owned(),
            tls,
            #[cfg(feature = "cluster")]
            client: NatsClient::default(),
        };
        let (endpoints, link) = (Mutex::default(), Mutex::default());
        Ok(Some(Self {
            handle,
            name,
            settings,
            endpoints,
            link,
            functions,
            actors,
            #[cfg(feature = "cluster")]
            labels,
            #[cfg(feature = "cluster")]
            reconciler: Mutex::default(),
            log,
        }))
    }

    /// Begins to tell the other nodes about this one, and to hear of them.
    ///
    /// # Errors
    /// When the host has no more threads.
    pub fn join(&self) -> Result<(), ClusterError> {
        let actor = self.handle.actor();
        let (link, handle) = Link::start(self.settings.clone(), actor.clone(), self.log.new(o!()))?;
        actor.do_send(Join(Box::new(handle)));
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        #[cfg(feature = "cluster")]
        {
            let reconciler = Reconciler::start(Surroundings {
                functions: self.functions.clone(),
                cluster: self.handle.clone(),
                directory: self.actors.directory.clone(),
                registry: self.actors.registry.clone(),
                nats: self.settings.client.clone(),
                tls: self.settings.tls.clone(),
                labels: self.labels.clone(),
                log: self.log.new(o!()),
            })?;
            *self.reconciler.lock().unwrap_or_else(PoisonError::into_inner) = Some(reconciler);
        }
        Ok(())
    }

    /// Tells the other nodes that this one takes no more requests.
    pub fn start_draining(&self) {
        self.handle.actor().do_send(StartDraining);
    }

    /// Returns what protects connections from and to other nodes.
    pub fn tls(&self) -> Option<&PeerTls> {
        self.settings.tls.as_ref()
    }

    /// Returns the connection to the server, which [`join`](Self::join) makes.
    #[cfg(feature = "cluster")]
    pub fn nats(&self) -> &NatsClient {
        &self.settings.client
    }

    /// Returns what the server has not let this node do.
    pub fn denied(&self) -> Vec<CountedDenial> {
        #[cfg(feature = "cluster")]
        return self.settings.client.denials.all();
        #[cfg(not(feature = "cluster"))]
        return Vec::new();
    }

    /// Returns the site of this node.
    pub fn site(&self) -> &Arc<str> {
        &self.settings.site
    }

    /// Returns the name of this node as the value of a header.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.name).unwrap_or_else(|_| HeaderValue::from_static("unnamed"))
    }

    /// Returns where a node is reached, with the connections that there are.
    pub fn endpoint(&self, peer: &PeerView) -> Arc<NodeEndpoint> {
        let (node, contact) = (peer.node(), &peer.contact);
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get(&node) {
            if Arc::ptr_eq(&known.contact, contact) {
                return known.clone();
            }
            known.set_gone();
        }
        let endpoint = Arc::new(endpoint_of(peer, self.tls()));
        endpoints.insert(node, endpoint.clone());
        endpoint
    }

    /// Closes the connections to nodes that are not known any more. To be called about once a second.
    pub fn forget_gone(&self) {
        let view = self.handle.view();
        let is_known = |node: &NodeId| view.peers.iter().any(|peer| peer.node() == *node);
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|node, endpoint| {
            let stays = is_known(node);
            if !stays {
                endpoint.set_gone();
            }
            stays
        });
    }

    /// Tells and hears nothing any more, and leaves the published functions to the next daemon. The connection to the server
    /// stays, as the ends of work that runs here are recorded over it.
    pub async fn leave(&self) {
        self.functions.leave();
        #[cfg(feature = "cluster")]
        {
            let reconciler = self.reconciler.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Its thread may be writing large files. An error means that it has panicked, which was logged.
            let _ = tokio::task::spawn_blocking(move || drop(reconciler)).await;
        }
        let left = self.link.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(Link::leave);
        if let Some(left) = left {
            left.await;
        }
    }
}
