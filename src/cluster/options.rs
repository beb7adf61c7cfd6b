//! The options of a node among others, as clap parses them.

use std::net::SocketAddr;

use clap::Args;

use super::{NatsServers, NodeLabel, PeerAddress, PeerSecurity, Site};
use crate::listen_address::address;

#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// The NATS server that joins this node with others; further servers of the same site behind commas.
    ///
    /// Without it, the daemon serves alone. See docs/cluster.md.
    #[arg(long, env = "UNIFAAS_CLUSTER", value_name = "URL", requires = "peer_listen", group = "nats_server")]
    pub cluster: Option<NatsServers>,
    /// The site of this node: nodes near each other, with a NATS server.
    #[arg(long, env = "UNIFAAS_SITE", value_name = "NAME", default_value = "default")]
    pub site: Site,
    /// What this node is called [default: the host's name].
    #[arg(long, env = "UNIFAAS_NODE_NAME", value_name = "NAME", requires = "cluster")]
    pub node_name: Option<String>,
    /// Labels of this node, which functions can require; several behind commas.
    #[arg(long, env = "UNIFAAS_NODE_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', requires = "cluster")]
    pub node_label: Vec<NodeLabel>,
    /// Where other nodes forward requests to.
    #[arg(long, env = "UNIFAAS_PEER_LISTEN", value_name = "HOST:PORT", value_parser = address, requires = "cluster")]
    pub peer_listen: Option<SocketAddr>,
    /// Where other nodes reach --peer-listen, if that is another address.
    #[arg(long, env = "UNIFAAS_PEER_ADDRESS", value_name = "HOST:PORT", requires = "cluster")]
    pub peer_address: Option<PeerAddress>,
    /// Other sites whose nodes may be asked for help; several behind commas.
    #[arg(long, env = "UNIFAAS_OVERFLOW", value_name = "SITE", value_delimiter = ',', requires = "cluster")]
    pub overflow: Vec<Site>,
    /// How connections between nodes are protected, the same on all of them [default: tls].
    ///
    /// `tls`: TLS, by the keys that nodes tell each other over NATS. `none`: not at all; whatever reaches --peer-listen invokes functions, so its network has to be safe by itself.
    #[arg(long, env = "UNIFAAS_PEER_SECURITY", value_name = "MODE", value_enum, requires = "cluster")]
    pub peer_security: Option<PeerSecurity>,
}
