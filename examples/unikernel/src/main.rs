//! A function as a unikernel: one program that is its own operating system. It boots by PVH or as a Linux kernel does,
//! brings up a virtio network card, tells the daemon that it is ready, and serves HTTP.
//!
//! From the bottom up: boot.s, cpu.rs, memory.rs, interrupts.rs, power.rs, console.rs · pci.rs, virtio/, net.rs ·
//! callback.rs, probe.rs, server.rs, connection.rs, response.rs, and main.rs. Code that needs no machine is in lib.rs: the
//! function itself (function.rs), its work, the command line, HTTP.

#![no_std]
#![no_main]

mod callback;
mod connection;
mod console;
mod cpu;
mod interrupts;
mod memory;
mod net;
mod once;
mod pci;
mod power;
mod probe;
mod response;
mod server;
mod sockets;
mod virtio;

use core::slice;

use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult as Ingress, PollResult},
    time::Instant,
    wire::{EthernetAddress, IpCidr},
};
use unikernel::cmdline::CommandLine;

use crate::{
    callback::Callback,
    interrupts::Clock,
    net::Card,
    probe::Probe,
    server::Server,
    sockets::{Sockets, Turn},
    virtio::Transport,
};

core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

/// Maximum length of the command line, in bytes; VMMs pass no more than half of it.
const MAX_LINE: usize = 4096;

const NO_DEVICE: &str =
    "no network device: no virtio_mmio.device= of version 1 on the command line, no virtio-net on PCI";

/// Maximum number of frames received between two steps of the connections.
const FRAMES_PER_POLL: usize = 4;

/// How often timeouts are checked, in microseconds.
const CHECK_INTERVAL: u64 = 20_000;

/// Starts the unikernel. boot.s calls it with the physical address of the command line, or 0.
#[unsafe(no_mangle)]
extern "C" fn start(command_line: usize) -> ! {
    let clock = interrupts::set_up();
    let line = match command_line {
        0 => "",
        // SAFETY: either boot protocol promises a string that ends with a zero, in memory that is never written to.
        address => unsafe { text_at(core::ptr::with_exposed_provenance(address)) },
    };
    if let Err(error) = run(clock, CommandLine(line)) {
        say!("unikernel: {error}");
    }
    power::off()
}

/// Returns the text up to the next zero byte, or an empty one if it is not UTF-8.
///
/// # Safety
/// There must be such a byte within [`MAX_LINE`], and the text must never be written to.
unsafe fn text_at(address: *const u8) -> &'static str {
    // SAFETY: up to the zero everything is readable, as the caller promises.
    let bytes = unsafe {
        let length = (0..MAX_LINE).take_while(|&index| *address.add(index) != 0).count();
        slice::from_raw_parts(address, length)
    };
    str::from_utf8(bytes).unwrap_or_default()
}

/// Serves until the machine is switched off.
fn run(mut clock: Clock, command_line: CommandLine<'static>) -> Result<(), &'static str> {
    let network = command_line.network()?;
    say!("unikernel: {}/{}", network.address, network.prefix);
    let mut card = Card::start(Transport::find(command_line).ok_or(NO_DEVICE)?)?;

    let memory = memory::take(command_line);
    let seed = cpu::cycles();
    let mut config = Config::new(EthernetAddress(card.mac()).into());
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut card, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        // There is room for two, and this is the first.
        let _ = addresses.push(IpCidr::new(network.address.into(), network.prefix));
    });
    if let Some(gateway) = network.gateway {
        interface.routes_mut().add_default_ipv4_route(gateway).map_err(|_| "no room for a route")?;
    }

    let mut sockets = Sockets::new(seed);
    let mut server = Server::new(network.address, FRAMES_PER_POLL);
    let mut callback = Callback::new(&mut sockets, command_line.callback()?);
    let mut probe = Probe::new(&mut sockets);
    loop {
        let now = clock.now();
        let instant = Instant::from_micros(now as i64);
        // A few frames at a time: connections that end in between free their sockets.
        let more = (0..FRAMES_PER_POLL)
            .all(|_| interface.poll_ingress_single(instant, &mut card, &mut sockets.set) != Ingress::None);

        let mut turn = Turn {
            now,
            clock: &mut clock,
            memory: &mut *memory,
            interface: &mut interface,
            sockets: &mut sockets,
            again: false,
            waiting: false,
        };
        server.step(&mut turn, &mut probe);
        probe.step(&mut turn);
        callback.step(&mut turn);
        let Turn { again, waiting, .. } = turn;

        // After the steps, so that responses carry the acknowledgement of their requests.
        while interface.poll_egress(instant, &mut card, &mut sockets.set) != PollResult::None {}

        let delay = interface.poll_delay(instant, &sockets.set).map(|delay| delay.total_micros());
        if !more && !again && delay != Some(0) && !card.has_frame() {
            clock.sleep(if waiting {
                Some(delay.map_or(CHECK_INTERVAL, |delay| delay.min(CHECK_INTERVAL)))
            } else {
                delay
            });
            card.acknowledge();
        }
    }
}
