//! The firewall around guests: one nftables table per daemon, loaded by the `nft` program.
//!
//! A guest reaches the callback listener on its own gateway address, and may reply to the daemon. With egress it also
//! reaches the outside, masqueraded as the host. Everything else is refused: the host's other ports and addresses, other
//! guests, forged source addresses, IPv6. Only the host reaches a guest.
//!
//! A guest with the address of clones reaches one port of its gateway, at which a socket listens that is bound to its tap. The
//! kernel does not track its connections: several guests have the same addresses and ports.
//!
//! The rules match the interface group, which every tap gets before it is up. So the table is loaded once, and a tap
//! costs no run of `nft`. An accept here does not override other tables: a host firewall that drops incoming or forwarded
//! packets has to accept these itself.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
};

use super::{
    error::{NetError, refused},
    subnet::PointToPoint,
};
use crate::spawner::Spawner;

const PROGRAM: &str = "nft";

const FAMILY: &str = "inet";
/// Prefix of the tables of all daemons.
const PREFIX: &str = "unifaas_";
/// The set of interfaces on which a daemon has switched on forwarding.
const UPLINKS: &str = "uplinks";
/// Bit in the group of every tap of every daemon.
const TAPS: u32 = 0x4000_0000;
/// The bit in its place in the group of taps with the address of clones: below all groups with that bit, so that nothing is
/// forwarded there from an uplink.
const CLONES: u32 = 0x2000_0000;

/// The mark of one state directory: part of the name of the table, and the group of its daemon's taps. Always even, and
/// within the range of an `int`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// Returns the mark that belongs to a 32-bit number.
    pub fn new(number: u32) -> Self {
        Self(number & 0x7fff_fffe | TAPS)
    }

    /// Returns the group of taps without egress.
    pub fn closed(self) -> u32 {
        self.0
    }

    /// Returns the group of taps with egress.
    pub fn open(self) -> u32 {
        self.0 | 1
    }

    /// Returns the group of taps with the address of clones. Other daemons take it for an ordinary interface.
    pub fn clones(self) -> u32 {
        self.0 & !TAPS | CLONES
    }

    /// Returns whether a number may be the mark of a daemon.
    pub fn is_one(number: u32) -> bool {
        number & TAPS != 0 && number <= i32::MAX.cast_unsigned()
    }

    /// Returns the groups of all its taps.
    pub fn groups(self) -> [u32; 3] {
        [self.closed(), self.open(), self.clones()]
    }

    fn table(self) -> String {
        format!("{PREFIX}{:08x}", self.0)
    }

    /// Returns commands that delete the table. It is created first: deleting a missing table is an error.
    fn deleted(self) -> String {
        format!("add table inet {table}\ndelete table inet {table}\n", table = self.table())
    }
}

/// The rules of one daemon.
#[derive(Debug, Clone, Copy)]
pub struct Firewall {
    pub mark: Mark,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// The addresses of all clones, and the port at which they call back.
    pub clones: Option<(PointToPoint, u16)>,
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, closed, open) = (self.mark.table(), self.mark.closed(), self.mark.open());
        let (clones, deleted) = (self.mark.clones(), self.mark.deleted());
        let [from_clone, called_back] = match self.clones {
            Some((link, port)) => [
                format!("iifgroup {clones} ip saddr != {} drop", link.guest),
                format!("ip daddr {} tcp dport {port} accept", link.gateway),
            ],
            None => Default::default(),
        };
        let gateway = self.clones.map_or(Ipv4Addr::UNSPECIFIED, |(link, _)| link.gateway);
        let callback = match self.callback {
            SocketAddr::V4(bound) if *bound.ip() != Ipv4Addr::UNSPECIFIED => {
                format!("ip daddr {} tcp dport {}", bound.ip(), bound.port())
            }
            bound => format!("fib daddr . iif type local tcp dport {}", bound.port()),
        };
        write!(
            f,
            "{deleted}table inet {table} {{
  set {UPLINKS} {{ type ifname; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup {{ {closed}, {open}, {clones} }} meta nfproto != ipv4 drop
    iifgroup {{ {closed}, {open} }} fib saddr . iif oif missing drop
    {from_clone}
    iifgroup {clones} notrack
  }}
  chain output {{
    type filter hook output priority raw; policy accept;
    oifgroup {clones} notrack
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifgroup {{ {closed}, {open} }} goto to_host
    iifgroup {clones} goto from_clone
  }}
  chain to_host {{
    ct state established accept
    meta nfproto ipv4 {callback} accept
    goto refuse
  }}
  chain from_clone {{
    ip daddr {gateway} tcp flags & (syn | ack) != syn accept
    {called_back}
    drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifgroup {closed} goto refuse
    iifgroup {clones} drop
    oifgroup {clones} drop
    iifgroup {open} oifgroup {{ {closed}, {open} }} goto refuse
    iifgroup {open} accept
    oifgroup {open} ct state established,related accept
    oifgroup {{ {closed}, {open} }} drop
    iifname @{UPLINKS} oifgroup < {TAPS} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    iifgroup {open} masquerade
  }}
}}
"
        )
    }
}

