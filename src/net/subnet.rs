//! The range that VMs get their addresses from, and the /30 that each of them gets of it. Pure.

use std::{collections::VecDeque, fmt, net::Ipv4Addr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// Addresses of one link: network, host, guest, broadcast.
const PER_LINK: u32 = 4;
/// Bits of a link's network.
pub const LINK_BITS: u8 = 30;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub base: Ipv4Addr,
    pub bits: u8,
}

impl Subnet {
    /// The one that is used when nobody says otherwise.
    pub const DEFAULT: Self = Self { base: Ipv4Addr::new(10, 100, 0, 0), bits: 16 };

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = mask(self.bits.min(other.bits));
        u32::from(self.base) & mask == u32::from(other.base) & mask
    }

    /// How many links fit into it.
    pub fn links(self) -> u32 {
        1 << (LINK_BITS - self.bits)
    }

    /// The link of that number, which is below [`links`](Self::links).
    pub fn link(self, number: u32) -> Link {
        let network = u32::from(self.base) + number * PER_LINK;
        Link { number, gateway: Ipv4Addr::from(network + 1), guest: Ipv4Addr::from(network + 2) }
    }
}

impl From<Subnet> for IpNet {
    fn from(Subnet { base, bits }: Subnet) -> Self {
        Ipv4Net::new_assert(base, bits).into()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, bits) = text.split_once('/').ok_or("expected ADDRESS/BITS, such as 10.100.0.0/16")?;
        let base: Ipv4Addr = base.parse().map_err(|_| format!("\"{base}\" is not an IPv4 address"))?;
        let bits: u8 = bits.parse().map_err(|_| format!("\"{bits}\" is not a number of bits"))?;
        if !(8..=LINK_BITS).contains(&bits) {
            return Err("a range has 8 to 30 bits: at least one VM must fit into it".to_owned());
        }
        let network = u32::from(base) & mask(bits);
        if network != u32::from(base) {
            return Err(format!(
                "{base} is not the first address of its range; did you mean {}/{bits}?",
                Ipv4Addr::from(network)
            ));
        }
        Ok(Self { base, bits })
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

/// The two ends of the wire between host and guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its place in the subnet.
    pub number: u32,
    /// The host's end.
    pub gateway: Ipv4Addr,
    /// The guest's end.
    pub guest: Ipv4Addr,
}

impl Link {
    /// The netmask of both ends.
    pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

    /// The hardware address of the guest's end: locally administered, unique where its address is.
    pub fn mac(&self) -> String {
        let [a, b, c, d] = self.guest.octets();
        format!("02:fa:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// The links that nobody has, the one returned longest ago first.
#[derive(Debug)]
pub struct FreeLinks {
    subnet: Subnet,
    free: VecDeque<u32>,
}

impl FreeLinks {
    /// All of them.
    pub fn of(subnet: Subnet) -> Self {
        Self { subnet, free: (0..subnet.links()).collect() }
    }

    /// Takes one. `None`: there is none left.
    pub fn take(&mut self) -> Option<Link> {
        self.free.pop_front().map(|number| self.subnet.link(number))
    }

    /// Gives one back.
    pub fn put(&mut self, link: Link) {
        self.free.push_back(link.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_host_has_the_first_address_of_a_link_and_the_guest_the_second() {
        let links = subnet("10.100.0.0/16");
        let first = links.link(0);
        assert_eq!((first.gateway.to_string(), first.guest.to_string()), ("10.100.0.1".into(), "10.100.0.2".into()));
        let last = links.link(links.links() - 1);
        assert_eq!(last.guest.to_string(), "10.100.255.254");
        assert_eq!(last.mac(), "02:fa:0a:64:ff:fe");
    }

    #[test]
    fn a_range_has_as_many_links_as_fit_into_it() {
        assert_eq!(subnet("10.100.0.0/16").links(), 16_384);
        assert_eq!(subnet("10.101.0.0/24").links(), 64);
        assert_eq!(subnet("10.101.0.4/30").links(), 1);
    }

    #[test]
    fn ranges_overlap_when_one_contains_the_other() {
        let ours = subnet("10.100.0.0/16");
        for other in ["10.100.0.0/16", "10.100.7.0/24", "10.0.0.0/8", "10.100.255.252/30"] {
            assert!(ours.overlaps(subnet(other)) && subnet(other).overlaps(ours), "{other}");
        }
        for other in ["10.101.0.0/16", "10.99.255.252/30", "11.0.0.0/8", "192.168.0.0/16"] {
            assert!(!ours.overlaps(subnet(other)) && !subnet(other).overlaps(ours), "{other}");
        }
        let host = Subnet { base: Ipv4Addr::new(10, 100, 3, 9), bits: 32 };
        assert!(ours.overlaps(host) && ours.overlaps(Subnet { base: Ipv4Addr::UNSPECIFIED, bits: 0 }));
    }

    #[test]
    fn every_link_is_free_once_and_a_returned_one_is_taken_last() {
        let mut links = FreeLinks::of(subnet("10.101.0.0/29"));
        let (first, second) = (links.take().unwrap(), links.take().unwrap());
        assert_ne!(first, second);
        assert_eq!(links.take(), None);
        links.put(second);
        links.put(first);
        assert_eq!((links.take(), links.take()), (Some(second), Some(first)));
    }
}
