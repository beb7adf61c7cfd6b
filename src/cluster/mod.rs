//! This node among others: its identity, its options and its link to them.
//!
//! What is decided is decided in `unifaas_actors::cluster`. Nothing of this runs without `--cluster`.
//!
//! | file | content |
//! | --- | --- |
//! | `settings.rs`, `servers.rs` | the options |
//! | `identity.rs` | the node's id, run and key, in the state directory |
//! | `link.rs` | the link to the other nodes, on NATS |
//! | `subjects.rs` | the subjects of its messages |
//! | `probe.rs` | whether a node accepts connections |

mod identity;
#[cfg(feature = "cluster")]
mod link;
#[cfg(feature = "cluster")]
mod probe;
mod servers;
mod settings;
#[cfg(feature = "cluster")]
mod subjects;
#[cfg(not(feature = "cluster"))]
mod without_link;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use actix::Addr;
use slog::{Logger, o};
use unifaas_actors::{
    AdmissionActor, Directory,
    cluster::{ClusterActor, ClusterHandle, Epoch, Join, NodeId, NodeSettings, StartDraining},
};

use crate::{cli::ClusterArgs, trigger::SourceSettings};
use identity::Identity;
pub use identity::IdentityError;
#[cfg(feature = "cluster")]
use link::Link;
pub use servers::NatsServers;
pub use settings::{NodeLabel, PeerAddress, PeerSecurity, Site, host_name};
#[cfg(not(feature = "cluster"))]
use without_link::Link;

/// What the link needs to know.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    pub servers: NatsServers,
    /// How to log in at them, and how to verify them.
    pub login: SourceSettings,
    pub site: Arc<str>,
    /// Other sites whose nodes may be asked for help.
    pub overflow: Vec<Arc<str>>,
    pub node: NodeId,
    pub epoch: Epoch,
    /// Where other nodes reach this one.
    pub address: Arc<str>,
}

/// This node among others.
pub struct Cluster {
    /// What is known of the others.
    pub handle: Arc<ClusterHandle>,
    settings: LinkSettings,
    link: Mutex<Option<Link>>,
    log: Logger,
}

/// Why this node cannot join others.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("--peer-listen {0} does not say where other nodes reach this one: --peer-address HOST:PORT does")]
    NoAddress(SocketAddr),
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
        login: &SourceSettings,
        base: &Path,
        listen: Option<SocketAddr>,
        functions: Arc<Directory>,
        admission: Addr<AdmissionActor>,
        log: &Logger,
    ) -> Result<Option<Self>, ClusterError> {
        let Some((servers, listen)) = options.cluster.clone().zip(listen) else { return Ok(None) };
        let address = match &options.peer_address {
            Some(PeerAddress(address)) => address.clone(),
            None if listen.ip().is_unspecified() => return Err(ClusterError::NoAddress(listen)),
            None => listen.to_string().into(),
        };
        let Identity { node, epoch, public, .. } = Identity::open(base)?;
        let (Site(site), log) = (options.site.clone(), log.new(o!()));
        let overflow = options.overflow.iter().map(|Site(site)| site.clone()).collect();
        let name = options.node_name.clone().unwrap_or_else(host_name);
        let key = (options.peer_security == PeerSecurity::Tls).then_some(public);
        let labels = settings::labels(&options.node_label);
        let own =
            NodeSettings { node, epoch, name: name.into(), site: site.clone(), address: address.clone(), key, labels };
        let handle = ClusterActor::launch(own, functions, admission, log.new(o!()));
        let settings = LinkSettings { servers, login: login.clone(), site, overflow, node, epoch, address };
        Ok(Some(Self { handle, settings, link: Mutex::default(), log }))
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
        Ok(())
    }

    /// Tells the other nodes that this one takes no more requests.
    pub fn start_draining(&self) {
        self.handle.actor().do_send(StartDraining);
    }

    /// Tells and hears nothing any more.
    pub fn leave(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(link);
    }
}
