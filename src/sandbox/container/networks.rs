//! Which address this host has in the networks of the containers: the gateway that the engine tells, or where it tells
//! none (Docker's default bridge until the engine has been restarted), the one that the host has in their subnet. Whoever
//! asks for it is about to start a container there, so that is when the network is entered among the [`FunctionPeers`].

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use bollard::models::NetworkInspect;
use ipnet::IpNet;
use unifaas_actors::sandbox::LaunchError;

use crate::host::function_peers::{FunctionPeers, OwnAddress, own_addresses};

use super::engine::{Engine, EngineError, QUICK};

/// What Docker and Podman call the network of a container that names none.
const DEFAULT_NETWORKS: [&str; 2] = ["bridge", "podman"];
/// The driver of networks that containers share with this host.
const BRIDGE: &str = "bridge";

/// The gateways that are known.
#[derive(Debug)]
pub struct Networks {
    engine: Rc<Engine>,
    peers: FunctionPeers,
    gateways: RefCell<HashMap<String, IpAddr>>,
}

impl Networks {
    /// Nothing is known yet.
    pub fn new(engine: Rc<Engine>, peers: FunctionPeers) -> Self {
        Self { engine, peers, gateways: RefCell::default() }
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
        let found = self.inspect(network).await?;
        let gateway = gateway_of(&found, &own_addresses())?;
        self.peers.add_network(found.name.as_deref().unwrap_or(key), ranges_of(&found)?);
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

fn gateway_of(network: &NetworkInspect, own: &[OwnAddress]) -> Result<IpAddr, LaunchError> {
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
        let subnet: Option<IpNet> = config.subnet.as_deref().and_then(|text| text.parse().ok());
        told.or_else(|| {
            own.iter().map(|own| own.address).find(|address| subnet.is_some_and(|net| net.contains(address)))
        })
    });
    let gateways: Vec<IpAddr> = gateways.collect();
    let gateway = gateways.iter().find(|gateway| gateway.is_ipv4()).or(gateways.first());
    gateway.copied().ok_or_else(|| LaunchError::Missing(format!("this host has no address in network {name:?}")))
}

/// The addresses that containers get there.
fn ranges_of(network: &NetworkInspect) -> Result<Vec<IpNet>, LaunchError> {
    let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref()).into_iter().flatten();
    let told = configs.flat_map(|config| [config.subnet.as_deref(), config.gateway.as_deref()]).flatten();
    // A gateway has the length of the prefix with it, or says nothing about the others.
    let ranges: Vec<IpNet> = told.filter_map(|text| text.parse().ok()).collect();
    if ranges.is_empty() {
        let name = network.name.as_deref().unwrap_or_default();
        let why = "so nobody could tell its containers from strangers";
        return Err(LaunchError::Missing(format!("network {name:?} does not tell its addresses, {why}")));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(json: &str) -> Result<String, String> {
        let network = serde_json::from_str(json).unwrap();
        let own = ["127.0.0.1", "172.18.0.9", "172.17.0.1"];
        let own = own.map(|address| OwnAddress { interface: String::new(), address: address.parse().unwrap() });
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
    }

    #[test]
    fn the_ranges_are_the_subnets_and_where_none_is_told_that_of_the_gateway() {
        let ranges = |json: &str| {
            let network = serde_json::from_str(&format!(r#"{{"Name":"n","IPAM":{{"Config":{json}}}}}"#)).unwrap();
            ranges_of(&network).map(|ranges| ranges.iter().map(|range| range.trunc().to_string()).collect::<Vec<_>>())
        };
        let docker = r#"[{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"},{"Subnet":"fd00::/64"}]"#;
        assert_eq!(ranges(docker).unwrap(), ["172.17.0.0/16", "fd00::/64"]);
        assert_eq!(ranges(r#"[{"Gateway":"10.9.0.1/24"}]"#).unwrap(), ["10.9.0.0/24"]);
        for silent in ["null", "[]", r#"[{"Gateway":"10.9.0.1"}]"#] {
            assert!(ranges(silent).unwrap_err().to_string().contains("does not tell its addresses"), "{silent}");
        }
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
