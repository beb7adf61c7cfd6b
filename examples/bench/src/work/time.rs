//! Waits, and processor time.

#![allow(clippy::disallowed_methods, reason = "this is a program of its own, without tokio")]

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

/// Sleeps without using the processor.
pub fn wait(micros: u64) {
    thread::sleep(Duration::from_micros(micros));
}

/// Uses the processor for so long, and returns how many steps it took.
pub fn burn(micros: u64) -> u64 {
    let (began, length) = (Instant::now(), Duration::from_micros(micros));
    let mut steps = 0_u64;
    while began.elapsed() < length {
        for _ in 0..100 {
            steps = black_box(steps + 1);
        }
    }
    steps
}
