//! The memory of the machine behind this program, for work.

use core::slice;

use unikernel::cmdline::CommandLine;

use crate::once::Once;

unsafe extern "C" {
    /// The end of the program, from linker.ld.
    static image_end: u8;
}

/// What may lie at the end of memory: tables of a BIOS.
const RESERVED: usize = 1 << 20;
/// Where devices may begin on some machines.
const MAX_END: usize = 2 << 30;

static TAKEN: Once<()> = Once::new(());

/// Returns what the command line says that there is: none without `memory=`, which must not exceed the machine's.
///
/// # Panics
/// When it is called a second time.
pub fn take(command_line: CommandLine<'_>) -> &'static mut [u8] {
    TAKEN.take();
    let begin = &raw const image_end;
    let end = command_line.memory().unwrap_or(0).min(MAX_END);
    let length = end.saturating_sub(RESERVED).saturating_sub(begin.expose_provenance());
    // SAFETY: all addresses are mapped, nothing lies behind the program, and there is one reference only. Any byte is a
    // valid value.
    unsafe { slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(begin.expose_provenance()), length) }
}
