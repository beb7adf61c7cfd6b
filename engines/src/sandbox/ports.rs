//! Leases local TCP ports to instances that share the daemon's network.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fs,
    net::{Ipv6Addr, SocketAddrV6},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, sockopt::Ipv6V6Only,
    },
};

use crate::host::claim;

/// The number of ports that are leased.
const PORT_COUNT: u16 = 10_000;
/// The usual first port of outgoing connections.
const EPHEMERAL_START: u16 = 32_768;

/// The pool of free ports, the one returned longest ago first.
#[derive(Debug, Clone)]
pub struct Ports(Rc<RefCell<VecDeque<u16>>>);

/// A leased port, which returns to its pool when dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    pool: Ports,
    _claim: OwnedFd,
}

impl Ports {
    /// Returns the ports just below those of outgoing connections, which could take a port before its instance listens.
    pub fn below_ephemeral() -> Self {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let low = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(EPHEMERAL_START);
        let mut free: VecDeque<u16> = leasable(low).collect();
        // Daemons that share a host start at different ports, so that they rarely try the same port at once.
        let start = rand::random_range(0..free.len());
        free.rotate_left(start);
        Self(Rc::new(RefCell::new(free)))
    }

    /// Leases the next port that is free on this host. `None` if all are in use.
    pub fn lease(&self) -> Option<PortLease> {
        let mut free = self.0.borrow_mut();
        for _ in 0..free.len() {
            let port = free.pop_front()?;
            // Claimed first: the look at a port binds it for a moment, in which an instance of another daemon could not.
            if let Ok(claim) = claim(port)
                && is_free(port)
            {
                return Some(PortLease { port, pool: self.clone(), _claim: claim });
            }
            free.push_back(port);
        }
        None
    }
}

impl PortLease {
    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.pool.0.borrow_mut().push_back(self.port);
    }
}

fn leasable(ephemeral: u16) -> Range<u16> {
    // Where outgoing connections may use nearly all ports, the usual range is as good as any.
    let end = if ephemeral < 1024 + PORT_COUNT { EPHEMERAL_START } else { ephemeral };
    end - PORT_COUNT..end
}

/// Claims a port among the daemons of this host. An instance listens some time after its lease, so a free port may be
/// another daemon's.
fn claim(port: u16) -> nix::Result<OwnedFd> {
    claim::claim(&format!("unifaas-port-{port}"))
}

/// Returns whether a server could listen there, on any address of IPv4 and IPv6 and without `SO_REUSEADDR`. Listeners and
/// connections in TIME_WAIT prevent that.
fn is_free(port: u16) -> bool {
    let four = SockaddrIn::new(0, 0, 0, 0, port);
    let six = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    // Where there is no IPv6, nothing listens on it.
    let has_no_family = |result| matches!(result, Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL));
    let six = bind(AddressFamily::Inet6, &six);
    bind(AddressFamily::Inet, &four).is_ok() && (six.is_ok() || has_no_family(six))
}

fn bind(family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<()> {
    let probe = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if family == AddressFamily::Inet6 {
        socket::setsockopt(&probe, Ipv6V6Only, &true)?;
    }
    socket::bind(probe.as_raw_fd(), address)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpListener};

    use super::*;

    fn of(ports: &[u16]) -> Ports {
        Ports(Rc::new(RefCell::new(ports.iter().copied().collect())))
    }

    /// Returns free ports. Tests that run at the same time start at different ports.
    fn unused(from: u16, count: usize) -> Vec<u16> {
        (from..22_000).filter(|port| is_free(*port)).take(count).collect()
    }

    #[test]
    fn leases_ports_below_outgoing_connections() {
        assert_eq!(leasable(32_768), 22_768..32_768);
        assert_eq!(leasable(49_152), 39_152..49_152);
        assert_eq!(leasable(1024), 22_768..32_768);
    }

    #[test]
    fn leases_port_once_and_reuses_it_last() {
        let [a, b, c] = unused(12_000, 3)[..] else { panic!("no free ports") };
        let ports = of(&[a, b, c]);
        let first = ports.lease().unwrap();
        let second = ports.lease().unwrap();
        assert_eq!((first.port(), second.port()), (a, b));
        drop(second);
        drop(first);
        let again: Vec<_> = std::iter::from_fn(|| ports.lease()).collect();
        assert_eq!(again.iter().map(PortLease::port).collect::<Vec<_>>(), [c, b, a]);
    }

    #[test]
    fn skips_port_in_use() {
        // An instance that does not listen yet must not be taken for another server on its port.
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(taken) = TcpListener::bind(address) else { continue };
            let ports = of(&[taken.local_addr().unwrap().port()]);
            assert!(ports.lease().is_none(), "{address}");
            drop(taken);
            assert!(ports.lease().is_some(), "{address}");
        }
    }

    #[test]
    fn skips_port_that_another_daemon_has_leased() {
        let port = unused(17_000, 1)[0];
        let (first, second) = (of(&[port]), of(&[port]));
        let lease = first.lease().unwrap();
        assert!(second.lease().is_none(), "nothing listens there yet");
        drop(lease);
        assert!(second.lease().is_some());
    }

    #[test]
    fn skips_port_in_time_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (served, _) = listener.accept().unwrap();
        // The side that closes first keeps the connection in TIME_WAIT.
        served.shutdown(std::net::Shutdown::Both).unwrap();
        drop((served, listener));
        drop(client);
        assert!(of(&[address.port()]).lease().is_none());
    }

    #[test]
    fn leases_are_distinct() {
        let ports = Ports::below_ephemeral();
        let leases: Vec<_> = (0..200).map(|_| ports.lease().unwrap()).collect();
        assert_eq!(leases.iter().map(PortLease::port).collect::<HashSet<_>>().len(), 200);
    }
}
