//! Addresses of brokers, as the command line has them. What is shown of them has no password.

use std::{fmt, str::FromStr};

use http::Uri;
use percent_encoding::percent_decode_str;

/// MQTT's ports, without TLS and with it.
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;
const NATS_PORT: u16 = 4222;

/// `mqtt://[USER[:PASSWORD]@]HOST[:PORT]`, or `mqtts://…` for TLS
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl(pub Broker);

/// `nats://[USER[:PASSWORD]@]HOST[:PORT]`, or `tls://…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUrl(pub Broker);

/// A broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    pub scheme: String,
    pub host: String,
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
}

impl MqttUrl {
    /// Returns whether the broker speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.0.scheme == "mqtts"
    }
}

impl FromStr for MqttUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = if text.starts_with("mqtts:") { MQTTS_PORT } else { MQTT_PORT };
        parse(text, &["mqtt", "mqtts"], port).map(Self).ok_or_else(|| {
            "expected mqtt://HOST or mqtt://HOST:PORT, or mqtts:// for TLS, perhaps with USER:PASSWORD@ before the host"
                .to_owned()
        })
    }
}

impl FromStr for NatsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &["nats", "tls"], NATS_PORT).map(Self).ok_or_else(|| {
            "expected nats://HOST or nats://HOST:PORT, or tls:// for TLS, perhaps with USER:PASSWORD@ before the host"
                .to_owned()
        })
    }
}

fn parse(text: &str, schemes: &[&str], port: u16) -> Option<Broker> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| schemes.contains(scheme))?.to_owned();
    let authority = uri.authority()?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.host().is_empty() {
        return None;
    }
    let login = match authority.as_str().rsplit_once('@') {
        Some((login, _)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            Some((decoded(user)?, decoded(password)?))
        }
        None => None,
    };
    // A number that is no port is not part of what the crate returns.
    let behind = authority.as_str().rsplit('@').next()?.strip_prefix(authority.host())?;
    let port = match behind.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => port,
    };
    Some(Broker { scheme, host: authority.host().to_owned(), port, login })
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

/// Returns an address without what is between `://` and `@`, for people to see.
pub fn without_login(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => address.to_owned(),
        },
        None => address.to_owned(),
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_password() {
        let MqttUrl(broker) = "mqtt://me:s3cret@broker.local".parse().unwrap();
        assert_eq!((broker.host.as_str(), broker.port), ("broker.local", 1883));
        assert_eq!(broker.login, Some(("me".to_owned(), "s3cret".to_owned())));
        assert_eq!(format!("{broker} {broker:?}"), "mqtt://broker.local:1883 mqtt://broker.local:1883");
        let MqttUrl(broker) = "mqtt://a%40b:p%3Aw%2F@h".parse().unwrap();
        assert_eq!(broker.login, Some(("a@b".to_owned(), "p:w/".to_owned())));
        let secure: MqttUrl = "mqtts://h".parse().unwrap();
        assert_eq!((secure.to_string().as_str(), secure.is_tls()), ("mqtts://h:8883", true));
        let NatsUrl(server) = "tls://[::1]:4223/".parse().unwrap();
        assert_eq!((server.to_string().as_str(), server.login), ("tls://[::1]:4223", None));
    }

    #[test]
    fn login_is_left_out_of_a_text() {
        for (text, shown) in
            [("mqtt://me:p@ss@h:1", "mqtt://***@h:1"), ("mqtt://h", "mqtt://h"), ("nonsense", "nonsense")]
        {
            assert_eq!(without_login(text), shown);
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        for text in
            ["", "host", "host:1883", "mqttss://h", "mqtt://", "mqtt://h/x", "mqtt://h?x", "mqtt://h:0", "nats://h"]
        {
            assert!(text.parse::<MqttUrl>().unwrap_err().contains("mqtt://HOST"), "{text}");
        }
        for text in ["mqtt://h", "nats://h/x", "wss://h", "nats://h:99999"] {
            assert!(text.parse::<NatsUrl>().unwrap_err().contains("nats://HOST"), "{text}");
        }
    }
}
