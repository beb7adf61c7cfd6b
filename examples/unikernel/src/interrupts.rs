//! Interrupts and time, both from the local APIC.
//!
//! Interrupts are enabled only while the CPU sleeps, and their handler (boot.s) only returns. They end the sleep, and the
//! main loop polls everything. The timer that ends a sleep is also the clock. It counts nanoseconds, because KVM and QEMU
//! both run the APIC's bus at 1 GHz.

use core::arch::asm;

use crate::{
    cpu::{Registers, load_interrupt_table, out8, sleep},
    once::Once,
    power, say,
};

/// The interrupt vector of network devices.
pub const NETWORK: u8 = 0x41;
const TIMER: u8 = 0x40;
const SPURIOUS: u8 = 0xff;

// SAFETY: every x86_64 machine has its local APIC here, and its first I/O APIC there, by default.
const LAPIC: Registers = unsafe { Registers::at(0xfee0_0000) };
// SAFETY: as above.
const IOAPIC: Registers = unsafe { Registers::at(0xfec0_0000) };
/// Offset of a second I/O APIC, which QEMU's microvm may have for the lines from 24 on.
const NEXT_IOAPIC: usize = 0x1_0000;
const LINES: u32 = 24;

const LAPIC_ID: usize = 0x20;
const LAPIC_SPURIOUS: usize = 0xf0;
const LAPIC_TIMER: usize = 0x320;
const LAPIC_LINT0: usize = 0x350;
const LAPIC_INITIAL_COUNT: usize = 0x380;
const LAPIC_CURRENT_COUNT: usize = 0x390;
const LAPIC_DIVIDE: usize = 0x3e0;

const MASKED: u32 = 1 << 16;
const BY_16: u32 = 0b0011;
/// Nanoseconds per step of the timer.
const STEP: u64 = 16;

unsafe extern "C" {
    fn wake_up();
    fn spurious();
    fn exceptions();
}

/// An entry of the interrupt descriptor table.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const NONE: Self = Self { low: 0, high: 0 };

    /// Returns an interrupt gate: the handler runs in code segment 8 with interrupts off.
    fn to(handler: usize) -> Self {
        let handler = handler as u64;
        let present_interrupt_gate = 0x8e00_u64 << 32;
        let low = handler & 0xffff | 8 << 16 | present_interrupt_gate | (handler >> 16 & 0xffff) << 48;
        Self { low, high: handler >> 32 }
    }
}

static TABLE: Once<[Gate; 256]> = Once::new([Gate::NONE; 256]);

/// Sets up the handlers and the local APIC. Interrupts stay off until [`Clock::sleep`].
pub fn set_up() -> Clock {
    let table = TABLE.take();
    for (number, gate) in table.iter_mut().enumerate().take(32) {
        *gate = Gate::to(exceptions as *const () as usize + 16 * number);
    }
    for vector in [TIMER, NETWORK] {
        table[usize::from(vector)] = Gate::to(wake_up as *const () as usize);
    }
    table[usize::from(SPURIOUS)] = Gate::to(spurious as *const () as usize);

    // SAFETY: the table is static, and its handlers keep all registers or never return.
    unsafe { load_interrupt_table(table) };

    // SAFETY: masks every line of the two legacy interrupt controllers, which a BIOS may have left unmasked.
    unsafe {
        out8(0x21, 0xff);
        out8(0xa1, 0xff);
    }
    LAPIC.write(LAPIC_LINT0, MASKED);
    LAPIC.write(LAPIC_SPURIOUS, 0x100 | u32::from(SPURIOUS));
    LAPIC.write(LAPIC_DIVIDE, BY_16);
    LAPIC.write(LAPIC_TIMER, u32::from(TIMER));
    LAPIC.write(LAPIC_INITIAL_COUNT, u32::MAX);
    Clock { armed_at: 0, count: u32::MAX }
}

/// Returns the identifier of this CPU's APIC, as the destination of interrupts.
pub fn destination() -> u32 {
    LAPIC.read::<u32>(LAPIC_ID) >> 24
}

/// Routes a line of the I/O APIC to this CPU, as [`NETWORK`], edge-triggered.
pub fn route(line: u32) {
    let ioapic = IOAPIC.beyond((line / LINES) as usize * NEXT_IOAPIC);
    let entry = 0x10 + 2 * (line % LINES);
    for (register, value) in [(entry + 1, destination() << 24), (entry, u32::from(NETWORK))] {
        ioapic.write(0x00, register);
        ioapic.write(0x10, value);
    }
}

/// The time since boot.
pub struct Clock {
    /// When the timer was last started, in nanoseconds since boot.
    armed_at: u64,
    /// The steps it was started with.
    count: u32,
}

impl Clock {
    /// Returns the microseconds since boot.
    pub fn now(&mut self) -> u64 {
        let left: u32 = LAPIC.read(LAPIC_CURRENT_COUNT);
        let now = self.armed_at + u64::from(self.count - left) * STEP;
        if left == 0 {
            // The timer has expired, and the clock stands still until it is started again.
            self.arm(now, u32::MAX);
        }
        now / 1000
    }

    /// Returns the microseconds since boot, and lets the timer run for the next minute: work without a sleep is measured.
    pub fn restart(&mut self) -> u64 {
        let now = self.now();
        self.arm(now * 1000, u32::MAX);
        now
    }

    /// Sleeps until an interrupt, for at most so many microseconds, and for at most a minute.
    pub fn sleep(&mut self, microseconds: Option<u64>) {
        let steps = microseconds.map_or(u64::MAX, |time| time.saturating_mul(1000) / STEP);
        let now = self.now() * 1000;
        self.arm(now, u32::try_from(steps.max(1)).unwrap_or(u32::MAX));
        sleep();
    }

    fn arm(&mut self, now: u64, steps: u32) {
        (self.armed_at, self.count) = (now, steps);
        LAPIC.write(LAPIC_INITIAL_COUNT, steps);
    }
}

/// The stack frame of an exception, pushed by the CPU and boot.s.
#[repr(C)]
struct Exception {
    vector: u64,
    error: u64,
    rip: u64,
}

#[unsafe(no_mangle)]
extern "C" fn report_exception(exception: &Exception) -> ! {
    let address: u64;
    // SAFETY: reads the address of the last page fault.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    let Exception { vector, error, rip } = exception;
    say!("unikernel: exception {vector}, error {error:#x}, at {rip:#x}, address {address:#x}");
    power::off()
}
