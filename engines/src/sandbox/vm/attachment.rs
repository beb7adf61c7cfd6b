//! How a guest is attached to this host's network, and the network configuration on its command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use unifaas_actors::sandbox::{LaunchError, Route};

use super::callback_relay::CallbackRelay;
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
    /// A tap with the address of clones.
    CloneTap {
        tap: TapLease,
        #[expect(dead_code, reason = "held, not read")]
        relay: Option<CallbackRelay>,
    },
    /// A local port that QEMU forwards.
    User(#[expect(dead_code, reason = "held, not read")] PortLease),
}

impl NetAttachment {
    /// Returns the tap, if it is one.
    pub fn tap(&self) -> Option<&TapLease> {
        match self {
            NetAttachment::Tap(tap) | NetAttachment::CloneTap { tap, .. } => Some(tap),
            NetAttachment::User(_) => None,
        }
    }

    /// Returns how a guest at this address is connected to.
    pub fn route(&self, address: SocketAddr) -> Route {
        let device = match self {
            NetAttachment::CloneTap { tap, .. } => Some(tap.name.as_str().into()),
            NetAttachment::Tap(_) | NetAttachment::User(_) => None,
        };
        Route { address, device }
    }

    /// Gives the attachment up. The tap is removed if a process `may_use` it.
    pub fn release(self, may_use: bool) {
        match self {
            NetAttachment::Tap(tap) | NetAttachment::CloneTap { tap, .. } if may_use => tap.discard(),
            _ => {}
        }
    }

    /// Resolves, with the cause, once another process takes the attachment away from the guest.
    pub fn link_lost(&self) -> BoxFuture<'static, String> {
        match self {
            NetAttachment::Tap(tap) | NetAttachment::CloneTap { tap, .. } => {
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
    /// `None`: the guest cannot reach the callback listener.
    pub callback: Option<String>,
    /// Where the daemon connects to the function.
    pub address: SocketAddr,
    /// The source address of the guest's callback.
    pub source: IpAddr,
}

impl GuestNetConfig {
    /// Returns the configuration of a guest on a tap. `bound` is the address of the callback listener.
    pub fn on_tap(link: PointToPoint, port: u16, bound: SocketAddr, token: &str) -> Self {
        let callback = is_reachable(bound).then(|| seen_from_guest(bound, link.gateway));
        Self {
            ip: link.guest.to_string(),
            gateway: link.gateway.to_string(),
            netmask: PointToPoint::NETMASK.to_string(),
            callback: callback.map(|callback| format!("http://{callback}/ready/{token}")),
            address: (link.guest, port).into(),
            source: link.guest.into(),
        }
    }

    /// Returns the configuration of a guest with the address of clones, whose tap has a relay to the callback listener.
    pub fn on_clone_tap(tap: &TapLease, port: u16, callback: Callback, token: &str) -> Self {
        let bound = (tap.link.gateway, tap.callback_port).into();
        Self { source: callback.source, ..Self::on_tap(tap.link, port, bound, token) }
    }

    /// Returns the configuration of a guest in a user-mode network, whose port is forwarded from `local`.
    pub fn in_user_network(local: u16, callback: Callback, token: &str) -> Self {
        Self {
            ip: USER_GUEST.to_owned(),
            gateway: USER_GATEWAY.to_owned(),
            netmask: USER_NETMASK.to_owned(),
            callback: Some(format!("http://{USER_CALLBACK}/ready/{token}")),
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
            "callback" => self.callback.as_deref(),
            _ => None,
        }
    }
}

/// Fails if a guest on a tap needs the callback and cannot reach its listener.
pub fn check_callback(bound: SocketAddr, is_needed: bool) -> Result<(), LaunchError> {
    if is_needed && !is_reachable(bound) {
        return Err(LaunchError::Missing(format!(
            "a virtual machine cannot call back to {bound}: --callback-listen has to be an IPv4 address of this host that \
             is not loopback, or 0.0.0.0; without a callback, set `readiness = \"tcp\"` and leave `%callback` out"
        )));
    }
    Ok(())
}

/// Returns whether a guest reaches the callback listener, which is bound to `bound`.
fn is_reachable(bound: SocketAddr) -> bool {
    bound.ip().is_unspecified() || (bound.is_ipv4() && !bound.ip().is_loopback())
}

/// Returns the address of the callback listener as seen from a guest behind `gateway`.
fn seen_from_guest(bound: SocketAddr, gateway: Ipv4Addr) -> SocketAddr {
    if bound.ip().is_unspecified() { (gateway, bound.port()).into() } else { bound }
}

#[cfg(test)]
mod tests {
    use unifaas_actors::spec::substitute;

    use super::*;
    use crate::net::Subnet;

    fn config(bound: &str) -> GuestNetConfig {
        let subnet: Subnet = "10.100.0.0/16".parse().unwrap();
        GuestNetConfig::on_tap(subnet.link(1), 8080, bound.parse().unwrap(), "t0")
    }

    fn substituted(cmdline: &str) -> String {
        let config = config("0.0.0.0:8124");
        substitute(cmdline, |word| config.value(word))
    }

    #[test]
    fn substitutes_placeholders_and_nothing_else() {
        assert_eq!(
            substituted("net.ip=%ip net.gw=%gateway net.mask=%netmask callback.url=%callback"),
            "net.ip=10.100.0.6 net.gw=10.100.0.5 net.mask=255.255.255.252 callback.url=http://10.100.0.5:8124/ready/t0"
        );
        assert_eq!(
            substituted(
                "--ip=eth0,%ip,%netmask --defaultgw=%gateway --nameserver=%gateway --rootfs=rofs /benchmark.so %callback"
            ),
            "--ip=eth0,10.100.0.6,255.255.255.252 --defaultgw=10.100.0.5 --nameserver=10.100.0.5 --rootfs=rofs \
             /benchmark.so http://10.100.0.5:8124/ready/t0"
        );
        assert_eq!(
            substituted("callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off ro  noapic %unknown 100%"),
            "callback=http://10.100.0.5:8124/ready/t0 ip=10.100.0.6::10.100.0.5:255.255.255.252:vm:eth0:off ro  noapic \
             %unknown 100%"
        );
    }

    #[test]
    fn callback_is_at_gateway_unless_listener_has_an_address() {
        let callback = |bound: &str| config(bound).callback;
        assert_eq!(callback("[::]:8124").as_deref(), Some("http://10.100.0.5:8124/ready/t0"));
        assert_eq!(callback("192.0.2.7:3001").as_deref(), Some("http://192.0.2.7:3001/ready/t0"));
        assert_eq!((callback("127.0.0.1:8124"), callback("[2001:db8::7]:8124")), (None, None));
        assert_eq!(config("0.0.0.0:8124").source.to_string(), "10.100.0.6");
    }

    #[test]
    fn refuses_callback_listener_that_no_guest_reaches() {
        let check = |bound: &str, is_needed| check_callback(bound.parse().unwrap(), is_needed);
        assert!(check("127.0.0.1:8124", true).is_err());
        assert!(check("[::1]:8124", true).is_err());
        assert!(check("127.0.0.1:8124", false).is_ok());
        for bound in ["0.0.0.0:8124", "[::]:8124", "192.0.2.7:8124"] {
            assert!(check(bound, true).is_ok());
        }
    }
}
