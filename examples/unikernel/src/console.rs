//! The serial console, which the VMM shows as the guest's output.

use core::fmt::{self, Write};

use crate::cpu::{in8, out8};

/// The first serial port: the data register, and the line status register at offset 5.
const COM1: u16 = 0x3f8;
const READY: u8 = 0x20;

/// Polls of the status after which a byte is dropped: a console without a reader must not stop the function.
const MAX_POLLS: u32 = 20_000;

/// Prints a line to the serial console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints formatted text; use [`say!`].
pub fn print(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(text);
}

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: a serial port does not access memory; without one, the write has no effect.
            unsafe {
                let _ = (0..MAX_POLLS).find(|_| in8(COM1 + 5) & READY != 0);
                out8(COM1, byte);
            }
        }
        Ok(())
    }
}
