//! The work. `numeric.rs` computes, `memory.rs` touches memory, `time.rs` waits.

mod memory;
mod numeric;
mod time;

pub use memory::{alloc, content, hold};
pub use numeric::{fft, fib, matrix};
pub use time::{burn, wait};
