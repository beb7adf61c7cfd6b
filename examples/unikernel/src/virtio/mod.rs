//! virtio, version 1: finds and starts the network device, over either transport (`mmio.rs`, `pci.rs`). The queues are in
//! `queue.rs`; `net.rs` sends and receives with them.

mod mmio;
mod pci;
pub mod queue;

use unikernel::cmdline::CommandLine;

use self::{mmio::Mmio, pci::Pci, queue::Addresses};

/// A virtio device of type 1.
const NETWORK: u32 = 1;

/// Receive and transmit queue of a network device.
pub const RECEIVE: u16 = 0;
/// See [`RECEIVE`].
pub const TRANSMIT: u16 = 1;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// The device has a MAC address in its configuration.
const FEATURE_MAC: u64 = 1 << 5;
/// The device follows the standard, and is not a legacy device.
const FEATURE_VERSION_1: u64 = 1 << 32;

/// The transport of a virtio device.
pub enum Transport {
    /// Registers at an address from the command line.
    Mmio(Mmio),
    /// A PCI device.
    Pci(Pci),
}

/// Calls the same method of either transport.
macro_rules! either {
    ($self:expr, $transport:ident => $action:expr) => {
        match $self {
            Transport::Mmio($transport) => $action,
            Transport::Pci($transport) => $action,
        }
    };
}

impl Transport {
    /// Returns the first network device of the command line, or else of the PCI bus.
    pub fn find(command_line: CommandLine<'_>) -> Option<Self> {
        let named = command_line.mmio_devices().find_map(Mmio::network).map(Self::Mmio);
        if named.is_some() || command_line.has("pci=off") { named } else { Pci::network().map(Self::Pci) }
    }

    /// Resets the device and negotiates the features that are needed here.
    ///
    /// # Errors
    /// When the device is a legacy device.
    pub fn negotiate(&self) -> Result<(), &'static str> {
        self.set_status(0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        let wanted = FEATURE_MAC | FEATURE_VERSION_1;
        if self.features() & wanted != wanted {
            return Err("the network device is a legacy one, or has no address");
        }
        either!(self, it => it.set_features(wanted));
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        match self.status() & FEATURES_OK {
            0 => Err("the network device refuses the features"),
            _ => Ok(()),
        }
    }

    /// Configures a queue. Only the receive queue interrupts.
    pub fn set_queue(&mut self, queue: u16, addresses: Addresses) {
        either!(self, it => it.set_queue(queue, addresses));
    }

    /// Starts the device.
    pub fn start(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Notifies the device of new buffers in a queue.
    pub fn notify(&self, queue: u16) {
        either!(self, it => it.notify(queue));
    }

    /// Acknowledges an interrupt, so that the device can raise the next.
    pub fn acknowledge(&self) {
        if let Self::Mmio(mmio) = self {
            mmio.acknowledge();
        }
    }

    /// Returns the device's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        let configuration = either!(self, it => it.configuration());
        core::array::from_fn(|byte| configuration.read(byte))
    }

    fn features(&self) -> u64 {
        either!(self, it => it.features())
    }

    fn status(&self) -> u8 {
        either!(self, it => it.status())
    }

    fn set_status(&self, status: u8) {
        either!(self, it => it.set_status(status));
    }
}
