//! Ends of the machine: power-off, triple fault, panic.

use core::{arch::asm, panic::PanicInfo};

use crate::{
    cpu::{load_interrupt_table, out8, out16},
    say,
};

/// Switches the machine off: by ACPI (QEMU's pc and q35), else by the keyboard controller's reset (Firecracker), else by a
/// triple fault (microvm).
pub fn off() -> ! {
    // SAFETY: both ports end the machine, or there is no device behind them.
    unsafe {
        out16(0x604, 0x2000);
        out8(0x64, 0xfe);
    }
    triple_fault()
}

/// Causes a fault without a handler, and a double fault without one, which resets the CPU.
pub fn triple_fault() -> ! {
    // SAFETY: nothing runs after this: with an empty table the read, of an address that is not mapped, cannot be handled.
    unsafe {
        load_interrupt_table::<()>(&[]);
        asm!("mov rax, [{}]", "2: hlt", "jmp 2b", in(reg) 1_u64 << 40, options(noreturn))
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("unikernel: {info}");
    off()
}

/// The linker requires a personality function; a panic ends the machine instead of unwinding.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
