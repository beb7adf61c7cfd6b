//! Programs that run beside this one for a while, and what they need: a free port, and an end that they cannot miss.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Puts a program to an end with the thread that started it, even if this program is killed.
pub const WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "TERM"];
/// Below the ports that the daemon gives to processes, which are below those of outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..22_000;
const START: Duration = Duration::from_secs(10);

/// A program that is ended when this goes out of scope.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Takes over a child.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// Starts a program with its arguments.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start(line: &[&str]) -> Self {
        let mut command = Command::new(WITH_PARENT[0]);
        command.args(&WITH_PARENT[1..]).args(line).stdin(std::process::Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", line[0])))
    }

    /// Waits until it accepts connections.
    ///
    /// # Panics
    /// When it ends instead, or takes too long.
    pub fn accepting(mut self, address: SocketAddr) -> Self {
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.0.try_wait() {
                panic!("nobody listens on {address}: {status}");
            }
            assert!(began.elapsed() < START, "nobody listens on {address} after {START:?}");
            std::thread::yield_now();
        }
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, lest a master leaves its workers behind.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// A port on which nobody listens.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let candidates = std::iter::repeat_with(|| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16);
    let mut free = candidates.take(PORTS.len()).filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().expect("a free port")
}
