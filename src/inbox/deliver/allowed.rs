//! Where results may be sent: the prefixes of `--deliver-to`.

use std::str::FromStr;

use hyper::Uri;

/// The beginnings of URLs to which results may be delivered.
#[derive(Debug, Clone)]
pub struct DeliverTo(Vec<Target>);

/// The parts of a URL that decide where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub is_tls: bool,
    /// In lower case. An IPv6 address is in brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Target {
    /// Returns the target of a URL of HTTP. A user name is refused, as it makes another host look like an allowed one.
    pub fn of(url: &str) -> Option<(Self, Uri)> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().to_lowercase();
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" if is_tls => 443,
            "" => 80,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let path = uri.path().to_owned();
        (!host.is_empty()).then_some((Self { is_tls, host, port, path }, uri))
    }

    /// Whether a receiver may take the path for another one than it looks like.
    fn is_ambiguous(&self) -> bool {
        let path = self.path.to_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
        path.split(['/', '\\']).any(|part| part == "." || part == "..")
    }

    fn is_below(&self, prefix: &Self) -> bool {
        let is_same = (self.is_tls, &self.host, self.port) == (prefix.is_tls, &prefix.host, prefix.port);
        let rest = self.path.strip_prefix(&prefix.path);
        is_same && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.path.ends_with('/'))
    }
}

impl FromStr for DeliverTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = |text: &str| match Target::of(text.trim()) {
            Some((target, uri)) if uri.query().is_none() && !target.is_ambiguous() => Ok(target),
            _ => Err(format!("expected URLs such as https://HOST/PATH/, with commas between them, not {text:?}")),
        };
        text.split(',').map(prefix).collect::<Result<_, _>>().map(Self)
    }
}

impl DeliverTo {
    /// Whether results may be sent there: scheme, host and port are those of a prefix, and the path is below its path.
    pub fn allows(&self, url: &str) -> bool {
        let target = Target::of(url).map(|(target, _)| target).filter(|target| !target.is_ambiguous());
        target.is_some_and(|target| self.0.iter().any(|prefix| target.is_below(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_below_a_prefix_are_allowed() {
        let allowed: DeliverTo = "https://a.example/hooks, http://b.example:8080/, http://[::1]/".parse().unwrap();
        for url in [
            "https://a.example/hooks",
            "https://A.example:443/hooks/1?x=y",
            "https://a.example/hooks?x",
            "http://b.example:8080",
            "http://[::1]:80/x",
        ] {
            assert!(allowed.allows(url), "{url}");
        }
        for url in [
            "http://a.example/hooks",
            "https://a.example/hooksters",
            "https://a.example.evil/hooks",
            "https://a.example@evil/hooks",
            "https://a.example:444/hooks",
            "https://a.example:99999/hooks",
            "https://a.example/hooks/../admin",
            "https://a.example/hooks/%2E%2e/admin",
            "https://a.example/hooks/..%2fadmin",
            "https://a.example/hooks/..\\admin",
            "http://b.example/",
            "/hooks",
            "",
            "ftp://a.example/hooks",
        ] {
            assert!(!allowed.allows(url), "{url}");
        }
    }

    #[test]
    fn prefixes_are_urls_of_http() {
        for prefixes in ["a.example", "", "https://a,", "https://a/?q", "https://user@a/", "ftp://a/", "https://a/../"]
        {
            let error = prefixes.parse::<DeliverTo>().unwrap_err();
            assert!(error.contains("https://HOST/PATH/"), "{prefixes}: {error}");
        }
    }
}
