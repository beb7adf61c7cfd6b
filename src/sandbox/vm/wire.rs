//! How one guest is attached to this host, and what it is told about that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use unifaas_actors::{sandbox::LaunchError, spec::Readiness};

use super::qemu::{USER_CALLBACK, USER_GATEWAY, USER_GUEST, USER_NETMASK};
use crate::{
    net::{Link, TapLease},
    sandbox::{Callback, ports::PortLease},
};

/// An attachment that is held for one guest.
#[derive(Debug)]
pub enum Wire {
    /// A tap of its own.
    Tap(TapLease),
    /// A local port that QEMU forwards.
    User(#[expect(dead_code, reason = "held, not read")] PortLease),
}

impl Wire {
    /// Waits until somebody takes it away from the guest; how, in words.
    pub fn cut(&self) -> BoxFuture<'static, String> {
        match self {
            Wire::Tap(tap) => {
                let (name, removed) = (tap.name.clone(), tap.removed());
                removed.map(move |()| format!("its network interface {name} was removed")).boxed()
            }
            Wire::User(_) => pending().boxed(),
        }
    }
}

/// What a guest's command line can be told, and where to find the guest. Pure. No `Debug`: the callback is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Facts {
    pub ip: String,
    pub gateway: String,
    pub netmask: String,
    pub callback: String,
    /// Where the daemon finds the function.
    pub address: SocketAddr,
    /// Where its callback comes from.
    pub source: IpAddr,
}

impl Facts {
    /// For a guest on a tap. `bound` is the address of the callback listener.
    pub fn on_tap(link: Link, port: u16, bound: SocketAddr, token: &str) -> Self {
        let callback = SocketAddr::new(reachable(bound).unwrap_or(link.gateway).into(), bound.port());
        Self {
            ip: link.guest.to_string(),
            gateway: link.gateway.to_string(),
            netmask: Link::NETMASK.to_string(),
            callback: format!("http://{callback}/ready/{token}"),
            address: (link.guest, port).into(),
            source: link.guest.into(),
        }
    }

    /// For a guest in a user-mode network, whose port is found at the local one.
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

    /// What a word in the command line stands for.
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

/// Refuses a guest on a tap that could never call back.
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

/// The one address of the callback listener, if it does not listen on all.
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

    fn facts(bound: &str) -> Facts {
        let subnet: Subnet = "10.100.0.0/16".parse().unwrap();
        Facts::on_tap(subnet.link(1), 8080, bound.parse().unwrap(), "t0")
    }

    fn told(cmdline: &str) -> String {
        let facts = facts("0.0.0.0:3000");
        substitute(cmdline, |word| facts.value(word))
    }

    #[test]
    fn command_lines_of_every_kind_of_guest_keep_all_but_the_words() {
        assert_eq!(
            told("net.ip=%ip net.gw=%gateway net.mask=%netmask callback.url=%callback"),
            "net.ip=10.100.0.6 net.gw=10.100.0.5 net.mask=255.255.255.252 callback.url=http://10.100.0.5:3000/ready/t0"
        );
        assert_eq!(
            told(
                "--ip=eth0,%ip,%netmask --defaultgw=%gateway --nameserver=%gateway --rootfs=rofs /benchmark.so %callback"
            ),
            "--ip=eth0,10.100.0.6,255.255.255.252 --defaultgw=10.100.0.5 --nameserver=10.100.0.5 --rootfs=rofs \
             /benchmark.so http://10.100.0.5:3000/ready/t0"
        );
        assert_eq!(
            told("callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off ro  noapic %unknown 100%"),
            "callback=http://10.100.0.5:3000/ready/t0 ip=10.100.0.6::10.100.0.5:255.255.255.252:vm:eth0:off ro  noapic \
             %unknown 100%"
        );
    }

    #[test]
    fn the_callback_is_at_the_gateway_unless_it_listens_elsewhere() {
        assert_eq!(facts("[::]:3000").callback, "http://10.100.0.5:3000/ready/t0");
        assert_eq!(facts("192.0.2.7:3001").callback, "http://192.0.2.7:3001/ready/t0");
        assert_eq!(facts("0.0.0.0:3000").source.to_string(), "10.100.0.6");
    }

    #[test]
    fn a_callback_that_no_guest_reaches_is_refused() {
        let check = |bound: &str, readiness| check_callback(bound.parse().unwrap(), &readiness);
        assert!(check("127.0.0.1:3000", Readiness::Callback).is_err());
        assert!(check("[::1]:3000", Readiness::Callback).is_err());
        assert!(check("127.0.0.1:3000", Readiness::Tcp).is_ok());
        for bound in ["0.0.0.0:3000", "[::]:3000", "192.0.2.7:3000"] {
            assert!(check(bound, Readiness::Callback).is_ok());
        }
    }
}
