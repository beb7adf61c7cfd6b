//! Which peer addresses and user ids belong to functions: the networks of containers and virtual machines, and the
//! users that processes run as.
//!
//! The accept policy of `http/` looks at each new connection: a peer in such a network may only call back that it is
//! ready. The admin pages are refused to such a user of this host. Networks and users are added before their first
//! instance starts, so that every instance is recognized.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use serde::{Deserialize, Serialize};

/// The networks and users of functions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct FunctionPeers(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    networks: BTreeMap<String, Vec<IpNet>>,
    users: BTreeSet<u32>,
}

/// The networks and users of functions as another daemon gets them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllPeers {
    networks: Vec<(String, Vec<String>)>,
    users: Vec<u32>,
}

/// An address of this host, and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    /// The name of the interface, such as `eth0`.
    pub interface: String,
    pub address: IpAddr,
}

impl FunctionPeers {
    /// Adds the network `name`, or replaces its ranges.
    pub fn add_network(&self, name: &str, ranges: Vec<IpNet>) {
        if self.known().networks.get(name) != Some(&ranges) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).networks.insert(name.to_owned(), ranges);
        }
    }

    /// Adds a user id.
    pub fn add_user(&self, user: u32) {
        if !self.known().users.contains(&user) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).users.insert(user);
        }
    }

    /// Returns all of them, for another daemon.
    pub fn all(&self) -> AllPeers {
        let known = self.known();
        let text = |ranges: &Vec<IpNet>| ranges.iter().map(ToString::to_string).collect();
        let networks = known.networks.iter().map(|(name, ranges)| (name.clone(), text(ranges))).collect();
        AllPeers { networks, users: known.users.iter().copied().collect() }
    }

    /// Adds those of another daemon.
    pub fn add_all(&self, peers: AllPeers) {
        for (name, ranges) in peers.networks {
            self.add_network(&name, ranges.iter().filter_map(|range| range.parse().ok()).collect());
        }
        peers.users.into_iter().for_each(|user| self.add_user(user));
    }

    /// Returns whether a peer address may be a function's.
    pub fn include(&self, peer: SocketAddr) -> bool {
        match peer {
            // Link-local addresses are known by their interface only.
            SocketAddr::V6(peer) if peer.ip().is_unicast_link_local() => self.share_interface(&peer, &own_addresses()),
            peer => self.contain(peer.ip().to_canonical()),
        }
    }

    /// Returns whether a function may run as that user.
    pub fn include_user(&self, user: u32) -> bool {
        self.known().users.contains(&user)
    }

    fn share_interface(&self, peer: &SocketAddrV6, own: &[OwnAddress]) -> bool {
        let is_there = |own: &&OwnAddress| if_nametoindex(own.interface.as_str()) == Ok(peer.scope_id());
        own.iter().filter(is_there).any(|own| self.contain(own.address))
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.known().networks.values().flatten().any(|range| range.contains(&address))
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the addresses of this host.
pub(crate) fn own_addresses() -> Vec<OwnAddress> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))?;
        Some(OwnAddress { interface: interface.interface_name, address })
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> FunctionPeers {
        let peers = FunctionPeers::default();
        peers.add_network("bridge", vec!["172.17.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        peers
    }

    fn include(peers: &FunctionPeers, peer: &str) -> bool {
        peers.include(peer.parse().unwrap())
    }

    #[test]
    fn includes_all_ranges_in_every_notation() {
        let peers = peers();
        for inside in ["172.17.3.4:5", "[::ffff:172.17.3.4]:5", "[fd00::9]:5"] {
            assert!(include(&peers, inside), "{inside}");
        }
        for outside in ["172.18.0.1:5", "127.0.0.1:5", "[::1]:5", "[fd01::9]:5", "[::ffff:10.0.0.1]:5"] {
            assert!(!include(&peers, outside), "{outside}");
        }
        assert!(!include(&FunctionPeers::default(), "172.17.3.4:5"));
    }

    #[test]
    fn adding_a_network_again_replaces_its_ranges() {
        let peers = peers();
        peers.add_network("vms", vec!["10.100.0.0/16".parse().unwrap()]);
        peers.add_network("bridge", vec!["172.20.0.0/16".parse().unwrap()]);
        assert!(include(&peers, "172.20.3.4:5") && !include(&peers, "172.17.3.4:5"));
        assert!(include(&peers.clone(), "10.100.0.2:5"));
    }

    #[test]
    fn another_daemon_gets_networks_and_users() {
        let (peers, other) = (peers(), FunctionPeers::default());
        peers.add_user(65_534);
        other.add_all(peers.all());
        assert!(include(&other, "172.17.3.4:5") && include(&other, "[fd00::9]:5") && other.include_user(65_534));
        assert_eq!(other.all(), peers.all());
    }

    #[test]
    fn includes_users_by_id() {
        let peers = peers();
        peers.add_user(65_534);
        assert!(peers.include_user(65_534) && !peers.include_user(0));
    }

    #[test]
    fn includes_link_local_addresses_by_interface() {
        let peers = peers();
        let lo = if_nametoindex("lo").unwrap();
        let own = |address: &str| [OwnAddress { interface: "lo".to_owned(), address: address.parse().unwrap() }];
        let peer = |scope| SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, scope);
        assert!(peers.share_interface(&peer(lo), &own("172.17.0.1")));
        assert!(!peers.share_interface(&peer(lo), &own("192.0.2.1")));
        assert!(!peers.share_interface(&peer(lo + 1), &own("172.17.0.1")));
        assert!(own_addresses().iter().any(|own| own.interface == "lo" && own.address.is_loopback()));
    }
}
