//! The address range of virtual machines, and the /30 subnet that each of them gets. Pure.

use std::{collections::VecDeque, fmt, net::Ipv4Addr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// Number of addresses of one link: network, host, guest, broadcast.
const PER_LINK: u32 = 4;
/// Ranges with fewer links have none for clones.
const MIN_LINKS_WITH_CLONES: u32 = 16;
/// Prefix length of a link's network.
pub const LINK_BITS: u8 = 30;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The first address of the range.
    pub base: Ipv4Addr,
    /// The prefix length: 8 to 30 for the range of the daemon's virtual machines, 0 to 32 for other networks.
    pub bits: u8,
}

impl Subnet {
    /// The range without `--subnet`.
    pub const DEFAULT: Self = Self { base: Ipv4Addr::new(10, 100, 0, 0), bits: 16 };

    /// Returns whether the two ranges have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = mask(self.bits.min(other.bits));
        u32::from(self.base) & mask == u32::from(other.base) & mask
    }

    /// Returns the number of links in the range.
    pub fn links(self) -> u32 {
        1 << (LINK_BITS - self.bits)
    }

    /// Returns the link that all clones have, each on a tap of its own: the last one. `None`: the range is too small.
    pub fn clone_link(self) -> Option<PointToPoint> {
        (self.links() >= MIN_LINKS_WITH_CLONES).then(|| self.link(self.links() - 1))
    }

    /// Returns the link with that number, which is below [`links`](Self::links).
    pub fn link(self, number: u32) -> PointToPoint {
        let network = u32::from(self.base) + number * PER_LINK;
        PointToPoint { number, gateway: Ipv4Addr::from(network + 1), guest: Ipv4Addr::from(network + 2) }
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

/// The addresses of the link between host and guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointToPoint {
    /// The number of the link within the subnet.
    pub number: u32,
    /// The host's address.
    pub gateway: Ipv4Addr,
    /// The guest's address.
    pub guest: Ipv4Addr,
}

impl PointToPoint {
    /// The netmask of both ends.
    pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

    /// Returns the guest's MAC address: locally administered, and as unique as its IP address.
    pub fn mac(&self) -> String {
        self.guest_mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Returns the bytes of the guest's MAC address.
    pub fn guest_mac(&self) -> [u8; 6] {
        mac(self.guest)
    }

    /// Returns the MAC address of the host's end, where that has to be the same on several taps.
    pub fn gateway_mac(&self) -> [u8; 6] {
        mac(self.gateway)
    }
}

fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xfa, a, b, c, d]
}

/// Links that are not in use, in the order in which they were returned.
#[derive(Debug)]
pub struct FreeLinks {
    subnet: Subnet,
    free: VecDeque<u32>,
}

impl FreeLinks {
    /// Returns all links of the range but the one of clones.
    pub fn of(subnet: Subnet) -> Self {
        let count = subnet.clone_link().map_or(subnet.links(), |link| link.number);
        Self { subnet, free: (0..count).collect() }
    }

    /// Takes a link. `None`: every link is in use.
    pub fn take(&mut self) -> Option<PointToPoint> {
        self.free.pop_front().map(|number| self.subnet.link(number))
    }

    /// Returns a link.
    pub fn put(&mut self, link: PointToPoint) {
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
    fn host_has_first_address_of_link_and_guest_second() {
        let links = subnet("10.100.0.0/16");
        let first = links.link(0);
        assert_eq!((first.gateway.to_string(), first.guest.to_string()), ("10.100.0.1".into(), "10.100.0.2".into()));
        let last = links.link(links.links() - 1);
        assert_eq!(last.guest.to_string(), "10.100.255.254");
        assert_eq!(last.mac(), "02:fa:0a:64:ff:fe");
    }

    #[test]
    fn counts_links_of_range() {
        assert_eq!(subnet("10.100.0.0/16").links(), 16_384);
        assert_eq!(subnet("10.101.0.0/24").links(), 64);
        assert_eq!(subnet("10.101.0.4/30").links(), 1);
    }

    #[test]
    fn last_link_is_that_of_clones() {
        assert_eq!(subnet("10.101.0.0/27").clone_link(), None);
        let subnet = subnet("10.101.0.0/26");
        let clones = subnet.clone_link().unwrap();
        assert_eq!((clones.guest.to_string(), clones.mac()), ("10.101.0.62".into(), "02:fa:0a:65:00:3e".into()));
        assert_eq!(clones.gateway_mac(), [0x02, 0xfa, 10, 101, 0, 61]);
        let mut free = FreeLinks::of(subnet);
        let taken: Vec<_> = std::iter::from_fn(|| free.take()).collect();
        assert!(taken.len() == 15 && !taken.contains(&clones));
    }

    #[test]
    fn ranges_overlap_if_one_contains_the_other() {
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
    fn links_are_unique_and_returned_ones_are_taken_last() {
        let mut links = FreeLinks::of(subnet("10.101.0.0/29"));
        let (first, second) = (links.take().unwrap(), links.take().unwrap());
        assert_ne!(first, second);
        assert_eq!(links.take(), None);
        links.put(second);
        links.put(first);
        assert_eq!((links.take(), links.take()), (Some(second), Some(first)));
    }
}
