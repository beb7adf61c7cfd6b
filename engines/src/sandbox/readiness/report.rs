//! Says why an instance is not reached, and what its author may have to change. Pure.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use unifaas_actors::spec::Readiness;

use super::attempt::Seen;

/// The kind of sandbox, as far as the advice depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Process,
    Container {
        /// The ports that the image exposes.
        exposed: Vec<u16>,
    },
    Guest,
    /// A guest behind a port of this host, on which its VMM accepts every connection.
    ForwardedGuest {
        /// The port of the guest.
        port: u16,
    },
}

/// What is known of an instance that is not reached.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Where it is to listen.
    pub address: SocketAddr,
    pub place: &'a Place,
    /// Where it listens. `None`: that cannot be seen.
    pub listening: Option<Vec<SocketAddr>>,
}

impl Report<'_> {
    /// Says what an attempt has seen, and how the instance can be reached instead.
    pub fn of_attempt(&self, seen: &Seen, readiness: &Readiness) -> String {
        let path = match readiness {
            Readiness::Http(path) => path.as_str(),
            Readiness::Callback | Readiness::Tcp => "/",
        };
        let target = self.target();
        let is_forwarded = matches!(self.place, Place::ForwardedGuest { .. });
        let said = match seen {
            Seen::Refused => format!("refused connections to {target}"),
            // The VMM has accepted them.
            Seen::Closed if is_forwarded => format!("refused connections to {target}"),
            Seen::Unanswered => format!("did not answer connections to {target}"),
            Seen::Failed(error) => format!("could not be connected to at {target}: {error}"),
            Seen::Status(code) => format!("answered GET {path} at {target} with status {code}"),
            Seen::Silent => format!("did not answer GET {path} at {target}"),
            Seen::Closed => format!("closed connections to {target} without a response"),
            Seen::NotHttp => format!("did not answer GET {path} at {target} in HTTP"),
        };
        match seen {
            Seen::Refused | Seen::Unanswered | Seen::Failed(_) => said + &self.elsewhere(),
            Seen::Closed if is_forwarded => said + &self.elsewhere(),
            _ => said,
        }
    }

    /// Says what an instance that has not called back may have to change. `is_open`: it accepts connections.
    pub fn of_missing_callback(&self, is_open: bool, refused: Option<IpAddr>) -> String {
        let mut text = match refused {
            Some(source) => format!("a callback came from {source}, which is not its address"),
            None => "it never called back".to_owned(),
        };
        if is_open {
            let _ = write!(text, ", but it accepts connections to {}", self.address);
        }
        text += "; if it needs no callback, set `readiness = \"tcp\"`";
        if let (false, Some(port)) = (is_open, self.other_port()) {
            let _ = write!(text, " and `port = {port}`");
        }
        text
    }

    /// Returns where the daemon connects to, as text.
    fn target(&self) -> String {
        match self.place {
            Place::ForwardedGuest { port } => format!("its port {port} (forwarded from {})", self.address),
            _ => self.address.to_string(),
        }
    }

    /// Says where the instance listens instead, or where it has to listen.
    fn elsewhere(&self) -> String {
        let port = self.address.port();
        let listening = self.listening.as_deref().unwrap_or_default();
        let list = || {
            let some = listening.iter().take(4).map(ToString::to_string);
            some.collect::<Vec<_>>().join(", ")
        };
        let is_local = !listening.is_empty() && listening.iter().all(|at| at.ip().to_canonical().is_loopback());
        match self.place {
            Place::Process if listening.is_empty() => format!("; it has to listen on port {port} (`PORT`, `%port`)"),
            Place::Process => {
                format!("; it listens on {}, not on {} (`HOST`, `PORT`, `%ip`, `%port`)", list(), self.address)
            }
            Place::Container { .. } if is_local => {
                format!("; it listens on {}, which only its own container reaches, not on 0.0.0.0:{port}", list())
            }
            Place::Container { exposed } => match (listening, self.other_port()) {
                ([], None) if self.listening.is_some() => "; it listens on no port".to_owned(),
                ([], None) => String::new(),
                ([], Some(other)) => {
                    format!("; its image exposes {}: set `port = {other}` if it listens there", ports(exposed))
                }
                (_, Some(other)) => format!("; it listens on {}: set `port = {other}`", list()),
                (_, None) => format!("; it listens on {}", list()),
            },
            Place::Guest => "; it has to listen on this address, and `port` chooses another port".to_owned(),
            Place::ForwardedGuest { .. } => "; `port` chooses another port".to_owned(),
        }
    }

    /// Returns the port on which a container listens instead, if there is one such port.
    fn other_port(&self) -> Option<u16> {
        let Place::Container { exposed } = self.place else { return None };
        let reachable = |at: &&SocketAddr| !at.ip().to_canonical().is_loopback();
        let mut ports: Vec<u16> = match self.listening.as_deref() {
            None | Some([]) => exposed.clone(),
            Some(listening) => listening.iter().filter(reachable).map(SocketAddr::port).collect(),
        };
        ports.sort_unstable();
        ports.dedup();
        match ports[..] {
            [port] if port != self.address.port() => Some(port),
            _ => None,
        }
    }
}

