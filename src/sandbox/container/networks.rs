//! Which address this host has in the networks of the containers: the gateway that the engine tells, or where it tells
//! none (Docker's default bridge until the engine has been restarted), the one that the host has in their subnet.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use bollard::models::NetworkInspect;
use nix::ifaddrs::getifaddrs;
use unifaas_actors::sandbox::LaunchError;

use super::engine::{Engine, EngineError, QUICK};

/// What Docker and Podman call the network of a container that names none.
const DEFAULT_NETWORKS: [&str; 2] = ["bridge", "podman"];
/// The driver of networks that containers share with this host.
const BRIDGE: &str = "bridge";

/// The gateways that are known.
#[derive(Debug)]
pub struct Networks {
    engine: Rc<Engine>,
    gateways: RefCell<HashMap<String, IpAddr>>,
}

impl Networks {
    /// Nothing is known yet.
    pub fn new(engine: Rc<Engine>) -> Self {
        Self { engine, gateways: RefCell::default() }
    }

    /// The gateway of `network`, or of the engine's default network.
    ///
    /// # Errors
    /// When there is no such network, or containers on it cannot reach this host.
    pub async fn gateway(&self, network: Option<&str>) -> Result<IpAddr, LaunchError> {
        let key = network.unwrap_or_default();
        if let Some(gateway) = self.gateways.borrow().get(key) {
            return Ok(*gateway);
        }
        let gateway = gateway_of(&self.inspect(network).await?, &own_addresses())?;
        self.gateways.borrow_mut().insert(key.to_owned(), gateway);
        Ok(gateway)
    }

    /// Asks anew next time: the network may have been made anew.
    pub fn forget(&self, network: Option<&str>) {
        self.gateways.borrow_mut().remove(network.unwrap_or_default());
    }

    async fn inspect(&self, network: Option<&str>) -> Result<NetworkInspect, EngineError> {
        let inspect = async |name: &str| {
            self.engine.ask("inspect network", QUICK, async |docker| docker.inspect_network(name, None).await).await
        };
        match network {
            Some(name) => inspect(name).await,
            None => match inspect(DEFAULT_NETWORKS[0]).await {
                Err(error) if error.is_not_found() => inspect(DEFAULT_NETWORKS[1]).await,
                found => found,
            },
        }
    }
}

fn gateway_of(network: &NetworkInspect, own: &[IpAddr]) -> Result<IpAddr, LaunchError> {
    let name = network.name.as_deref().unwrap_or_default();
    let driver = network.driver.as_deref().unwrap_or_default();
    if driver != BRIDGE {
        let rule = "a function needs a network of the driver \"bridge\", where it has an address and reaches this host";
        return Err(LaunchError::Missing(format!("network {name:?} has the driver {driver:?}: {rule}")));
    }
    let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref()).into_iter().flatten();
    let gateways = configs.filter_map(|config| {
        // Some engines add the length of the prefix.
        let told = config.gateway.as_deref().and_then(|text| text.split('/').next()?.parse().ok());
        told.or_else(|| own.iter().copied().find(|address| is_within(*address, config.subnet.as_deref().unwrap_or(""))))
    });
    let gateways: Vec<IpAddr> = gateways.collect();
    let gateway = gateways.iter().find(|gateway| gateway.is_ipv4()).or(gateways.first());
    gateway.copied().ok_or_else(|| LaunchError::Missing(format!("this host has no address in network {name:?}")))
}

/// The addresses of this host.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    });
    addresses.collect()
}

/// Whether `address` is in a subnet such as `10.9.0.0/16`.
fn is_within(address: IpAddr, subnet: &str) -> bool {
    let Some((base, bits)) = subnet.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let differs =
        |one: u128, other: u128, width: u32| (one ^ other).checked_shr(width.saturating_sub(bits)).unwrap_or(0);
    match (address, base) {
        (IpAddr::V4(one), IpAddr::V4(other)) => differs(one.to_bits().into(), other.to_bits().into(), 32) == 0,
        (IpAddr::V6(one), IpAddr::V6(other)) => differs(one.to_bits(), other.to_bits(), 128) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(json: &str) -> Result<String, String> {
        let network = serde_json::from_str(json).unwrap();
        let own = ["127.0.0.1", "172.18.0.9", "172.17.0.1"].map(|address| address.parse().unwrap());
        gateway_of(&network, &own).map(|gateway| gateway.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_gateway_is_what_the_network_says() {
        let one =
            r#"{"Name":"n","Driver":"bridge","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.77"}]}}"#;
        assert_eq!(gateway(one).unwrap(), "10.9.0.77");
        let both = r#"{"Name":"n","Driver":"bridge","IPAM":{"Config":[
            {"Gateway":"fd00::1/64"},{"Gateway":"10.9.0.1/24"}]}}"#;
        assert_eq!(gateway(both).unwrap(), "10.9.0.1");
        let six = r#"{"Name":"n","Driver":"bridge","IPAM":{"Config":[{"Subnet":"fd00::/64"},{"Gateway":"fd00::1"}]}}"#;
        assert_eq!(gateway(six).unwrap(), "fd00::1");
    }

    #[test]
    fn a_network_that_tells_no_gateway_is_where_this_host_has_an_address() {
        let told = r#"{"Name":"bridge","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.17.0.0/16"}]}}"#;
        assert_eq!(gateway(told).unwrap(), "172.17.0.1");
        assert!(own_addresses().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn subnets_contain_what_shares_their_prefix() {
        let within = |address: &str, subnet: &str| is_within(address.parse().unwrap(), subnet);
        assert!(
            within("10.9.3.4", "10.9.0.0/16") && within("10.9.3.4", "10.9.3.4/32") && within("1.2.3.4", "0.0.0.0/0")
        );
        assert!(within("fd00::9", "fd00::/64") && within("fd00::9", "::/0"));
        assert!(!within("10.8.255.255", "10.9.0.0/16") && !within("10.9.3.5", "10.9.3.4/32"));
        assert!(!within("fd01::9", "fd00::/64") && !within("::a09:304", "10.9.0.0/16"));
        assert!(!within("10.9.3.4", "") && !within("10.9.3.4", "10.9.0.0") && !within("10.9.3.4", "x/y"));
    }

    #[test]
    fn networks_without_a_way_to_this_host_are_refused_by_name() {
        for (name, driver) in [("host", "host"), ("none", "null"), ("lan", "macvlan")] {
            let said =
                gateway(&format!(r#"{{"Name":"{name}","Driver":"{driver}","IPAM":{{"Config":[]}}}}"#)).unwrap_err();
            assert!(said.contains(&format!("{name:?}")) && said.contains(&format!("{driver:?}")), "{said}");
        }
        let said = gateway(r#"{"Name":"n","Driver":"bridge","IPAM":{"Config":null}}"#).unwrap_err();
        assert!(said.contains("no address in network \"n\""), "{said}");
    }
}
