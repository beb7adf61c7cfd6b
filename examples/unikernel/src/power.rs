//! The ends of a unikernel: switched off in order, or crashed.

use core::{arch::asm, panic::PanicInfo};

use crate::{
    cpu::{load_interrupt_table, out8, out16},
    say,
};

/// Switches the machine off, by every way there is: ACPI (QEMU's pc and q35), the keyboard controller's reset
/// (Firecracker), and for machines that have neither (microvm) a triple fault.
pub fn off() -> ! {
    // SAFETY: both ports end the machine, or there is nothing behind them.
    unsafe {
        out16(0x604, 0x2000);
        out8(0x64, 0xfe);
    }
    triple_fault()
}

/// Faults without a handler, and without a handler for that, which resets the CPU.
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

/// Where the linker looks for what unwinds a panic; here a panic ends the machine instead.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
