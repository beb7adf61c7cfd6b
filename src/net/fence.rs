//! What guests may reach: rules of one nftables table of our own, loaded by the `nft` program.
//!
//! A guest reaches the callback listener on its own gateway address; what it answers to the daemon passes as well. With
//! egress it also reaches the outside, behind the host's address. Everything else is refused: the host's other ports and
//! addresses, other guests, forged source addresses, IPv6; and nobody but the host reaches a guest.
//!
//! The rules tell taps by their interface group, which every tap is given before it is up. So they are loaded once and
//! not touched again unless somebody removes them, and a tap costs no run of `nft`. Accepting here overrules no other
//! table: a host firewall that drops incoming or forwarded packets has to let these through itself.

use std::{
    fmt,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use nix::sys::{prctl, signal::Signal};

use super::NetError;

const PROGRAM: &str = "nft";

const FAMILY: &str = "inet";
/// How the names of the tables of all daemons begin.
const PREFIX: &str = "unifaas_";
/// The set of interfaces that forward because of guests.
const UPLINKS: &str = "uplinks";
/// In the group of every tap of every daemon.
const TAPS: u32 = 0x4000_0000;

/// The mark of one state directory: on the table and on the groups of the taps of its daemon. Never odd, never above what
/// fits into an `int`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// The mark that belongs to a number of 32 bits.
    pub fn new(number: u32) -> Self {
        Self(number & 0x7fff_fffe | TAPS)
    }

    /// Group of taps whose guests stay inside.
    pub fn closed(self) -> u32 {
        self.0
    }

    /// Group of taps whose guests reach the outside.
    pub fn open(self) -> u32 {
        self.0 | 1
    }

    fn table(self) -> String {
        format!("{PREFIX}{:08x}", self.0)
    }

    /// Commands after which the table is not there, whether it was or not: one that is not cannot be deleted.
    fn fresh(self) -> String {
        format!("add table inet {table}\ndelete table inet {table}\n", table = self.table())
    }
}

/// The rules.
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    pub mark: Mark,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, closed, open) = (self.mark.table(), self.mark.closed(), self.mark.open());
        let fresh = self.mark.fresh();
        let callback = match self.callback {
            SocketAddr::V4(bound) if *bound.ip() != Ipv4Addr::UNSPECIFIED => {
                format!("ip daddr {} tcp dport {}", bound.ip(), bound.port())
            }
            bound => format!("fib daddr . iif type local tcp dport {}", bound.port()),
        };
        write!(
            f,
            "{fresh}table inet {table} {{
  set {UPLINKS} {{ type ifname; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup {{ {closed}, {open} }} meta nfproto != ipv4 drop
    iifgroup {{ {closed}, {open} }} fib saddr . iif oif missing drop
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifgroup {{ {closed}, {open} }} goto to_host
  }}
  chain to_host {{
    ct state established accept
    meta nfproto ipv4 {callback} accept
    goto refuse
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifgroup {closed} goto refuse
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

impl Fence {
    /// Puts the rules into force.
    pub fn raise(&self) -> Result<(), NetError> {
        nft(&self.to_string()).map_err(|why| {
            NetError::Missing(format!("virtual machines cannot be kept apart from this host and each other: {why}"))
        })
    }

    /// Whether the rules are in force.
    pub fn stands(&self) -> bool {
        nft(&format!("list table {FAMILY} {}\n", self.mark.table())).is_ok()
    }

    /// Packets that come from `uplink` are not forwarded, but to guests that have asked for them. Those of another daemon
    /// are its own concern.
    pub fn guard(mark: Mark, uplink: &str) -> Result<(), NetError> {
        nft(&format!("add element inet {} uplinks {{ \"{uplink}\" }}", mark.table()))
            .map_err(|error| NetError::Refused(error.to_string()))
    }

    /// The uplinks that some daemon guards: it has switched on forwarding, or relies on it as well.
    pub fn guarded() -> Vec<String> {
        let run = || Command::new(PROGRAM).args(["-j", "list", "sets", FAMILY]).stderr(Stdio::null()).output();
        let listing = run().map(|output| serde_json::from_slice(&output.stdout).unwrap_or_default());
        uplinks_in(&listing.unwrap_or_default())
    }

    /// Removes the rules. Those that are not there are no error.
    pub fn lower(mark: Mark) -> io::Result<()> {
        match nft(&mark.fresh()) {
            // Nobody can have loaded them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The elements of the sets of uplinks in a listing.
fn uplinks_in(listing: &serde_json::Value) -> Vec<String> {
    let sets = listing["nftables"].as_array().into_iter().flatten().map(|entry| &entry["set"]);
    let of_daemons = sets
        .filter(|set| set["name"] == UPLINKS && set["table"].as_str().is_some_and(|table| table.starts_with(PREFIX)));
    let elements = of_daemons.filter_map(|set| set["elem"].as_array()).flatten();
    elements.filter_map(|element| element.as_str().map(str::to_owned)).collect()
}

/// `NotFound`: there is no such program.
fn nft(commands: &str) -> io::Result<()> {
    let run = || {
        let mut command = Command::new(PROGRAM);
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Lest it loads the rules of a daemon that is no more, behind the back of the next one.
        // SAFETY: one system call, which neither allocates nor locks.
        unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        child.wait_with_output()
    };
    match run() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("without a word");
            Err(io::Error::other(format!("nft refuses its rules: {said}")))
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

    fn rules(callback: &str) -> String {
        Fence { mark: Mark::new(0x1234_5678), callback: callback.parse().unwrap() }.to_string()
    }

    #[test]
    fn the_two_groups_of_a_daemon_differ_from_each_other_and_from_the_default_group() {
        for number in [0, 1, 7, u32::MAX, 0x8000_0000] {
            let mark = Mark::new(number);
            assert_eq!(mark.closed() + 1, mark.open());
            assert!(mark.closed() > 0 && i32::try_from(mark.open()).is_ok());
        }
    }

    #[test]
    fn uplinks_of_daemons_are_read_from_a_listing() {
        let listing = serde_json::json!({ "nftables": [
            { "metainfo": { "json_schema_version": 1 } },
            { "set": { "name": "uplinks", "table": "unifaas_40000002", "elem": ["eth0", "eth1"] } },
            { "set": { "name": "uplinks", "table": "unifaas_40000004" } },
            { "set": { "name": "uplinks", "table": "somebodys", "elem": ["eth2"] } },
            { "set": { "name": "another", "table": "unifaas_40000002", "elem": ["eth3"] } },
        ] });
        assert_eq!(uplinks_in(&listing), ["eth0", "eth1"]);
        assert_eq!(uplinks_in(&serde_json::Value::Null), [""; 0]);
    }

    #[test]
    fn the_callback_is_allowed_where_it_listens_and_only_there() {
        let everywhere = "    meta nfproto ipv4 fib daddr . iif type local tcp dport 3000 accept\n    goto refuse\n";
        assert!(rules("0.0.0.0:3000").contains(everywhere));
        assert!(rules("[::]:3000").contains(everywhere));
        let one = "    meta nfproto ipv4 ip daddr 192.0.2.7 tcp dport 3001 accept\n    goto refuse\n";
        assert!(rules("192.0.2.7:3001").contains(one));
    }

    #[test]
    fn a_closed_tap_forwards_nothing_before_anything_else_is_asked() {
        let rules = rules("0.0.0.0:3000");
        let (_, forward) = rules.split_once("hook forward").unwrap();
        let first = forward.lines().nth(1).unwrap();
        assert_eq!(first.trim(), format!("iifgroup {} goto refuse", Mark::new(0x1234_5678).closed()));
    }
}
