//! By what functions are told from everybody else: the networks of those that have an address of their own (containers,
//! virtual machines), and the users as whom the others run.
//!
//! Whoever calls from such a network may report that it is ready, and nothing else: `http/gate.rs` asks here at each new
//! connection. Whoever calls from this host as such a user is not shown the admin pages: `http/admin.rs`. Both are entered
//! before the first instance starts there, so that no instance is ever taken for a stranger.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

/// Where functions live, and as whom. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct FunctionPeers(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    networks: BTreeMap<String, Vec<IpNet>>,
    users: BTreeSet<u32>,
}

/// An address of this host, and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    pub interface: String,
    pub address: IpAddr,
}

impl FunctionPeers {
    /// From now on, functions live in that network.
    pub fn add_network(&self, name: &str, ranges: Vec<IpNet>) {
        if self.known().networks.get(name) != Some(&ranges) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).networks.insert(name.to_owned(), ranges);
        }
    }

    /// From now on, functions run as that user.
    pub fn add_user(&self, user: u32) {
        if !self.known().users.contains(&user) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).users.insert(user);
        }
    }

    /// Whether somebody there may be a function.
    pub fn include(&self, peer: SocketAddr) -> bool {
        match peer {
            // Nobody tells which addresses of this kind there are, only on which wire.
            SocketAddr::V6(peer) if peer.ip().is_unicast_link_local() => self.are_behind(&peer, &own_addresses()),
            peer => self.have(peer.ip().to_canonical()),
        }
    }

    /// Whether functions run as that user.
    pub fn include_user(&self, user: u32) -> bool {
        self.known().users.contains(&user)
    }

    fn are_behind(&self, peer: &SocketAddrV6, own: &[OwnAddress]) -> bool {
        let is_there = |own: &&OwnAddress| if_nametoindex(own.interface.as_str()) == Ok(peer.scope_id());
        own.iter().filter(is_there).any(|own| self.have(own.address))
    }

    fn have(&self, address: IpAddr) -> bool {
        self.known().networks.values().flatten().any(|range| range.contains(&address))
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of this host.
pub fn own_addresses() -> Vec<OwnAddress> {
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
    fn a_network_is_all_of_its_ranges_however_an_address_is_written() {
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
    fn a_network_that_has_changed_is_where_it_is_now() {
        let peers = peers();
        peers.add_network("vms", vec!["10.100.0.0/16".parse().unwrap()]);
        peers.add_network("bridge", vec!["172.20.0.0/16".parse().unwrap()]);
        assert!(include(&peers, "172.20.3.4:5") && !include(&peers, "172.17.3.4:5"));
        assert!(include(&peers.clone(), "10.100.0.2:5"));
    }

    #[test]
    fn users_are_known_by_number() {
        let peers = peers();
        peers.add_user(65_534);
        assert!(peers.include_user(65_534) && !peers.include_user(0));
    }

    #[test]
    fn an_address_of_the_wire_alone_is_told_by_the_wire() {
        let peers = peers();
        let lo = if_nametoindex("lo").unwrap();
        let own = |address: &str| [OwnAddress { interface: "lo".to_owned(), address: address.parse().unwrap() }];
        let peer = |scope| SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, scope);
        assert!(peers.are_behind(&peer(lo), &own("172.17.0.1")));
        assert!(!peers.are_behind(&peer(lo), &own("192.0.2.1")));
        assert!(!peers.are_behind(&peer(lo + 1), &own("172.17.0.1")));
        assert!(own_addresses().iter().any(|own| own.interface == "lo" && own.address.is_loopback()));
    }
}
