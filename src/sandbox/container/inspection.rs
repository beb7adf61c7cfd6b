//! Reads the engine's inspection of a container. Pure.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{ContainerInspectResponse, EndpointSettings};

/// What a cold start needs of a container that was started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub address: Option<IpAddr>,
    /// The address of this host in its network.
    pub gateway: Option<IpAddr>,
    /// The PID of its first process, on this host.
    pub pid: Option<u32>,
    pub stop_signal: Option<String>,
}

impl Inspection {
    pub fn of(found: &ContainerInspectResponse) -> Self {
        let endpoint = endpoints(found).find(|endpoint| address(endpoint).is_some());
        let pid = found.state.as_ref().and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
        Self {
            address: endpoint.and_then(address),
            gateway: endpoint.and_then(|endpoint| endpoint.gateway.as_deref()?.parse().ok()),
            pid: pid.filter(|pid| *pid != 0),
            stop_signal: found.config.as_ref().and_then(|config| config.stop_signal.clone()),
        }
    }
}

fn endpoints(container: &ContainerInspectResponse) -> impl Iterator<Item = &EndpointSettings> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks.into_iter().flat_map(HashMap::values)
}

/// Returns the addresses of a container.
pub fn addresses(container: &ContainerInspectResponse) -> impl Iterator<Item = IpAddr> {
    endpoints(container).filter_map(address)
}

fn address(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let parse = |text: &Option<String>| text.as_deref()?.parse().ok();
    parse(&endpoint.ip_address).or_else(|| parse(&endpoint.global_ipv6_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_address_gateway_pid_and_signal() {
        let found = r#"{"State":{"Pid":77},"Config":{"StopSignal":"SIGQUIT"},"NetworkSettings":{"Networks":{
            "n":{"IPAddress":"10.9.0.2","Gateway":"10.9.0.1"}}}}"#;
        let expected = Inspection {
            address: Some("10.9.0.2".parse().unwrap()),
            gateway: Some("10.9.0.1".parse().unwrap()),
            pid: Some(77),
            stop_signal: Some("SIGQUIT".to_owned()),
        };
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()), expected);
    }

    #[test]
    fn exited_container_has_no_address_and_no_pid() {
        let found = r#"{"State":{"Pid":0},"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"","Gateway":""}}}}"#;
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()), Inspection::default());
        assert_eq!(Inspection::of(&ContainerInspectResponse::default()), Inspection::default());
    }

    #[test]
    fn reads_ipv6_address() {
        let found = r#"{"NetworkSettings":{"Networks":{"n":{"IPAddress":"","GlobalIPv6Address":"fd00::2"}}}}"#;
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()).address, Some("fd00::2".parse().unwrap()));
    }
}
