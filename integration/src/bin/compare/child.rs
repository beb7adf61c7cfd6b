//! Child processes of this program: free ports, and an end in every case.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use integration::eventually_blocking;

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
        let connect = || (TcpStream::connect(address).map(drop), self.0.try_wait().ok().flatten());
        let is_over = |(connected, exit): &(io::Result<()>, Option<ExitStatus>)| connected.is_ok() || exit.is_some();
        let (connected, exit) =
            eventually_blocking(START_TIMEOUT, &format!("a listener on {address}"), connect, is_over);
        assert!(connected.is_ok(), "no listener on {address}: {exit:?}");
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
