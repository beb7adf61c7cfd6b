//! A split virtqueue: three rings in memory shared by driver and device (the standard, section 2.7).
//!
//! Each descriptor has a fixed buffer, so its number identifies the buffer. Every field is atomic: the device is another
//! thread that the compiler does not see.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Number of descriptors, and of buffers, of a queue.
pub const SIZE: usize = 32;

const DEVICE_WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

#[repr(C)]
struct Descriptor {
    address: AtomicU64,
    length: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}

#[repr(C)]
struct Used {
    descriptor: AtomicU32,
    length: AtomicU32,
}

/// The memory of a queue.
#[repr(C, align(16))]
pub struct Rings {
    descriptors: [Descriptor; SIZE],
    available_flags: AtomicU16,
    available_index: AtomicU16,
    available: [AtomicU16; SIZE],
    _padding: AtomicU32,
    used_flags: AtomicU16,
    used_index: AtomicU16,
    used: [Used; SIZE],
}

impl Rings {
    /// Returns empty rings.
    pub const fn new() -> Self {
        Self {
            descriptors: [const {
                Descriptor {
                    address: AtomicU64::new(0),
                    length: AtomicU32::new(0),
                    flags: AtomicU16::new(0),
                    next: AtomicU16::new(0),
                }
            }; SIZE],
            available_flags: AtomicU16::new(0),
            available_index: AtomicU16::new(0),
            available: [const { AtomicU16::new(0) }; SIZE],
            _padding: AtomicU32::new(0),
            used_flags: AtomicU16::new(0),
            used_index: AtomicU16::new(0),
            used: [const { Used { descriptor: AtomicU32::new(0), length: AtomicU32::new(0) } }; SIZE],
        }
    }
}

/// The addresses of a queue.
#[derive(Clone, Copy)]
pub struct Addresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring, written by the driver.
    pub available: u64,
    /// The used ring, written by the device.
    pub used: u64,
}

/// The driver's side of a queue.
pub struct Queue {
    rings: &'static Rings,
    /// Read position in the used ring.
    seen: u16,
}

/// A buffer that the device has used.
pub struct Done {
    /// Its number.
    pub buffer: u16,
    /// Bytes that the device wrote.
    pub length: usize,
}

impl Queue {
    /// Returns a queue whose buffers the device fills, with interrupts.
    pub fn receiving(rings: &'static Rings) -> Self {
        for descriptor in &rings.descriptors {
            descriptor.flags.store(DEVICE_WRITES, Ordering::Relaxed);
        }
        Self { rings, seen: 0 }
    }

    /// Returns a queue whose buffers the device reads, without interrupts.
    pub fn transmitting(rings: &'static Rings) -> Self {
        rings.available_flags.store(NO_INTERRUPT, Ordering::Relaxed);
        Self { rings, seen: 0 }
    }

    /// Returns its physical addresses, which equal the virtual ones.
    pub fn addresses(&self) -> Addresses {
        let address = |pointer: *const ()| pointer.expose_provenance() as u64;
        Addresses {
            descriptors: address((&raw const self.rings.descriptors).cast()),
            available: address((&raw const self.rings.available_flags).cast()),
            used: address((&raw const self.rings.used_flags).cast()),
        }
    }

    /// Makes a buffer available to the device. Returns whether the device requires a notification.
    pub fn hand_over(&self, buffer: u16, address: *const u8, length: usize) -> bool {
        let descriptor = &self.rings.descriptors[usize::from(buffer)];
        descriptor.address.store(address.expose_provenance() as u64, Ordering::Relaxed);
        descriptor.length.store(length as u32, Ordering::Relaxed);
        let index = self.rings.available_index.load(Ordering::Relaxed);
        self.rings.available[usize::from(index) % SIZE].store(buffer, Ordering::Relaxed);
        self.rings.available_index.store(index.wrapping_add(1), Ordering::Release);
        // The device reads the index after it has enabled notifications, so one side sees the other's write.
        fence(Ordering::SeqCst);
        self.rings.used_flags.load(Ordering::Relaxed) & NO_NOTIFY == 0
    }

    /// Returns whether there is a used buffer.
    pub fn has_used(&self) -> bool {
        self.rings.used_index.load(Ordering::Acquire) != self.seen
    }

    /// Returns the next used buffer.
    pub fn take_back(&mut self) -> Option<Done> {
        if !self.has_used() {
            return None;
        }
        let used = &self.rings.used[usize::from(self.seen) % SIZE];
        self.seen = self.seen.wrapping_add(1);
        let buffer = used.descriptor.load(Ordering::Relaxed) as u16;
        Some(Done { buffer, length: used.length.load(Ordering::Relaxed) as usize })
    }
}
