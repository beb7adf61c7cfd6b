//! Child processes of this program: free ports, and an end in every case.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Ends a program with the thread that started it, even if this program is killed.
pub const WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "TERM"];
/// Ports below those of the daemon's processes, which are below the ephemeral ports.
const PORTS: std::ops::Range<u16> = 12_000..22_000;
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that is ended on drop.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Wraps a child.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// Starts a program with its arguments.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(line: &[&str]) -> Self {
        let mut command = Command::new(WITH_PARENT[0]);
        command.args(&WITH_PARENT[1..]).args(line).stdin(std::process::Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", line[0])))
    }

    /// Waits until the program accepts connections.
    ///
    /// # Panics
    /// When it exits first, or takes too long.
    pub fn accepting(mut self, address: SocketAddr) -> Self {
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.0.try_wait() {
                panic!("no listener on {address}: {status}");
            }
            assert!(began.elapsed() < START_TIMEOUT, "no listener on {address} after {START_TIMEOUT:?}");
            std::thread::yield_now();
        }
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, so that a master process also ends its workers.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// Returns a port without a listener.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let candidates = std::iter::repeat_with(|| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16);
    let mut free = candidates.take(PORTS.len()).filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().expect("a free port")
}
