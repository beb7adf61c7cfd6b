//! A range of addresses that nothing on this host uses.

use std::{fs, net::Ipv4Addr};

/// The second bytes of 10.x.0.0/16 that are tried. The daemon's default is 100.
const CANDIDATES: std::ops::RangeInclusive<u8> = 101..=199;
const BITS: u32 = 16;

/// Returns a range that no route of this host overlaps. Each index has another one.
pub fn free(index: usize) -> Option<String> {
    free_in(&fs::read_to_string("/proc/net/route").unwrap_or_default(), index)
}

fn free_in(routes: &str, index: usize) -> Option<String> {
    let used: Vec<_> = routes.lines().skip(1).filter_map(route).collect();
    let overlaps = |candidate: u32| {
        // The default route overlaps everything, and does not count.
        used.iter().filter(|(_, mask)| *mask != 0).any(|(address, mask)| {
            let common = mask & (u32::MAX << (32 - BITS));
            address & common == candidate & common
        })
    };
    let candidates = CANDIDATES.map(|second| Ipv4Addr::new(10, second, 0, 0));
    let free = candidates.filter(|address| !overlaps(u32::from(*address))).nth(index);
    free.map(|address| format!("{address}/{BITS}"))
}

/// Returns destination and mask of a line of /proc/net/route, which has them as the bytes lie in memory.
fn route(line: &str) -> Option<(u32, u32)> {
    let mut columns = line.split_whitespace();
    let mut number = |at| u32::from_str_radix(columns.nth(at)?, 16).ok().map(u32::from_be);
    Some((number(1)?, number(5)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn ranges_of_routes_are_avoided() {
        let default = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(free_in(&format!("{HEAD}{default}"), 0).as_deref(), Some("10.101.0.0/16"));
        assert_eq!(free_in(HEAD, 1).as_deref(), Some("10.102.0.0/16"));
        let narrow = "faas0\t0400650A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0\n";
        assert_eq!(free_in(&format!("{HEAD}{default}{narrow}"), 0).as_deref(), Some("10.102.0.0/16"));
        let wide = "tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
        assert_eq!(free_in(&format!("{HEAD}{wide}"), 0), None);
    }
}
