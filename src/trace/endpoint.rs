//! Where a collector takes spans.

use std::{fmt, str::FromStr};

use http::Uri;

/// Below the endpoint, as OTLP says.
const PATH: &str = "/v1/traces";
const DEFAULT_PORT: u16 = 80;

/// The endpoint of a collector: `http://HOST:PORT`, perhaps with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// As it was given.
    text: String,
    /// `host:port`
    pub authority: String,
    /// Where spans are posted.
    pub path: String,
}

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected http://HOST:PORT".to_owned();
        let uri: Uri = text.parse().map_err(|error| format!("{}: {error}", expected()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(format!("{}: a collector on this host speaks TLS to others", expected())),
            _ => return Err(expected()),
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(expected)?;
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        let path = format!("{}{PATH}", uri.path().trim_end_matches('/'));
        Ok(Self { text: text.to_owned(), authority: format!("{}:{port}", authority.host()), path })
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_of_http() {
        for (text, authority, path) in [
            ("http://localhost:4318", "localhost:4318", "/v1/traces"),
            ("http://[::1]:4318/", "[::1]:4318", "/v1/traces"),
            ("http://collector/otlp/", "collector:80", "/otlp/v1/traces"),
        ] {
            let endpoint: OtlpEndpoint = text.parse().unwrap();
            assert_eq!((&*endpoint.authority, &*endpoint.path, &*endpoint.to_string()), (authority, path, text));
        }
        for text in ["", "localhost:4318", "/v1", "ftp://x", "http://", "http://user@host:1", "grpc://x:4317"] {
            assert!(OtlpEndpoint::from_str(text).unwrap_err().contains("http://HOST:PORT"), "{text}");
        }
        assert!(OtlpEndpoint::from_str("https://x").unwrap_err().contains("TLS"));
    }
}