impl Firewall {
    /// Loads the rules, in place of those that are there, and guards `uplinks`: all at once, or not at all.
    pub async fn install(&self, spawner: &Spawner, uplinks: &[String]) -> Result<(), NetError> {
        let guards: String = uplinks.iter().map(|uplink| self.guarding(uplink)).collect();
        load(spawner, &format!("{self}{guards}")).await.map_err(|why| {
            NetError::Missing(format!("virtual machines cannot be kept apart from this host and each other: {why}"))
        })
    }

    /// Returns whether the rules are loaded.
    pub async fn is_installed(&self, spawner: &Spawner) -> io::Result<bool> {
        let tables = nft(spawner, &["list", "tables", FAMILY], "").await?;
        let own = format!("table {FAMILY} {}", self.mark.table());
        Ok(String::from_utf8_lossy(&tables).lines().any(|table| table == own))
    }

    /// Loads the rules again, and guards `uplinks`, if the table was deleted. Returns whether it was.
    pub async fn repair(&self, spawner: &Spawner, uplinks: &[String]) -> Result<bool, NetError> {
        let is_installed = self.is_installed(spawner).await;
        if is_installed.map_err(refused("the list of firewall tables"))? {
            return Ok(false);
        }
        self.install(spawner, uplinks).await?;
        Ok(true)
    }

    /// Drops packets that are forwarded from `uplink`, except replies to guests with egress. Packets for guests of other
    /// daemons are left to the rules of those.
    pub async fn guard(&self, spawner: &Spawner, uplink: &str) -> Result<(), NetError> {
        load(spawner, &self.guarding(uplink)).await.map_err(|error| NetError::Refused(error.to_string()))
    }

    fn guarding(&self, uplink: &str) -> String {
        format!("add element {FAMILY} {} {UPLINKS} {{ \"{uplink}\" }}\n", self.mark.table())
    }

    /// Returns the uplinks that any daemon guards: it has switched on forwarding there, or depends on it.
    pub async fn guarded_uplinks(spawner: &Spawner) -> io::Result<Vec<String>> {
        let listing = nft(spawner, &["-j", "list", "sets", FAMILY], "").await?;
        Ok(uplinks_in(&serde_json::from_slice(&listing)?))
    }

