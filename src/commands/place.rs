//! Where the daemon is: `--url`, UNIFAAS_URL, or the settings that `serve` would use.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use hyper::Uri;

use super::error::CommandError;
use crate::{cli::DaemonArgs, config::Configuration};

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// One address of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
    /// Which setting says so.
    pub origin: String,
    /// The certificate that the daemon has, if it speaks TLS.
    pub certificate: Option<PathBuf>,
}

impl Place {
    /// Returns where functions are invoked, and where the admin pages are.
    ///
    /// # Errors
    /// When the URL or the settings are wrong.
    pub fn find(arguments: &DaemonArgs) -> Result<(Self, Self), CommandError> {
        if let Some(url) = arguments.url.as_deref().filter(|url| !url.is_empty()) {
            let (mut place, is_https) = Self::parse(url).map_err(CommandError::Usage)?;
            if is_https {
                let certificate = Configuration::without_arguments()?.serve.tls_cert;
                let message = "https needs `tls-cert` in the settings (UNIFAAS_TLS_CERT): the certificate to expect";
                place.certificate = Some(certificate.ok_or_else(|| CommandError::Usage(message.to_owned()))?);
            }
            return Ok((place.clone(), place));
        }
        let configuration = Configuration::without_arguments()?;
        let serve = &configuration.serve;
        let place = |address, key| Self {
            certificate: serve.tls_cert.clone(),
            ..Self::at(address, format!("`{key}`, {}", configuration.source_of(key)))
        };
        let front = place(serve.listen, "listen");
        let pages = serve.admin_listen.map_or_else(|| front.clone(), |address| place(address, "admin-listen"));
        Ok((front, pages))
    }

    /// Returns the place of a URL, and whether that is of https.
    fn parse(url: &str) -> Result<(Self, bool), String> {
        let wrong = || format!("{url:?} is no URL of a daemon: expected http://HOST:PORT or https://HOST:PORT");
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed: Uri = full.parse().map_err(|_| wrong())?;
        let (is_https, default_port) = match parsed.scheme_str() {
            Some("http") => (false, HTTP_PORT),
            Some("https") => (true, HTTPS_PORT),
            _ => return Err(wrong()),
        };
        let has_bad_port = parsed.port_u16().is_none() && parsed.authority().map(|it| it.as_str()) != parsed.host();
        let is_whole = !has_bad_port && matches!(parsed.path(), "" | "/") && parsed.query().is_none();
        let Some(host) = parsed.host().filter(|_| is_whole) else { return Err(wrong()) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, origin) = (parsed.port_u16().unwrap_or(default_port), "--url or UNIFAAS_URL".to_owned());
        Ok((Self { host, port, origin, certificate: None }, is_https))
    }

    /// Returns the place of a listener of this host.
    fn at(listener: SocketAddr, origin: String) -> Self {
        let ip = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self { host: ip.to_string(), port: listener.port(), origin, certificate: None }
    }

    /// Returns host and port as in a URL.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Returns the URL, without a path.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host() {
        for (url, shown) in [
            ("http://127.0.0.1:8123", "http://127.0.0.1:8123"),
            ("http://127.0.0.1:8123/", "http://127.0.0.1:8123"),
            ("localhost:8123", "http://localhost:8123"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("http://host", "http://host:80"),
        ] {
            assert_eq!(Place::parse(url).map(|(place, _)| place.url()), Ok(shown.to_owned()));
        }
        assert!(Place::parse("https://host").is_ok_and(|(place, is_https)| is_https && place.port == 443));
        for url in ["http://", "http://host/debug", "ftp://host", "a b", "host:99999"] {
            assert!(Place::parse(url).is_err_and(|error| error.contains("http://HOST:PORT")), "{url}");
        }
    }

    #[test]
    fn listeners_of_all_addresses_are_reached_over_loopback() {
        for (listener, shown) in
            [("0.0.0.0:80", "http://127.0.0.1:80"), ("[::]:80", "http://[::1]:80"), ("10.0.0.1:1", "http://10.0.0.1:1")]
        {
            assert_eq!(Place::at(listener.parse().unwrap(), String::new()).url(), shown);
        }
    }
}
