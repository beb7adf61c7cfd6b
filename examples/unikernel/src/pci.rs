//! Finding a device on the PCI bus, through the configuration ports that every PC has.

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
    /// The devices on the first bus, which is where QEMU and Firecracker plug what they are asked for.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..32).map(|slot| Self { slot }).filter(|device| device.read(0) != NOTHING)
    }

    /// Vendor (low half) and device (high half).
    pub fn id(self) -> u32 {
        self.read(0)
    }

    /// A register of the configuration space; the offset is rounded down to a multiple of four.
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
    /// The written value must not make the device access memory that it must not access.
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

    /// Lets the device answer in memory and reach memory by itself; its own interrupt line is switched off.
    pub fn enable(self) {
        // SAFETY: it will touch what its driver gives it.
        unsafe { self.write(0x04, self.read(0x04) & 0xffff | 1 << 10 | 1 << 2 | 1 << 1) }
    }

    /// Returns the address in base address register `index`, as the firmware set it; `None` where this kernel cannot reach it:
    /// a range of I/O ports, not set up at all, or past 4 GiB.
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

    /// The capabilities: the offset of each in the configuration space, and its kind.
    pub fn capabilities(self) -> impl Iterator<Item = (u8, u8)> {
        let mut next = self.read(0x34) as u8 & !3;
        // No list is longer than this, unless it is a circle.
        (0..48).map_while(move |_| {
            let offset = next;
            let header = self.read(offset);
            next = (header >> 8) as u8 & !3;
            (offset != 0).then_some((offset, header as u8))
        })
    }
}
