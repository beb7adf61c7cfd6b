//! virtio, version 1: finding the network device and bringing it up. How one talks to it differs (`mmio.rs`, `pci.rs`),
//! what is said does not. The queues are in `queue.rs`; `net.rs` sends and receives with them.

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
/// The device keeps to the standard, not to what was before it.
const FEATURE_VERSION_1: u64 = 1 << 32;

/// A way to talk to a virtio device.
pub enum Transport {
    /// Registers at an address that the command line names.
    Mmio(Mmio),
    /// A PCI device.
    Pci(Pci),
}

/// Does the same with either transport.
macro_rules! either {
    ($self:expr, $transport:ident => $action:expr) => {
        match $self {
            Transport::Mmio($transport) => $action,
            Transport::Pci($transport) => $action,
        }
    };
}

impl Transport {
    /// The first network device: of those that the command line names, else on the PCI bus.
    pub fn find(command_line: CommandLine<'_>) -> Option<Self> {
        let named = command_line.mmio_devices().find_map(Mmio::network).map(Self::Mmio);
        if named.is_some() || command_line.has("pci=off") { named } else { Pci::network().map(Self::Pci) }
    }

    /// Resets the device and agrees on features: no more than what is needed here.
    ///
    /// # Errors
    /// When the device is too old.
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

    /// Tells the device where a queue is. Only the receive queue interrupts.
    pub fn set_queue(&mut self, queue: u16, addresses: Addresses) {
        either!(self, it => it.set_queue(queue, addresses));
    }

    /// Lets the device begin.
    pub fn start(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that a queue has something new for it.
    pub fn notify(&self, queue: u16) {
        either!(self, it => it.notify(queue));
    }

    /// Takes note of an interrupt, so that the device can raise the next.
    pub fn acknowledge(&self) {
        if let Self::Mmio(mmio) = self {
            mmio.acknowledge();
        }
    }

    /// The network device's address.
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
