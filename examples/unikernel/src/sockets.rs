//! The TCP sockets and their buffers, and what a turn of the main loop carries around.

use core::{mem::MaybeUninit, net::SocketAddrV4, slice};

use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet, SocketStorage},
    socket::tcp,
    time::Duration,
    wire::IpListenEndpoint,
};

use crate::{once::Once, server};

/// Connections to this server, the ready callback, and the probe.
const COUNT: usize = server::COUNT + 2;

/// Each way, for each socket.
const BUFFER: usize = 8 * 1024;

/// A peer that says nothing for so long is gone.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The first of the ports that connections from here are given; they reach to the last there is.
const EPHEMERAL: u16 = 49152;

static STORAGE: Once<[MaybeUninit<SocketStorage<'static>>; COUNT]> =
    Once::new([const { MaybeUninit::uninit() }; COUNT]);
static BUFFERS: Once<[[[u8; BUFFER]; 2]; COUNT]> = Once::new([[[0; BUFFER]; 2]; COUNT]);

/// All the sockets.
pub struct Sockets {
    /// As smoltcp wants them.
    pub set: SocketSet<'static>,
    buffers: slice::IterMut<'static, [[u8; BUFFER]; 2]>,
    next_port: u16,
}

impl Sockets {
    /// None yet. The seed chooses the first port: a host that remembers a connection of an earlier guest with this
    /// address and port would refuse the same again, and the retry is 0.7 s later.
    pub fn new(seed: u64) -> Self {
        let storage = STORAGE.take();
        for slot in &mut *storage {
            slot.write(SocketStorage::EMPTY);
        }
        // SAFETY: all of it has just been written. (As a static with a value it would be 40 KB of the ELF file.)
        let storage = unsafe { slice::from_raw_parts_mut(storage.as_mut_ptr().cast(), COUNT) };
        Self { set: SocketSet::new(storage), buffers: BUFFERS.take().iter_mut(), next_port: EPHEMERAL | seed as u16 }
    }

    /// Another socket.
    ///
    /// # Panics
    /// When there are more than were planned for.
    pub fn add(&mut self) -> SocketHandle {
        let Some([receive, transmit]) = self.buffers.next() else { panic!("more sockets than planned") };
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(receive.as_mut_slice()),
            tcp::SocketBuffer::new(transmit.as_mut_slice()),
        );
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.set.add(socket)
    }
}

/// One turn of the main loop: what the parts of the function work with, and what they have to say.
pub struct Turn<'a> {
    /// Microseconds since boot.
    pub now: u64,
    /// To connect by.
    pub interface: &'a mut Interface,
    /// To talk by.
    pub sockets: &'a mut Sockets,
    /// Something has come about that others have to see: another turn before the sleep.
    pub again: bool,
    /// Something waits for a time of its own, so do not sleep for long.
    pub waiting: bool,
}

impl Turn<'_> {
    /// One of the sockets.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.set.get_mut(handle)
    }

    /// Begins to connect to a server; whether that can be tried at all.
    pub fn connect(&mut self, handle: SocketHandle, server: SocketAddrV4) -> bool {
        let port = self.sockets.next_port;
        self.sockets.next_port = port.checked_add(1).unwrap_or(EPHEMERAL);
        let socket = self.sockets.set.get_mut::<tcp::Socket<'_>>(handle);
        socket.abort();
        socket.connect(self.interface.context(), server, port).is_ok()
    }

    /// Waits for a connection at a port.
    pub fn listen(&mut self, handle: SocketHandle, port: u16) {
        let socket = self.socket(handle);
        socket.set_timeout(Some(TIMEOUT));
        socket.set_keep_alive(Some(TIMEOUT / 2));
        // Fails for port 0 and for a socket in use; this is neither.
        let _ = socket.listen(IpListenEndpoint::from(port));
    }
}
