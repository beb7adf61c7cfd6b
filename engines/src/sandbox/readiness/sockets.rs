//! Where an instance listens, as far as this host's `/proc` shows it. Blocks.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};
use unifaas_actors::InstanceId;

use crate::state;

/// The address of the engine's name server in networks of containers. It is not the function's.
const ENGINE_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// Where to look for the sockets of an instance.
#[derive(Debug, Clone)]
pub enum Sockets {
    /// In the network of the daemon, among those of other processes. `leader` leads the instance's session.
    OfProcess { instance: InstanceId, leader: Option<u32> },
    /// In a network of its own, which has that address. `pid` is what the engine says, perhaps of another host.
    OfContainer { instance: InstanceId, pid: Option<u32>, address: IpAddr },
    /// In a kernel of its own.
    Hidden,
}

impl Sockets {
    /// Returns the addresses on which the instance listens. `None`: they cannot be seen.
    pub fn listening(&self) -> Option<Vec<SocketAddr>> {
        let mut found = match self {
            Self::OfProcess { instance, leader } => of_processes(&state::pids_of(&instance.to_string(), *leader))?,
            Self::OfContainer { instance, pid, address } => {
                let marked = || state::pids_of(&instance.to_string(), None);
                let named = pid.and_then(|pid| i32::try_from(pid).ok());
                of_network(named.into_iter(), *address).or_else(|| of_network(marked().into_iter(), *address))?
            }
            Self::Hidden => return None,
        };
        found.sort_unstable();
        found.dedup();
        Some(found)
    }
}

/// Returns what processes in the daemon's network listen on. `None`: their descriptors cannot be read.
fn of_processes(pids: &[i32]) -> Option<Vec<SocketAddr>> {
    let mut inodes = HashSet::new();
    let mut is_visible = false;
    for pid in pids {
        let Ok(descriptors) = Process::new(*pid).and_then(|process| process.fd()) else { continue };
        is_visible = true;
        inodes.extend(descriptors.flatten().filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        }));
    }
    let listening = listening_in(&Process::myself().ok()?)?;
    let own = listening.into_iter().filter(|entry| inodes.contains(&entry.inode));
    is_visible.then(|| own.map(|entry| entry.local_address).collect())
}

/// Returns what listens in the network with that address, if one of the processes is in it.
fn of_network(mut pids: impl Iterator<Item = i32>, address: IpAddr) -> Option<Vec<SocketAddr>> {
    let pid = pids.find(|pid| has_address(*pid, address))?;
    let listening = listening_in(&Process::new(pid).ok()?)?;
    Some(listening.into_iter().map(|entry| entry.local_address).filter(|at| at.ip() != ENGINE_DNS).collect())
}

/// Returns whether the network of a process has the address. Engines of other hosts and of other PID namespaces give PIDs
/// that mean another process here, and gVisor takes the address into its own kernel.
fn has_address(pid: i32, address: IpAddr) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/net/{file}"));
    match address {
        // A route to the address is there, too, in the network of the engine.
        IpAddr::V4(address) => read("fib_trie").is_ok_and(|text| {
            let start = format!("{address}\n");
            text.split("|-- ").any(|leaf| leaf.starts_with(&start) && leaf.contains("/32 host LOCAL"))
        }),
        IpAddr::V6(address) => {
            read("if_inet6").is_ok_and(|text| text.contains(&format!("{:032x} ", address.to_bits())))
        }
    }
}

fn listening_in(process: &Process) -> Option<Vec<TcpNetEntry>> {
    // Without IPv6 there is no second table.
    let (four, six) = (process.tcp().ok()?, process.tcp6().unwrap_or_default());
    Some(four.into_iter().chain(six).filter(|entry| entry.state == TcpState::Listen).collect())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::*;

    #[test]
    fn finds_the_listeners_of_a_process_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of_processes(&[own]).is_some_and(|found| found.contains(&listener.local_addr().unwrap())));
        let mut other = Command::new("sleep").arg("100").spawn().unwrap();
        assert_eq!(of_processes(&[i32::try_from(other.id()).unwrap()]), Some(Vec::new()));
        other.kill().unwrap();
        other.wait().unwrap();
        let nothing = Sockets::OfProcess { instance: InstanceId::random(), leader: None };
        assert_eq!(nothing.listening(), None);
    }

    #[test]
    fn looks_only_into_a_network_with_the_address_of_the_container() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = Some(std::process::id());
        let at = |address: &str| {
            let address = address.parse().unwrap();
            Sockets::OfContainer { instance: InstanceId::random(), pid, address }.listening()
        };
        assert!(at("127.0.0.1").is_some_and(|found| found.contains(&listener.local_addr().unwrap())));
        assert_eq!(at("198.51.100.7"), None);
        // A route.
        assert_eq!(at("127.0.0.0"), None);
        assert_eq!(at("2001:db8::7"), None);
    }
}
