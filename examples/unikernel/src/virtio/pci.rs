//! virtio over PCI, for QEMU's pc and q35. Structures are those of the standard, section 4.1. Interrupts use MSI-X, which
//! is independent of the board's interrupt routing.

use super::{
    NETWORK, RECEIVE,
    queue::{Addresses, SIZE},
};
use crate::{cpu::Registers, interrupts, pci::Device};

/// Vendor and device of a virtio network device: modern and transitional.
const IDS: [u32; 2] = [(0x1040 + NETWORK) << 16 | 0x1af4, 0x1000_1af4];

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSI_X: u8 = 0x11;

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// The first entry of the MSI-X table, and the value for no entry.
const VECTOR: u16 = 0;
const NO_VECTOR: u16 = 0xffff;

/// A device on the PCI bus.
pub struct Pci {
    common: Registers,
    device: Registers,
    notify: Registers,
    /// Bytes between the notification registers of queues, and the index of each queue's register.
    stride: usize,
    places: [u16; 2],
}

impl Pci {
    /// Returns the first network device.
    pub fn network() -> Option<Self> {
        Device::all().filter(|device| IDS.contains(&device.id())).find_map(Self::of)
    }

    fn of(device: Device) -> Option<Self> {
        device.enable();
        let (mut common, mut notify, mut specific, mut stride, mut interrupts) = (None, None, None, 0, None);
        for (at, kind) in device.capabilities() {
            match kind {
                CAPABILITY_VENDOR => {
                    let which = (device.read(at) >> 24) as u8;
                    let found = Self::part(device, device.read(at + 4) as u8, device.read(at + 8));
                    // A device may offer a structure several times; the first accessible one is used.
                    match which {
                        COMMON => common = common.or(found),
                        DEVICE => specific = specific.or(found),
                        NOTIFY if notify.is_none() && found.is_some() => {
                            (notify, stride) = (found, device.read(at + 16) as usize);
                        }
                        _ => {}
                    }
                }
                CAPABILITY_MSI_X => {
                    let table = device.read(at + 4);
                    interrupts = Self::part(device, table as u8 & 7, table & !7).map(|table| (at, table));
                }
                _ => {}
            }
        }
        let (capability, table) = interrupts?;
        let found = Self { common: common?, device: specific?, notify: notify?, stride, places: [0; 2] };
        Self::route(device, capability, table);
        Some(found)
    }

    /// Returns registers in one of the device's address ranges.
    fn part(device: Device, range: u8, offset: u32) -> Option<Registers> {
        (range < 6).then(|| device.base_address(range)).flatten().map(|base| base.beyond(offset as usize))
    }

    /// Routes the device's only interrupt to this CPU's APIC.
    fn route(device: Device, capability: u8, table: Registers) {
        table.write(0, 0xfee0_0000 | interrupts::destination() << 12);
        table.write(4, 0_u32);
        table.write(8, u32::from(interrupts::NETWORK));
        table.write(12, 0_u32);
        let enable = 1 << 31;
        let mask_all = 1 << 30;
        // SAFETY: the interrupt has a handler.
        unsafe { device.write(capability, device.read(capability) & !mask_all | enable) }
    }

    pub(super) fn features(&self) -> u64 {
        let half = |select: u32| {
            self.common.write(0x00, select);
            u64::from(self.common.read::<u32>(0x04))
        };
        half(1) << 32 | half(0)
    }

    pub(super) fn set_features(&self, features: u64) {
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.common.write(0x08, select);
            self.common.write(0x0c, half);
        }
    }

    pub(super) fn status(&self) -> u8 {
        self.common.read(0x14)
    }

    pub(super) fn set_status(&self, status: u8) {
        self.common.write(0x14, status);
    }

    pub(super) fn set_queue(&mut self, queue: u16, addresses: Addresses) {
        self.common.write(0x10, NO_VECTOR);
        self.common.write(0x16, queue);
        self.common.write(0x18, SIZE as u16);
        self.common.write(0x1a, if queue == RECEIVE { VECTOR } else { NO_VECTOR });
        for (offset, address) in [(0x20, addresses.descriptors), (0x28, addresses.available), (0x30, addresses.used)] {
            self.common.write(offset, address as u32);
            self.common.write(offset + 4, (address >> 32) as u32);
        }
        self.places[usize::from(queue)] = self.common.read(0x1e);
        self.common.write(0x1c, 1_u16);
    }

    pub(super) fn notify(&self, queue: u16) {
        let place = usize::from(self.places[usize::from(queue)]);
        self.notify.write(place * self.stride, queue);
    }

    pub(super) fn configuration(&self) -> Registers {
        self.device
    }
}
