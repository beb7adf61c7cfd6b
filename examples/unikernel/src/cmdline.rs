//! Parses the kernel command line: words separated by blanks, most of them `key=value`.

use core::net::{Ipv4Addr, SocketAddrV4};

/// The port of a callback URL without one.
const HTTP: u16 = 80;

/// A kernel command line.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a>(pub &'a str);

/// The network settings: `ip=… mask=… gw=…`.
#[derive(Debug, PartialEq)]
pub struct Network {
    /// The guest's own address.
    pub address: Ipv4Addr,
    /// Prefix length of the network in bits; 24 without `mask=`.
    pub prefix: u8,
    /// The gateway for everything outside of the network.
    pub gateway: Option<Ipv4Addr>,
}

/// Where to report that the function is ready: `callback=http://ADDRESS[:PORT]/PATH`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Callback<'a> {
    /// The address of the server.
    pub server: SocketAddrV4,
    /// The path, with its slash.
    pub path: &'a str,
}

/// A virtio device: `virtio_mmio.device=SIZE@ADDRESS:LINE`, as VMMs append it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MmioDevice {
    /// Address of its registers.
    pub address: u64,
    /// Its interrupt line.
    pub line: u32,
}

impl<'a> CommandLine<'a> {
    /// Returns whether the command line contains a word.
    pub fn has(self, word: &str) -> bool {
        self.0.split_ascii_whitespace().any(|other| other == word)
    }

    /// Returns the network settings.
    ///
    /// # Errors
    /// Names the setting that is missing or wrong.
    pub fn network(self) -> Result<Network, &'static str> {
        let parse = |text: &str| text.parse::<Ipv4Addr>().ok();
        let address = self.values("ip").next().ok_or("ip= is missing on the command line")?;
        let mask =
            self.values("mask").next().map_or(Some(Ipv4Addr::new(255, 255, 255, 0)), parse).map(Ipv4Addr::to_bits);
        let mask = mask.filter(|mask| mask.leading_ones() == mask.count_ones()).ok_or("mask= is not a network mask")?;
        let gateway = match self.values("gw").next() {
            Some(text) => Some(parse(text).ok_or("gw= is not an IPv4 address")?),
            None => None,
        };
        Ok(Network {
            address: parse(address).ok_or("ip= is not an IPv4 address")?,
            prefix: mask.leading_ones() as u8,
            gateway,
        })
    }

    /// Returns the callback, if there is one.
    ///
    /// # Errors
    /// When this guest cannot reach the URL: it has neither DNS nor TLS.
    pub fn callback(self) -> Result<Option<Callback<'a>>, &'static str> {
        let Some(url) = self.values("callback").next() else { return Ok(None) };
        let rest = url.strip_prefix("http://").ok_or("callback= does not begin with http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let server = authority.parse().or_else(|_| authority.parse().map(|address| SocketAddrV4::new(address, HTTP)));
        let server = server.map_err(|_| "callback= does not name an IPv4 address")?;
        Ok(Some(Callback { server, path: if path.is_empty() { "/" } else { path } }))
    }

    /// Returns the virtio devices, without malformed ones.
    pub fn mmio_devices(self) -> impl Iterator<Item = MmioDevice> {
        self.values("virtio_mmio.device").filter_map(|text| {
            let (_size, place) = text.split_once('@')?;
            let mut parts = place.split(':');
            let address = parts.next()?;
            let address = match address.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => address.parse(),
            };
            Some(MmioDevice { address: address.ok()?, line: parts.next()?.parse().ok()? })
        })
    }

    /// Returns the memory of the machine in bytes, if `memory=` says it, in MiB.
    pub fn memory(self) -> Option<usize> {
        let mib: usize = self.values("memory").next()?.parse().ok()?;
        mib.checked_mul(1 << 20)
    }

    fn values(self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.split_ascii_whitespace().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_command_line_of_daemon_and_firecracker() {
        let line = CommandLine(
            "ip=10.100.0.2 gw=10.100.0.1 mask=255.255.255.252 callback=http://10.100.0.1:3000/ready/a1b2 \
             pci=off virtio_mmio.device=4K@0xc0001000:5",
        );
        let network =
            Network { address: Ipv4Addr::new(10, 100, 0, 2), prefix: 30, gateway: Some(Ipv4Addr::new(10, 100, 0, 1)) };
        assert_eq!(line.network(), Ok(network));
        let server = SocketAddrV4::new(Ipv4Addr::new(10, 100, 0, 1), 3000);
        assert_eq!(line.callback(), Ok(Some(Callback { server, path: "/ready/a1b2" })));
        assert!(line.mmio_devices().eq([MmioDevice { address: 0xc000_1000, line: 5 }]));
        assert!(line.has("pci=off"));
        assert!(!line.has("pci"));
    }

    #[test]
    fn finds_devices_of_qemu_and_skips_malformed_ones() {
        let line = CommandLine(
            "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11:3 \
             virtio_mmio.device=512 virtio_mmio.device=512@0xzz:1 virtio_mmio.device=512@0x10",
        );
        let devices = [MmioDevice { address: 0xfeb0_0e00, line: 12 }, MmioDevice { address: 0xfeb0_0c00, line: 11 }];
        assert!(line.mmio_devices().eq(devices));
    }

    #[test]
    fn callback_needs_neither_port_nor_path() {
        let callback = |line| CommandLine(line).callback();
        let server = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 80);
        assert_eq!(callback("callback=http://10.0.0.1"), Ok(Some(Callback { server, path: "/" })));
        assert_eq!(callback("ip=10.0.0.2"), Ok(None));
        assert!(callback("callback=https://10.0.0.1/").is_err());
        assert!(callback("callback=http://example.org/").is_err());
    }

    #[test]
    fn error_names_setting() {
        let error = |line| CommandLine(line).network().unwrap_err();
        assert!(error("").contains("ip= is missing"));
        assert!(error("ip=10.0.0").contains("ip="));
        assert!(error("ip=10.0.0.2 mask=255.0.255.0").contains("mask="));
        assert!(error("ip=10.0.0.2 gw=x").contains("gw="));
    }
}
