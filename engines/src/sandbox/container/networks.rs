//! The address of this host in the networks of containers: the gateway that the engine reports, or the host's own
//! address in the subnet. Docker's default bridge has no reported gateway until the engine has been restarted.
//!
//! A gateway is looked up before the first container starts in its network, so that is when the network is added to the
//! [`FunctionPeers`].

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use bollard::{Docker, models::NetworkInspect};
use ipnet::IpNet;
use tokio::task::spawn_blocking;
use unifaas_actors::sandbox::LaunchError;

use crate::host::function_peers::{FunctionPeers, OwnAddress, own_addresses};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    engine_error::EngineError,
};

/// The networks of containers without a `network`, in Docker and in Podman.
const DEFAULT_NETWORKS: [&str; 2] = ["bridge", "podman"];
/// The driver of networks that containers share with this host.
const BRIDGE: &str = "bridge";

/// Looks gateways up, and remembers them.
#[derive(Debug)]
pub struct Networks {
    engine: Rc<Engine>,
    peers: FunctionPeers,
    gateways: RefCell<HashMap<String, IpAddr>>,
}

impl Networks {
    /// Returns an empty lookup.
    pub fn new(engine: Rc<Engine>, peers: FunctionPeers) -> Self {
        Self { engine, peers, gateways: RefCell::default() }
    }

    /// Returns the gateway of `network`, or of the engine's default network.
    ///
    /// # Errors
    /// When there is no such network, or its containers cannot reach this host.
    pub async fn gateway(&self, network: Option<&str>) -> Result<IpAddr, LaunchError> {
        let key = network.unwrap_or_default();
        if let Some(gateway) = self.gateways.borrow().get(key) {
            return Ok(*gateway);
        }
        let (asked, found) = self.inspect(network).await?;
        // The kernel lists addresses only when no interface is being changed, and an engine may change many.
        let own = spawn_blocking(own_addresses).await.unwrap_or_default();
        let gateway = gateway_of(&found, &own)?;
        self.peers.add_network(name_of(&found).unwrap_or(&asked), ranges_of(&found)?);
        self.gateways.borrow_mut().insert(key.to_owned(), gateway);
        Ok(gateway)
    }

    /// Forgets a gateway, as the network may have been removed and created again.
    pub fn forget(&self, network: Option<&str>) {
        self.gateways.borrow_mut().remove(network.unwrap_or_default());
    }

    /// Returns the network, and the name by which the engine was asked for it.
    async fn inspect(&self, network: Option<&str>) -> Result<(String, NetworkInspect), EngineError> {
        let inspect = async |name: &str| {
            let inspect = async |docker: Docker| docker.inspect_network(name, None).await;
            let found = self.engine.ask("inspect network", QUICK_CALL_TIMEOUT, inspect).await?;
            Ok((name.to_owned(), found))
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

/// Returns the name of a network. Not every engine reports it.
fn name_of(network: &NetworkInspect) -> Option<&str> {
    network.name.as_deref().filter(|name| !name.is_empty())
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
        // Some engines append the prefix length.
        let reported = config.gateway.as_deref().and_then(|text| text.split('/').next()?.parse().ok());
        let subnet: Option<IpNet> = config.subnet.as_deref().and_then(|text| text.parse().ok());
        reported.or_else(|| {
            own.iter().map(|own| own.address).find(|address| subnet.is_some_and(|net| net.contains(address)))
        })
    });
    let gateways: Vec<IpAddr> = gateways.collect();
    let gateway = gateways.iter().find(|gateway| gateway.is_ipv4()).or(gateways.first());
    gateway.copied().ok_or_else(|| LaunchError::Missing(format!("this host has no address in network {name:?}")))
}

/// Returns the ranges of which the containers get their addresses.
fn ranges_of(network: &NetworkInspect) -> Result<Vec<IpNet>, LaunchError> {
    let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref()).into_iter().flatten();
    let texts = configs.flat_map(|config| [config.subnet.as_deref(), config.gateway.as_deref()]).flatten();
    // A gateway without a prefix length is no range.
    let ranges: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
    if ranges.is_empty() {
        let name = network.name.as_deref().unwrap_or_default();
        let why = "so its containers could not be recognized as peers";
        return Err(LaunchError::Missing(format!("network {name:?} does not report its addresses, {why}")));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };

