//! The network card as a smoltcp device: frames in, frames out, without copies other than smoltcp's.

use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium},
    time::Instant,
};

use crate::{
    once::Once,
    virtio::{
        RECEIVE, TRANSMIT, Transport,
        queue::{Queue, Rings, SIZE},
    },
};

/// Size of the header before each frame. It is all zero, since no offload is in use.
const HEADER: usize = 12;
const FRAME: usize = 1514;

/// Size of a frame's buffer: Firecracker reads its tap only once buffers of 64 KiB and a header are posted.
const RECEIVE_BUFFER: usize = 16 * 1024;
const TRANSMIT_BUFFER: usize = 2048;

static RECEIVE_RINGS: Rings = Rings::new();
static TRANSMIT_RINGS: Rings = Rings::new();
static RECEIVE_BUFFERS: Once<[[u8; RECEIVE_BUFFER]; SIZE]> = Once::new([[0; RECEIVE_BUFFER]; SIZE]);
static TRANSMIT_BUFFERS: Once<[[u8; TRANSMIT_BUFFER]; SIZE]> = Once::new([[0; TRANSMIT_BUFFER]; SIZE]);

/// Buffers of `N` bytes. The device owns some of them at any time, so these are pointers, not references.
struct Buffers<const N: usize>(*mut [u8; N]);

impl<const N: usize> Buffers<N> {
    /// # Safety
    /// The device must not have this buffer.
    unsafe fn lend(&mut self, buffer: u16) -> &mut [u8; N] {
        // SAFETY: the pointer is to SIZE static buffers, this one belongs to the driver, and there is no other reference to it.
        unsafe { &mut *self.pointer(buffer) }
    }

    fn pointer(&self, buffer: u16) -> *mut [u8; N] {
        assert!(usize::from(buffer) < SIZE, "the device names a buffer that does not exist");
        self.0.wrapping_add(usize::from(buffer))
    }
}

/// A network card that is started.
pub struct Card {
    transport: Transport,
    receive: Queue,
    receive_buffers: Buffers<RECEIVE_BUFFER>,
    transmit: Queue,
    transmit_buffers: Buffers<TRANSMIT_BUFFER>,
    /// The transmit buffers that the device does not own.
    free: Free,
    mac: [u8; 6],
}

impl Card {
    /// Starts the device and posts all receive buffers.
    ///
    /// # Errors
    /// As [`Transport::negotiate`].
    pub fn start(mut transport: Transport) -> Result<Self, &'static str> {
        transport.negotiate()?;
        let receive = Queue::receiving(&RECEIVE_RINGS);
        let transmit = Queue::transmitting(&TRANSMIT_RINGS);
        transport.set_queue(RECEIVE, receive.addresses());
        transport.set_queue(TRANSMIT, transmit.addresses());
        let card = Self {
            mac: transport.mac(),
            transport,
            receive,
            receive_buffers: Buffers(RECEIVE_BUFFERS.take().as_mut_ptr()),
            transmit,
            transmit_buffers: Buffers(TRANSMIT_BUFFERS.take().as_mut_ptr()),
            free: Free::all(),
        };
        for buffer in 0..SIZE as u16 {
            card.receive.hand_over(buffer, card.receive_buffers.pointer(buffer).cast(), RECEIVE_BUFFER);
        }
        card.transport.start();
        card.transport.notify(RECEIVE);
        Ok(card)
    }

    /// Returns its MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Acknowledges an interrupt.
    pub fn acknowledge(&self) {
        self.transport.acknowledge();
    }

    /// Returns whether there is a frame that was not taken, for lack of a buffer for a reply. Its interrupt was there already.
    pub fn has_frame(&self) -> bool {
        self.receive.has_used()
    }

    /// Returns a free transmit buffer.
    fn free_buffer(&mut self) -> Option<u16> {
        while let Some(done) = self.transmit.take_back() {
            self.free.put(done.buffer);
        }
        self.free.any()
    }
}

/// A set of transmit buffers, as a bit mask.
struct Free(u32);

impl Free {
    fn all() -> Self {
        Self(u32::MAX >> (32 - SIZE))
    }

    fn any(&self) -> Option<u16> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as u16)
    }

    fn take(&mut self, buffer: u16) {
        self.0 &= !(1 << buffer);
    }

    fn put(&mut self, buffer: u16) {
        self.0 |= 1_u32.checked_shl(buffer.into()).unwrap_or(0);
    }
}

impl Device for Card {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        // A frame may cause a reply, so it is left in the queue while there is no buffer to send from.
        let answer = self.free_buffer()?;
        let done = self.receive.take_back()?;
        let incoming = Incoming {
            queue: &self.receive,
            transport: &self.transport,
            buffers: &mut self.receive_buffers,
            buffer: done.buffer,
            length: done.length,
        };
        let outgoing = Outgoing {
            queue: &self.transmit,
            transport: &self.transport,
            buffers: &mut self.transmit_buffers,
            free: &mut self.free,
            buffer: answer,
        };
        Some((incoming, outgoing))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        let buffer = self.free_buffer()?;
        Some(Outgoing {
            queue: &self.transmit,
            transport: &self.transport,
            buffers: &mut self.transmit_buffers,
            free: &mut self.free,
            buffer,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities.max_burst_size = Some(SIZE);
        capabilities
    }
}

/// A received frame. Its buffer is posted again once the frame has been read.
pub struct Incoming<'a> {
    queue: &'a Queue,
    transport: &'a Transport,
    buffers: &'a mut Buffers<RECEIVE_BUFFER>,
    buffer: u16,
    length: usize,
}

impl smoltcp::phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        // SAFETY: the device has returned this buffer.
        let frame = unsafe { self.buffers.lend(self.buffer) };
        let result = read(frame.get(HEADER..self.length).unwrap_or_default());
        if self.queue.hand_over(self.buffer, self.buffers.pointer(self.buffer).cast(), RECEIVE_BUFFER) {
            self.transport.notify(RECEIVE);
        }
        result
    }
}

/// A buffer for a frame to send.
pub struct Outgoing<'a> {
    queue: &'a Queue,
    transport: &'a Transport,
    buffers: &'a mut Buffers<TRANSMIT_BUFFER>,
    free: &'a mut Free,
    buffer: u16,
}

impl smoltcp::phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.free.take(self.buffer);
        // SAFETY: it was free, so the device does not own it. The header's zeros are never overwritten.
        let buffer = unsafe { self.buffers.lend(self.buffer) };
        let result = write(&mut buffer[HEADER..HEADER + length]);
        let frame = self.buffers.pointer(self.buffer).cast();
        if self.queue.hand_over(self.buffer, frame, HEADER + length) {
            self.transport.notify(TRANSMIT);
        }
        result
    }
}
