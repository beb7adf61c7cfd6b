//! The state file of a snapshot: the layout of the machine, what it was booted from, and a checksum.

use serde::{Deserialize, Serialize};

use crate::{
    kernel,
    machine::{Layout, Machine},
};

const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9;
const CHECKSUM: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    layout: Layout,
    kernel: usize,
    initrd: Option<usize>,
}

/// What a state file has.
#[derive(Debug)]
pub struct Saved {
    pub layout: Layout,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
}

impl Saved {
    pub fn of(machine: &Machine) -> std::io::Result<Self> {
        let (kernel, initrd) =
            (std::fs::read(&machine.kernel)?, machine.initrd.as_ref().map(std::fs::read).transpose()?);
        Ok(Self { layout: machine.layout.clone(), kernel, initrd })
    }

    pub fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let Self { layout, kernel, initrd } = self;
        let header = Header { layout: layout.clone(), kernel: kernel.len(), initrd: initrd.as_ref().map(Vec::len) };
        let header = serde_json::to_vec(&header)?;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(kernel);
        bytes.extend(initrd.iter().flatten());
        let checksum = crc64(&bytes);
        bytes.extend(checksum.to_le_bytes());
        Ok(bytes)
    }

    /// Returns what was saved. `None`: the checksum does not match.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
        if crc64(content).to_le_bytes() != checksum {
            return None;
        }
        let (length, content) = content.split_at_checked(8)?;
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (header, content) = content.split_at_checked(length)?;
        let Header { layout, kernel, initrd } = serde_json::from_slice(header).ok()?;
        let (kernel, rest) = content.split_at_checked(kernel)?;
        Some(Self { layout, kernel: kernel.to_vec(), initrd: initrd.map(|_| rest.to_vec()) })
    }

    /// Returns the machine, without its taps.
    pub fn machine(&self) -> std::io::Result<Machine> {
        let kernel = kernel::inherited(&self.kernel)?;
        let initrd = self.initrd.as_deref().map(kernel::inherited).transpose()?;
        Ok(Machine { kernel, initrd, layout: self.layout.clone(), taps: Vec::new() })
    }
}

fn crc64(bytes: &[u8]) -> u64 {
    let table: Vec<u64> = (0..256)
        .map(|byte| {
            (0..8).fold(byte, |crc: u64, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL.reverse_bits() } else { crc >> 1 })
        })
        .collect();
    bytes.iter().fold(0, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}
