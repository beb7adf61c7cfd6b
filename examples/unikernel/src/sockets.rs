//! TCP sockets and their buffers, and the context of one turn of the main loop.

use core::{mem::MaybeUninit, net::SocketAddrV4, slice};

use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet, SocketStorage},
    socket::tcp,
    time::Duration,
    wire::IpListenEndpoint,
};

use crate::{interrupts::Clock, once::Once, server};

/// Number of sockets: the server's connections, the ready callback, and the probe.
const COUNT: usize = server::MAX_CONNECTIONS + 2;

/// Size of each socket's send and receive buffer.
const BUFFER: usize = 8 * 1024;

/// How long a peer may be silent before its connection is closed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The first ephemeral port; the range ends at 65535.
const EPHEMERAL: u16 = 49152;

static STORAGE: Once<[MaybeUninit<SocketStorage<'static>>; COUNT]> =
    Once::new([const { MaybeUninit::uninit() }; COUNT]);
static BUFFERS: Once<[[[u8; BUFFER]; 2]; COUNT]> = Once::new([[[0; BUFFER]; 2]; COUNT]);

/// All sockets.
pub struct Sockets {
    /// The set that smoltcp polls.
    pub set: SocketSet<'static>,
    buffers: slice::IterMut<'static, [[u8; BUFFER]; 2]>,
    next_port: u16,
}

impl Sockets {
    /// Creates an empty set. The seed chooses the first port: a host that remembers a connection of an earlier guest with
    /// the same address and port refuses it, and the retry comes 0.7 s later.
    pub fn new(seed: u64) -> Self {
        let storage = STORAGE.take();
        for slot in &mut *storage {
            slot.write(SocketStorage::EMPTY);
        }
        // SAFETY: all of it has just been written. (An initialised static would take 40 KB of the ELF file.)
        let storage = unsafe { slice::from_raw_parts_mut(storage.as_mut_ptr().cast(), COUNT) };
        Self { set: SocketSet::new(storage), buffers: BUFFERS.take().iter_mut(), next_port: EPHEMERAL | seed as u16 }
    }

    /// Adds a socket.
    ///
    /// # Panics
    /// When all sockets are in use.
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

/// One turn of the main loop: what its steps use, and what they request of the loop.
pub struct Turn<'a> {
    /// Microseconds since boot.
    pub now: u64,
    /// The clock.
    pub clock: &'a mut Clock,
    /// Memory that is free for work.
    pub memory: &'a mut [u8],
    /// The network interface.
    pub interface: &'a mut Interface,
    /// The sockets.
    pub sockets: &'a mut Sockets,
    /// Requests another turn without a sleep: the state of a socket has changed.
    pub again: bool,
    /// Requests a short sleep: a timeout is running.
    pub waiting: bool,
}

impl Turn<'_> {
    /// Returns a socket.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.set.get_mut(handle)
    }

    /// Starts to connect to a server. Returns whether the attempt could be started.
    pub fn connect(&mut self, handle: SocketHandle, server: SocketAddrV4) -> bool {
        let port = self.sockets.next_port;
        self.sockets.next_port = port.checked_add(1).unwrap_or(EPHEMERAL);
        let socket = self.sockets.set.get_mut::<tcp::Socket<'_>>(handle);
        socket.abort();
        socket.connect(self.interface.context(), server, port).is_ok()
    }

    /// Listens on a port.
    pub fn listen(&mut self, handle: SocketHandle, port: u16) {
        let socket = self.socket(handle);
        socket.set_timeout(Some(TIMEOUT));
        socket.set_keep_alive(Some(TIMEOUT / 2));
        // It fails only for port 0 and for a socket in use.
        let _ = socket.listen(IpListenEndpoint::from(port));
    }
}
