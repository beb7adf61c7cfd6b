//! The options of a node, checked: which server joins it with others, and what it is called.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, sync::Arc};

use serde::Serialize;
use unifaas_actors::spec::is_label_part;

/// How connections between nodes are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PeerSecurity {
    /// By TLS, with the keys of the nodes.
    Tls,
    /// Not at all: for a network that is safe by itself.
    None,
}

/// The name of a site: a part of the subjects of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site(pub Arc<str>);

/// A label of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLabel {
    pub key: String,
    /// Empty, if there is none.
    pub value: String,
}

/// A host and a port, which may be a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress(pub Arc<str>);

impl FromStr for Site {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_site = !text.is_empty() && text.len() <= 63 && text.bytes().all(is_name);
        is_site.then(|| Self(text.into())).ok_or("expected up to 63 letters, digits, `-` and `_`")
    }
}

impl FromStr for NodeLabel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let is_label = is_label_part(key) && (value.is_empty() || is_label_part(value));
        let label = is_label.then(|| Self { key: key.to_owned(), value: value.to_owned() });
        label.ok_or("expected KEY or KEY=VALUE, of letters, digits, `-`, `_`, `.` and `/`")
    }
}

impl FromStr for PeerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_address = text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0)
            || text.rsplit_once(':').is_some_and(|(host, port)| {
                let is_host =
                    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
                is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
        is_address.then(|| Self(text.into())).ok_or("expected HOST:PORT")
    }
}

/// Returns the name of this host.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unnamed".to_owned() } else { name.trim().to_owned() }
}

/// Returns the labels by key.
pub fn labels(labels: &[NodeLabel]) -> BTreeMap<String, String> {
    labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_tokens_of_subjects() {
        for (text, is_site) in [("default", true), ("eu-1_a", true), ("", false), ("a.b", false), ("a*", false)] {
            assert_eq!(text.parse::<Site>().is_ok(), is_site, "{text}");
        }
    }

    #[test]
    fn labels_may_have_values() {
        let label = |key: &str, value: &str| NodeLabel { key: key.to_owned(), value: value.to_owned() };
        assert_eq!("gpu".parse(), Ok(label("gpu", "")));
        assert_eq!("zone=a".parse(), Ok(label("zone", "a")));
        for wrong in ["", "=a", "a b", "a=b=c"] {
            assert!(wrong.parse::<NodeLabel>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_may_have_names() {
        for (text, is_address) in [
            ("10.0.0.1:8125", true),
            ("[2001:db8::1]:8125", true),
            ("node-1.example:8125", true),
            ("node-1", false),
            ("10.0.0.1:0", false),
            (":8125", false),
            ("a/b:1", false),
        ] {
            assert_eq!(text.parse::<PeerAddress>().is_ok(), is_address, "{text}");
        }
    }
}
