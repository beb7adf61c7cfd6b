//! Instructions without an equivalent in Rust: I/O ports, device registers, the interrupt flag.

use core::arch::asm;

/// Writes a byte to an I/O port.
///
/// # Safety
/// The device must not write to memory that Rust owns as a result.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: the instruction itself touches neither memory nor the stack; the rest is the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes 16 bits to an I/O port.
///
/// # Safety
/// As for [`out8`].
pub unsafe fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes 32 bits to an I/O port.
///
/// # Safety
/// As for [`out8`].
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// As for [`out8`]: some devices act on being read.
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads 32 bits from an I/O port.
///
/// # Safety
/// As for [`in8`].
pub unsafe fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Returns the cycle counter, as a number that differs from start to start. It is not used as a clock.
pub fn cycles() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Sleeps until the next interrupt, or returns at once if one is pending. Interrupts are off before and after.
pub fn sleep() {
    // SAFETY: `sti` takes effect after the instruction that follows it, so no interrupt slips in between and is missed.
    // The handlers (boot.s) keep every register, and the code is compiled without a red zone. Devices write to memory
    // meanwhile, which is why this is not `nomem`.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// Loads the interrupt descriptor table.
///
/// # Safety
/// The entries must be valid, and their handlers must be able to run wherever interrupts are enabled.
pub unsafe fn load_interrupt_table<T>(table: &'static [T]) {
    #[repr(C, packed)]
    struct Register {
        /// Offset of the last byte.
        limit: u16,
        base: u64,
    }
    let limit = size_of_val(table).saturating_sub(1) as u16;
    let register = Register { limit, base: table.as_ptr().expose_provenance() as u64 };
    // SAFETY: the caller's promise.
    unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(nostack, preserves_flags)) }
}

/// Memory-mapped registers of a device.
#[derive(Clone, Copy)]
pub struct Registers(usize);

impl Registers {
    /// Returns the registers at a physical address.
    ///
    /// # Safety
    /// There must be a device at this address, below 4 GiB, and every offset used later must lie within it.
    pub const unsafe fn at(address: usize) -> Self {
        Self(address)
    }

    /// Returns the registers at `offset` bytes from these.
    pub fn beyond(self, offset: usize) -> Self {
        Self(self.0 + offset)
    }

    /// Reads a register of the size of `T`.
    pub fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the address is a device register, by the promise made to `at`; volatile, as reading has effects.
        unsafe { core::ptr::with_exposed_provenance::<T>(self.0 + offset).read_volatile() }
    }

    /// Writes a register of the size of `T`.
    pub fn write<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as in `read`.
        unsafe { core::ptr::with_exposed_provenance_mut::<T>(self.0 + offset).write_volatile(value) }
    }
}
