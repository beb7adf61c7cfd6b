//! What must hold for any bytes whatever: functions over bytes that panic when it does not.
//!
//! Two callers. A fuzzer looks for such bytes (`integration/fuzz`, which builds `fuzz/`); and every run of the tests puts
//! the seeds in `fuzz/corpus/`, and a bounded number of their mutations, through the same functions (`replay.rs`). What was
//! found once is among the seeds, under a name that says what it was. Nothing of this is in the daemon.
//!
//! Where a function looks at an answer it does so in a way of its own, as simple as can be: a parser that checks itself
//! agrees with itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a target fails by panicking")]

#[cfg(test)]
mod replay;

pub use crate::http::fuzz::{body, callback, invoke_path, request, response};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All of them. Each has a file in `fuzz/fuzz_targets/` and seeds in `fuzz/corpus/`.
pub const TARGETS: [(&str, Target); 5] = [
    ("body", body),
    ("callback", callback),
    ("invoke_path", invoke_path),
    ("request", request),
    ("response", response),
];

/// The first byte says in pieces of which length the rest arrives.
pub fn in_pieces(data: &[u8]) -> Option<(&[u8], impl Iterator<Item = &[u8]>)> {
    let (length, wire) = data.split_first()?;
    Some((wire, wire.chunks(1 + usize::from(*length))))
}
