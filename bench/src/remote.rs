//! A daemon that runs already, and its functions.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::{
    daemon::{Daemon, Place},
    error::BenchError,
    options::RunArgs,
    registry::{Damaged, Source, is_chosen},
};

/// Returns where the daemon of the arguments serves. `None`: an own one is measured.
///
/// # Errors
/// When a URL is none, or its host has no address.
pub fn place(arguments: &RunArgs) -> Result<Option<Place>, BenchError> {
    let Some(url) = &arguments.daemon else { return Ok(None) };
    let front = address("--daemon", url)?;
    let admin = arguments.admin.as_ref().map_or(Ok(front), |url| address("--admin", url))?;
    Ok(Some(Place { front, admin }))
}

/// Resolves the host once, so that no name is resolved in any figure.
fn address(option: &str, url: &str) -> Result<SocketAddr, BenchError> {
    let usage = |why: &str| BenchError::Usage(format!("{option} {url}: {why}"));
    let rest = url.strip_prefix("http://").ok_or_else(|| usage("expected http://HOST:PORT"))?;
    let authority = rest.trim_end_matches('/');
    if authority.contains('/') {
        return Err(usage("expected http://HOST:PORT without a path"));
    }
    let authority = if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
    let mut addresses = authority.to_socket_addrs().map_err(|error| usage(&error.to_string()))?;
    addresses.next().ok_or_else(|| usage("the host has no address"))
}

fn has_port(authority: &str) -> bool {
    // The colons of an IPv6 address are in brackets.
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

/// Returns the functions of a daemon that the patterns choose, and those without a valid file.
///
/// # Errors
/// When the daemon does not answer with its pages.
pub async fn sources(place: Place, patterns: &[String]) -> Result<(Vec<Source>, Vec<Damaged>), BenchError> {
    let daemon = Daemon::running(place);
    let page = daemon.page("/debug/summary").await?;
    let names = page["functions"].as_object().into_iter().flatten().map(|(name, _)| name);
    let (mut sources, mut damaged) = (Vec::new(), Vec::new());
    for name in names.filter(|name| is_chosen(name, patterns)) {
        let page = daemon.function(name).await?;
        match Source::of_page(name, &page["spec"]["sandbox"]) {
            Some(source) => sources.push(source),
            None => damaged.push((name.clone(), page["reason"].as_str().unwrap_or("it has no sandbox").to_owned())),
        }
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((sources, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_addresses() {
        for (url, expected) in [
            ("http://127.0.0.1:8123", "127.0.0.1:8123"),
            ("http://127.0.0.1:8123/", "127.0.0.1:8123"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://[::1]:8123", "[::1]:8123"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(address("--daemon", url).unwrap(), expected.parse().unwrap(), "{url}");
        }
        for url in ["127.0.0.1:8123", "https://x", "http://127.0.0.1/path", "http://127.0.0.1:x"] {
            let error = address("--admin", url).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--admin {url}: ")), "{error}");
        }
    }
}
