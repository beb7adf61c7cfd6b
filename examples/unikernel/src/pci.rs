//! Finds devices on the PCI bus, through the configuration ports of a PC.

use crate::cpu::{Registers, in32, out32};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const NOTHING: u32 = 0xffff_ffff;

/// A device on the first bus.
#[derive(Clone, Copy)]
pub struct Device {
    slot: u32,
}

impl Device {
    /// Returns the devices on the first bus, where QEMU and Firecracker attach them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..32).map(|slot| Self { slot }).filter(|device| device.read(0) != NOTHING)
    }

    /// Returns vendor (low half) and device (high half).
    pub fn id(self) -> u32 {
        self.read(0)
    }

    /// Reads a register of the configuration space; the offset is rounded down to a multiple of four.
    pub fn read(self, offset: u8) -> u32 {
        // SAFETY: selects a configuration register and reads it; that has no effect on memory.
        unsafe {
            out32(ADDRESS, self.select(offset));
            in32(DATA)
        }
    }

    /// Writes a register of the configuration space.
    ///
    /// # Safety
    /// The write must not make the device access memory that is in use.
    pub unsafe fn write(self, offset: u8, value: u32) {
        // SAFETY: the caller's promise.
        unsafe {
            out32(ADDRESS, self.select(offset));
            out32(DATA, value);
        }
    }

    fn select(self, offset: u8) -> u32 {
        1 << 31 | self.slot << 11 | u32::from(offset & !3)
    }

    /// Enables memory space and bus mastering, and disables the device's interrupt line.
    pub fn enable(self) {
        // SAFETY: the device accesses only the memory that its driver gives it.
        unsafe { self.write(0x04, self.read(0x04) & 0xffff | 1 << 10 | 1 << 2 | 1 << 1) }
    }

    /// Returns the address in base address register `index`. `None` if this kernel cannot access it: a range of I/O ports,
    /// not configured, or above 4 GiB.
    pub fn base_address(self, index: u8) -> Option<Registers> {
        let offset = 0x10 + 4 * index;
        let low = self.read(offset);
        let is_64_bit = low & 0b110 == 0b100;
        let address = low & !0xf;
        if low & 1 != 0 || address == 0 || is_64_bit && self.read(offset + 4) != 0 {
            return None;
        }
        // SAFETY: below 4 GiB, and the device answers here.
        Some(unsafe { Registers::at(address as usize) })
    }

    /// Returns the capabilities: the offset of each in the configuration space, and its kind.
    pub fn capabilities(self) -> impl Iterator<Item = (u8, u8)> {
        let mut next = self.read(0x34) as u8 & !3;
        // A longer list is a cycle.
        (0..48).map_while(move |_| {
            let offset = next;
            let header = self.read(offset);
            next = (header >> 8) as u8 & !3;
            (offset != 0).then_some((offset, header as u8))
        })
    }
}