    /// Deletes the rules. Missing rules are no error.
    pub async fn remove(spawner: &Spawner, mark: Mark) -> io::Result<()> {
        match load(spawner, &mark.deleted()).await {
            // Without the program no rules were loaded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Returns the elements of all sets of uplinks in a JSON listing of nft.
fn uplinks_in(listing: &serde_json::Value) -> Vec<String> {
    let sets = listing["nftables"].as_array().into_iter().flatten().map(|entry| &entry["set"]);
    let of_daemons = sets
        .filter(|set| set["name"] == UPLINKS && set["table"].as_str().is_some_and(|table| table.starts_with(PREFIX)));
    let elements = of_daemons.filter_map(|set| set["elem"].as_array()).flatten();
    elements.filter_map(|element| element.as_str().map(str::to_owned)).collect()
}

/// Has nft carry out commands. All of them take effect, or none.
///
/// # Errors
/// As [`nft`].
async fn load(spawner: &Spawner, commands: &str) -> io::Result<()> {
    nft(spawner, &["-f", "-"], commands).await.map(drop)
}

/// Runs nft. Returns what it prints.
///
/// # Errors
/// `NotFound` if nft is not installed; nft's first line of output if it fails.
async fn nft(spawner: &Spawner, arguments: &[&str], input: &str) -> io::Result<Vec<u8>> {
    match spawner.output(PROGRAM, arguments, input.as_bytes()).await {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("no error message");
            Err(io::Error::other(format!("nft fails: {said}")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "the program nft is not on the PATH (Debian's package is called nftables)";
            Err(io::Error::new(io::ErrorKind::NotFound, why))
        }
        Err(error) => Err(io::Error::other(format!("nft cannot be run: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Subnet;

    fn rules(callback: &str) -> String {
        let clones = "10.100.0.0/16".parse::<Subnet>().unwrap().clone_link().map(|link| (link, 41_234));
        Firewall { mark: Mark::new(0x1234_5678), callback: callback.parse().unwrap(), clones }.to_string()
    }

    #[test]
    fn groups_with_and_without_egress_differ_and_are_not_the_default_group() {
        for number in [0, 1, 7, u32::MAX, 0x8000_0000] {
            let mark = Mark::new(number);
            assert_eq!(mark.closed() + 1, mark.open());
            assert!(mark.groups().iter().all(|group| *group > 0) && !Mark::is_one(mark.clones()));
            assert!(Mark::is_one(mark.closed()) && Mark::is_one(mark.open()));
            assert!(mark.closed() > 0 && i32::try_from(mark.open()).is_ok());
        }
    }

    #[test]
    fn reads_uplinks_of_daemons_from_listing() {
        let listing = serde_json::json!({ "nftables": [
            { "metainfo": { "json_schema_version": 1 } },
            { "set": { "name": "uplinks", "table": "unifaas_40000002", "elem": ["eth0", "eth1"] } },
            { "set": { "name": "uplinks", "table": "unifaas_40000004" } },
            { "set": { "name": "uplinks", "table": "foreign", "elem": ["eth2"] } },
            { "set": { "name": "another", "table": "unifaas_40000002", "elem": ["eth3"] } },
        ] });
        assert_eq!(uplinks_in(&listing), ["eth0", "eth1"]);
        assert_eq!(uplinks_in(&serde_json::Value::Null), [""; 0]);
    }

    #[test]
    fn accepts_callbacks_only_at_the_address_of_the_listener() {
        let everywhere = "    meta nfproto ipv4 fib daddr . iif type local tcp dport 8124 accept\n    goto refuse\n";
        assert!(rules("0.0.0.0:8124").contains(everywhere));
        assert!(rules("[::]:8124").contains(everywhere));
        let one = "    meta nfproto ipv4 ip daddr 192.0.2.7 tcp dport 3001 accept\n    goto refuse\n";
        assert!(rules("192.0.2.7:3001").contains(one));
    }

    #[test]
    fn clones_reach_one_port_and_have_one_address() {
        let (rules, clones) = (rules("0.0.0.0:8124"), Mark::new(0x1234_5678).clones());
        let expected = [
            format!("iifgroup {clones} ip saddr != 10.100.255.254 drop\n"),
            format!("oifgroup {clones} notrack\n"),
            "ip daddr 10.100.255.253 tcp dport 41234 accept\n    drop\n".to_owned(),
        ];
        assert!(expected.iter().all(|line| rules.contains(line)), "{rules}");
    }

    #[test]
    fn refuses_forwarding_from_taps_without_egress_first() {
        let rules = rules("0.0.0.0:8124");
        let (_, forward) = rules.split_once("hook forward").unwrap();
        let first = forward.lines().nth(1).unwrap();
        assert_eq!(first.trim(), format!("iifgroup {} goto refuse", Mark::new(0x1234_5678).closed()));
    }
}
