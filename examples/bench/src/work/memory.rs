//! Memory that is touched, kept or sent.

use std::{
    borrow::Cow,
    hint::black_box,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::Problem;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// The memory of `/hold`.
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Keeps so much memory in use from now on, instead of what was kept before. Returns its size in MiB.
pub fn hold(mib: u64) -> u64 {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    // Freed first, so that both are never there together.
    *held = Vec::new();
    *held = touched(mib as usize * MIB, 1);
    mib
}

/// Allocates memory and writes to each page. Returns the number of pages.
pub fn alloc(mib: u64) -> Result<usize, Problem> {
    let memory = touched(mib as usize * MIB, 1);
    let pages = memory.iter().step_by(PAGE).map(|byte| usize::from(*byte)).sum();
    if pages == memory.len().div_ceil(PAGE) {
        Ok(pages)
    } else {
        Err(Problem::Wrong(format!("{pages} pages have what was written to them")))
    }
}

/// Returns memory whose pages begin with `value`. The allocator returns it zeroed, without touching it.
fn touched(size: usize, value: u8) -> Vec<u8> {
    let mut memory = black_box(vec![0; size]);
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = value);
    black_box(memory)
}

/// Returns a body of so many MiB. That of 50 MiB is made once, as otherwise making it would be measured.
pub fn content(mib: u64) -> Cow<'static, [u8]> {
    static USUAL: OnceLock<Vec<u8>> = OnceLock::new();
    const USUAL_MIB: u64 = 50;
    let make = |mib: u64| touched(mib as usize * MIB, b'.');
    match mib {
        USUAL_MIB => Cow::Borrowed(USUAL.get_or_init(|| make(USUAL_MIB))),
        _ => Cow::Owned(make(mib)),
    }
}