fn ports(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn container(exposed: &[u16]) -> Place {
        Place::Container { exposed: exposed.to_vec() }
    }

    /// Returns what is said after a refused connection, without that.
    fn elsewhere(place: &Place, listening: Option<&[&str]>) -> String {
        let address = "172.17.0.2:8080".parse().unwrap();
        let report = Report { address, place, listening: listening.map(addresses) };
        let said = report.of_attempt(&Seen::Refused, &Readiness::Tcp);
        said.strip_prefix("refused connections to 172.17.0.2:8080").unwrap().trim_start_matches("; ").to_owned()
    }

    #[test]
    fn container_is_told_by_its_listeners_or_else_by_its_image() {
        let said = |listening| elsewhere(&container(&[80]), listening);
        assert_eq!(said(Some(&["0.0.0.0:3000"])), "it listens on 0.0.0.0:3000: set `port = 3000`");
        assert_eq!(
            said(Some(&["[::]:3000", "127.0.0.1:9"])),
            "it listens on [::]:3000, 127.0.0.1:9: set `port = 3000`"
        );
        assert_eq!(said(Some(&["0.0.0.0:1", "0.0.0.0:2"])), "it listens on 0.0.0.0:1, 0.0.0.0:2");
        let only_itself = "which only its own container reaches, not on 0.0.0.0:8080";
        assert_eq!(said(Some(&["127.0.0.1:8080"])), format!("it listens on 127.0.0.1:8080, {only_itself}"));
        assert_eq!(said(Some(&["[::1]:8080"])), format!("it listens on [::1]:8080, {only_itself}"));
        for unseen in [None, Some(&[][..])] {
            assert_eq!(said(unseen), "its image exposes 80: set `port = 80` if it listens there");
        }
        assert_eq!(elsewhere(&container(&[]), Some(&[])), "it listens on no port");
        assert_eq!(elsewhere(&container(&[8080]), None), "");
    }

    #[test]
    fn process_and_guest_get_the_names_of_their_settings() {
        let said = |listening| elsewhere(&Place::Process, listening);
        assert_eq!(
            said(Some(&["0.0.0.0:5000"])),
            "it listens on 0.0.0.0:5000, not on 172.17.0.2:8080 (`HOST`, `PORT`, `%ip`, `%port`)"
        );
        assert_eq!(said(None), "it has to listen on port 8080 (`PORT`, `%port`)");
        let guest = elsewhere(&Place::Guest, None);
        assert_eq!(guest, "it has to listen on this address, and `port` chooses another port");
    }

    #[test]
    fn forwarded_guest_is_named_by_its_own_port() {
        let place = Place::ForwardedGuest { port: 8080 };
        let report = Report { address: "127.0.0.1:23001".parse().unwrap(), place: &place, listening: None };
        let said = report.of_attempt(&Seen::Closed, &Readiness::Callback);
        let expected = "refused connections to its port 8080 (forwarded from 127.0.0.1:23001)";
        assert_eq!(said, format!("{expected}; `port` chooses another port"));
    }

    #[test]
    fn missing_callback_names_port_and_refused_source() {
        let address = "172.17.0.2:8080".parse().unwrap();
        let place = container(&[80]);
        let said = |listening: Option<&[&str]>, is_open, refused: Option<&str>| {
            let report = Report { address, place: &place, listening: listening.map(addresses) };
            report.of_missing_callback(is_open, refused.map(|source| source.parse().unwrap()))
        };
        let advice = "if it needs no callback, set `readiness = \"tcp\"`";
        assert_eq!(said(None, false, None), format!("it never called back; {advice} and `port = 80`"));
        assert_eq!(said(Some(&["[::]:81"]), false, None), format!("it never called back; {advice} and `port = 81`"));
        let open = format!("it never called back, but it accepts connections to {address}; {advice}");
        assert_eq!(said(Some(&["0.0.0.0:8080"]), true, None), open);
        let refused = format!("a callback came from 10.0.0.9, which is not its address; {advice} and `port = 80`");
        assert_eq!(said(None, false, Some("10.0.0.9")), refused);
    }
}
