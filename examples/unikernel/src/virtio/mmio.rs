//! virtio over MMIO, for Firecracker and QEMU's microvm. Offsets are those of the standard, section 4.2.2.

use unikernel::cmdline::MmioDevice;

use super::{
    NETWORK,
    queue::{Addresses, SIZE},
};
use crate::{cpu::Registers, interrupts};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;

/// A device that the command line names.
pub struct Mmio(Registers);

impl Mmio {
    /// Returns the device, if it is a network device, and routes its interrupt line to this CPU.
    pub fn network(device: MmioDevice) -> Option<Self> {
        // SAFETY: the VMM has placed a virtio device there.
        let registers = unsafe { Registers::at(usize::try_from(device.address).ok()?) };
        let identity = [0x000, 0x004, 0x008].map(|offset| registers.read::<u32>(offset));
        (identity == [MAGIC, VERSION, NETWORK]).then(|| {
            interrupts::route(device.line);
            Self(registers)
        })
    }

    pub(super) fn features(&self) -> u64 {
        let half = |select: u32| {
            self.0.write(0x014, select);
            u64::from(self.0.read::<u32>(0x010))
        };
        half(1) << 32 | half(0)
    }

    pub(super) fn set_features(&self, features: u64) {
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.0.write(0x024, select);
            self.0.write(0x020, half);
        }
    }

    pub(super) fn status(&self) -> u8 {
        self.0.read::<u32>(0x070) as u8
    }

    pub(super) fn set_status(&self, status: u8) {
        self.0.write(0x070, u32::from(status));
    }

    pub(super) fn set_queue(&self, queue: u16, addresses: Addresses) {
        self.0.write(0x030, u32::from(queue));
        self.0.write(0x038, SIZE as u32);
        for (offset, address) in [(0x080, addresses.descriptors), (0x090, addresses.available), (0x0a0, addresses.used)]
        {
            self.0.write(offset, address as u32);
            self.0.write(offset + 4, (address >> 32) as u32);
        }
        self.0.write(0x044, 1_u32);
    }

    pub(super) fn notify(&self, queue: u16) {
        self.0.write(0x050, u32::from(queue));
    }

    pub(super) fn acknowledge(&self) {
        let raised: u32 = self.0.read(0x060);
        if raised != 0 {
            self.0.write(0x064, raised);
        }
    }

    pub(super) fn configuration(&self) -> Registers {
        self.0.beyond(0x100)
    }
}
