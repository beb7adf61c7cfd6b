//! How a guest is attached to this host's network, and the network configuration on its command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use unifaas_actors::{sandbox::LaunchError, spec::Readiness};

use super::qemu::{USER_CALLBACK, USER_GATEWAY, USER_GUEST, USER_NETMASK};
use crate::{
    net::{PointToPoint, TapLease},
    sandbox::{callback::Callback, ports::PortLease},
};

/// The network attachment of one guest.
#[derive(Debug)]
pub enum NetAttachment {
    /// A tap.
    Tap(TapLease),
    /// A local port that QEMU forwards.
    User(#[expect(dead_code, reason = "held, not read")] PortLease),
}

impl NetAttachment {
    /// Resolves, with the cause, once another process takes the attachment away from the guest.
    pub fn link_lost(&self) -> BoxFuture<'static, String> {
        match self {
            NetAttachment::Tap(tap) => {
                let (name, removed) = (tap.name.clone(), tap.removed());
                removed.map(move |()| format!("its network interface {name} was removed")).boxed()
            }
            NetAttachment::User(_) => pending().boxed(),
        }
    }
}

/// The network configuration of a guest, and its addresses as seen from the host. No `Debug`: the callback is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestNetConfig {
    pub ip: String,
    pub gateway: String,
    pub netmask: String,
    pub callback: String,
    /// Where the daemon connects to the function.
    pub address: SocketAddr,
    /// The source address of the guest's callback.
    pub source: IpAddr,
}

impl GuestNetConfig {
    /// Returns the configuration of a guest on a tap. `bound` is the address of the callback listener.
    pub fn on_tap(link: PointToPoint, port: u16, bound: SocketAddr, token: &str) -> Self {
        let callback = SocketAddr::new(reachable(bound).unwrap_or(link.gateway).into(), bound.port());
        Self {
            ip: link.guest.to_string(),
            gateway: link.gateway.to_string(),
            netmask: PointToPoint::NETMASK.to_string(),
            callback: format!("http://{callback}/ready/{token}"),
            address: (link.guest, port).into(),
            source: link.guest.into(),
        }
    }

    /// Returns the configuration of a guest in a user-mode network, whose port is forwarded from `local`.
    pub fn in_user_network(local: u16, callback: Callback, token: &str) -> Self {
        Self {
            ip: USER_GUEST.to_owned(),
            gateway: USER_GATEWAY.to_owned(),
            netmask: USER_NETMASK.to_owned(),
            callback: format!("http://{USER_CALLBACK}/ready/{token}"),
            address: (Ipv4Addr::LOCALHOST, local).into(),
            source: callback.source,
        }
    }

    /// Returns the value of a placeholder of the command line, given without its `%`.
    pub fn value(&self, word: &str) -> Option<&str> {
        match word {
            "ip" => Some(&self.ip),
            "gateway" => Some(&self.gateway),
            "netmask" => Some(&self.netmask),
            "callback" => Some(&self.callback),
            _ => None,
        }
    }
}

/// Fails if a guest on a tap needs the callback and cannot reach its listener.
pub fn check_callback(bound: SocketAddr, readiness: &Readiness) -> Result<(), LaunchError> {
    let unreachable = match bound.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_unspecified(),
    };
    if unreachable && *readiness == Readiness::Callback {
        return Err(LaunchError::Missing(format!(
            "a virtual machine cannot call back to {bound}: --callback-listen has to be an IPv4 address of this host that \
             is not loopback, or 0.0.0.0"
        )));
    }
    Ok(())
}

/// Returns the address of the callback listener, unless it listens on all addresses.
fn reachable(bound: SocketAddr) -> Option<Ipv4Addr> {
    match bound.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::Subnet, sandbox::substitute::substitute};

    fn config(bound: &str) -> GuestNetConfig {
        let subnet: Subnet = "10.100.0.0/16".parse().unwrap();
        GuestNetConfig::on_tap(subnet.link(1), 8080, bound.parse().unwrap(), "t0")
    }

    fn substituted(cmdline: &str) -> String {
        let config = config("0.0.0.0:3000");
        substitute(cmdline, |word| config.value(word))
    }

    #[test]
    fn substitutes_placeholders_and_nothing_else() {
        assert_eq!(
            substituted("net.ip=%ip net.gw=%gateway net.mask=%netmask callback.url=%callback"),
            "net.ip=10.100.0.6 net.gw=10.100.0.5 net.mask=255.255.255.252 callback.url=http://10.100.0.5:3000/ready/t0"
        );
        assert_eq!(
            substituted(
                "--ip=eth0,%ip,%netmask --defaultgw=%gateway --nameserver=%gateway --rootfs=rofs /benchmark.so %callback"
            ),
            "--ip=eth0,10.100.0.6,255.255.255.252 --defaultgw=10.100.0.5 --nameserver=10.100.0.5 --rootfs=rofs \
             /benchmark.so http://10.100.0.5:3000/ready/t0"
        );
        assert_eq!(
            substituted("callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off ro  noapic %unknown 100%"),
            "callback=http://10.100.0.5:3000/ready/t0 ip=10.100.0.6::10.100.0.5:255.255.255.252:vm:eth0:off ro  noapic \
             %unknown 100%"
        );
    }

    #[test]
    fn callback_is_at_gateway_unless_listener_has_an_address() {
        assert_eq!(config("[::]:3000").callback, "http://10.100.0.5:3000/ready/t0");
        assert_eq!(config("192.0.2.7:3001").callback, "http://192.0.2.7:3001/ready/t0");
        assert_eq!(config("0.0.0.0:3000").source.to_string(), "10.100.0.6");
    }

    #[test]
    fn refuses_callback_listener_that_no_guest_reaches() {
        let check = |bound: &str, readiness| check_callback(bound.parse().unwrap(), &readiness);
        assert!(check("127.0.0.1:3000", Readiness::Callback).is_err());
        assert!(check("[::1]:3000", Readiness::Callback).is_err());
        assert!(check("127.0.0.1:3000", Readiness::Tcp).is_ok());
        for bound in ["0.0.0.0:3000", "[::]:3000", "192.0.2.7:3000"] {
            assert!(check(bound, Readiness::Callback).is_ok());
        }
    }
}
