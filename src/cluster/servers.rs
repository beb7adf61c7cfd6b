//! The NATS servers of a site, as `--cluster` has them. What is shown of them has no password.

use std::{fmt, str::FromStr};

use crate::broker::NatsUrl;

/// One server, or several of one cluster of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServers(Vec<NatsUrl>);

impl NatsServers {
    /// Returns the first server, whose scheme and login are those of all.
    pub fn first(&self) -> &NatsUrl {
        &self.0[0]
    }

    /// Returns the addresses of the servers, without their login.
    #[cfg(feature = "cluster")]
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(ToString::to_string)
    }
}

impl FromStr for NatsServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = text.trim_end_matches('/').split(',');
        let first: NatsUrl = all.next().unwrap_or_default().parse()?;
        let scheme = first.0.scheme.clone();
        let mut servers = vec![first];
        for other in all {
            let host = other.split_once("://").map_or(other, |(_, host)| host);
            servers.push(format!("{scheme}://{host}").parse()?);
        }
        Ok(Self(servers))
    }
}

impl fmt::Display for NatsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&servers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_cluster_have_the_scheme_of_the_first() {
        let servers: NatsServers = "tls://me:s3cret@a,b:4333,nats://c".parse().unwrap();
        assert_eq!(servers.to_string(), "tls://a:4222,tls://b:4333,tls://c:4222");
        assert_eq!(servers.first().0.login, Some(("me".to_owned(), "s3cret".to_owned())));
    }

    #[test]
    fn other_addresses_are_refused() {
        for text in
            ["", "host", "host:4222", "ws://h", "nats://", "nats://h/x", "nats://h:0", "nats://a,", "nats://a,b/c"]
        {
            assert!(text.parse::<NatsServers>().unwrap_err().contains("nats://HOST"), "{text}");
        }
    }
}
