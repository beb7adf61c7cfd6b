//! Reads the engine's inspection of a container. Pure.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, EndpointSettings};

/// What a cold start needs of a container that was started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Whether its first process has exited.
    pub has_exited: bool,
    pub address: Option<IpAddr>,
    /// The address of this host in its network.
    pub gateway: Option<IpAddr>,
    /// The PID of its first process, on this host.
    pub pid: Option<u32>,
    pub stop_signal: Option<String>,
    /// The TCP ports that its image exposes.
    pub exposed: Vec<u16>,
    /// Whether its image has an entry point.
    pub has_entry_point: bool,
}

impl Inspection {
    /// Returns the inspection of a container of which the engine knows no more than that it has exited.
    pub fn exited() -> Self {
        Self { has_exited: true, ..Self::default() }
    }

    pub fn of(found: &ContainerInspectResponse) -> Self {
        let endpoint = endpoints(found).find(|endpoint| address(endpoint).is_some());
        let pid = found.state.as_ref().and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
        let config = found.config.as_ref();
        let exposed = config.and_then(|config| config.exposed_ports.as_ref()).into_iter().flatten();
        Self {
            has_exited: has_exited(found),
            address: endpoint.and_then(address),
            gateway: endpoint.and_then(|endpoint| endpoint.gateway.as_deref()?.parse().ok()),
            pid: pid.filter(|pid| *pid != 0),
            stop_signal: config.and_then(|config| config.stop_signal.clone()),
            exposed: exposed.filter_map(|port| tcp_port(port)).collect(),
            has_entry_point: config
                .and_then(|config| config.entrypoint.as_ref())
                .is_some_and(|words| !words.is_empty()),
        }
    }
}

/// Returns whether the first process of a container has exited.
pub fn has_exited(container: &ContainerInspectResponse) -> bool {
    use ContainerStateStatusEnum::{DEAD, EXITED, REMOVING};
    let status = container.state.as_ref().and_then(|state| state.status);
    matches!(status, Some(EXITED | DEAD | REMOVING))
}

/// Returns whether the engine has paused a container.
pub fn is_paused(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().and_then(|state| state.paused) == Some(true)
}

/// Reads `80/tcp`, or `80` alone.
fn tcp_port(text: &str) -> Option<u16> {
    text.strip_suffix("/tcp").unwrap_or(text).parse().ok()
}

fn endpoints(container: &ContainerInspectResponse) -> impl Iterator<Item = &EndpointSettings> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks.into_iter().flat_map(HashMap::values)
}

/// Returns the addresses of a container.
pub fn addresses(container: &ContainerInspectResponse) -> impl Iterator<Item = IpAddr> {
    endpoints(container).filter_map(address)
}

/// Returns the address in a network, unless that would mean this host.
fn address(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let parse = |text: &Option<String>| {
        let address: IpAddr = text.as_deref()?.parse().ok()?;
        Some(address).filter(|address| !address.is_unspecified() && !address.is_loopback())
    };
    parse(&endpoint.ip_address).or_else(|| parse(&endpoint.global_ipv6_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_network_pid_and_image() {
        let found = r#"{"State":{"Pid":77,"Status":"running"},"Config":{"StopSignal":"SIGQUIT","Entrypoint":["/x"],
            "ExposedPorts":{"80/tcp":{},"53/udp":{}}},"NetworkSettings":{"Networks":{
            "n":{"IPAddress":"10.9.0.2","Gateway":"10.9.0.1"}}}}"#;
        let expected = Inspection {
            has_exited: false,
            address: Some("10.9.0.2".parse().unwrap()),
            gateway: Some("10.9.0.1".parse().unwrap()),
            pid: Some(77),
            stop_signal: Some("SIGQUIT".to_owned()),
            exposed: vec![80],
            has_entry_point: true,
        };
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()), expected);
    }

    #[test]
    fn exited_container_has_no_address_and_no_pid() {
        let found = r#"{"State":{"Pid":0,"Status":"exited"},
            "NetworkSettings":{"Networks":{"bridge":{"IPAddress":"","Gateway":""}}}}"#;
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()), Inspection::exited());
        assert_eq!(Inspection::of(&ContainerInspectResponse::default()), Inspection::default());
    }

    #[test]
    fn addresses_that_mean_this_host_are_none() {
        for address in ["", "0.0.0.0", "127.0.0.1", "none"] {
            let found = format!(r#"{{"NetworkSettings":{{"Networks":{{"n":{{"IPAddress":"{address}"}}}}}}}}"#);
            assert_eq!(Inspection::of(&serde_json::from_str(&found).unwrap()).address, None, "{address:?}");
        }
    }

    #[test]
    fn reads_whether_it_is_paused() {
        let paused = |state: &str| is_paused(&serde_json::from_str(&format!(r#"{{"State":{state}}}"#)).unwrap());
        let both = r#"{"Status":"paused","Running":true,"Paused":true}"#;
        assert_eq!([both, r#"{"Status":"running","Paused":false}"#, "{}"].map(paused), [true, false, false]);
    }

    #[test]
    fn reads_ipv6_address() {
        let found = r#"{"NetworkSettings":{"Networks":{"n":{"IPAddress":"","GlobalIPv6Address":"fd00::2"}}}}"#;
        assert_eq!(Inspection::of(&serde_json::from_str(found).unwrap()).address, Some("fd00::2".parse().unwrap()));
    }
}