    fn gateway(json: &str) -> Result<String, String> {
        let network = serde_json::from_str(json).unwrap();
        let own = ["127.0.0.1", "172.18.0.9", "172.17.0.1"];
        let own = own.map(|address| OwnAddress { interface: String::new(), address: address.parse().unwrap() });
        gateway_of(&network, &own).map(|gateway| gateway.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn gateway_is_what_the_network_reports() {
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
    fn without_reported_gateway_it_is_the_hosts_address_in_the_subnet() {
        let without = r#"{"Name":"bridge","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.17.0.0/16"}]}}"#;
        assert_eq!(gateway(without).unwrap(), "172.17.0.1");
    }

    #[test]
    fn ranges_are_the_subnets_or_that_of_the_gateway() {
        let ranges = |json: &str| {
            let network = serde_json::from_str(&format!(r#"{{"Name":"n","IPAM":{{"Config":{json}}}}}"#)).unwrap();
            ranges_of(&network).map(|ranges| ranges.iter().map(|range| range.trunc().to_string()).collect::<Vec<_>>())
        };
        let docker = r#"[{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"},{"Subnet":"fd00::/64"}]"#;
        assert_eq!(ranges(docker).unwrap(), ["172.17.0.0/16", "fd00::/64"]);
        assert_eq!(ranges(r#"[{"Gateway":"10.9.0.1/24"}]"#).unwrap(), ["10.9.0.0/24"]);
        for without in ["null", "[]", r#"[{"Gateway":"10.9.0.1"}]"#] {
            assert!(ranges(without).unwrap_err().to_string().contains("does not report its addresses"), "{without}");
        }
    }

    #[test]
    fn refuses_networks_without_a_route_to_this_host() {
        for (name, driver) in [("host", "host"), ("none", "null"), ("lan", "macvlan")] {
            let said =
                gateway(&format!(r#"{{"Name":"{name}","Driver":"{driver}","IPAM":{{"Config":[]}}}}"#)).unwrap_err();
            assert!(said.contains(&format!("{name:?}")) && said.contains(&format!("{driver:?}")), "{said}");
        }
        let said = gateway(r#"{"Name":"n","Driver":"bridge","IPAM":{"Config":null}}"#).unwrap_err();
        assert!(said.contains("no address in network \"n\""), "{said}");
    }

    #[tokio::test]
    async fn networks_without_a_reported_name_are_told_apart() {
        let found = async {
            let (_directory, engine, _) = mock_engine(&[
                OLD,
                r#"200 {"Driver":"bridge","IPAM":{"Config":[{"Subnet":"10.7.0.0/24","Gateway":"10.7.0.1"}]}}"#,
                r#"404 {"message":"network bridge not found"}"#,
                r#"200 {"Name":"","Driver":"bridge","IPAM":{"Config":[{"Subnet":"10.8.0.0/24","Gateway":"10.8.0.1"}]}}"#,
            ]);
            let peers = FunctionPeers::default();
            let networks = Networks::new(Rc::new(engine), peers.clone());
            for gateway in ["10.7.0.1", "10.8.0.1"] {
                assert_eq!(networks.gateway(None).await, Ok(gateway.parse().unwrap()));
                networks.forget(None);
            }
            ["10.7.0.9:1", "10.8.0.9:1", "10.9.0.9:1"].map(|peer| peers.include(peer.parse().unwrap()))
        };
        assert_eq!(LocalSet::new().run_until(found).await, [true, true, false]);
    }
}
