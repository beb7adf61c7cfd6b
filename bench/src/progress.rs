//! Progress on standard error: one line that is redrawn on a terminal, else a line for each round.
//!
//! It is written between samples only.

use std::io::{self, IsTerminal as _, Write as _};

use crate::clock;

/// Columns that a line is cut to, so that it never wraps.
const WIDTH: usize = 78;

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    /// Seconds that were left at a time.
    left: (f64, u64),
    is_drawn: bool,
}

impl Progress {
    /// Begins, without a duration.
    pub fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), left: (0.0, clock::now()), is_drawn: false }
    }

    /// Notes that so many seconds are left, by the present estimate.
    pub fn expect(&mut self, seconds: f64) {
        self.left = (seconds, clock::now());
    }

    /// Prints a line that stays.
    pub fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Shows that a round of an experiment begins.
    pub fn round(&mut self, experiment: &str, round: u32, rounds: u32) {
        let remaining = self.remaining();
        let what = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        let text = format!("{experiment}: {what}, {remaining} left");
        if self.is_terminal {
            self.draw(&text);
        } else {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Shows what is measured next, on a terminal.
    pub fn sample(&mut self, experiment: &str, round: u32, rounds: u32, function: &str) {
        if self.is_terminal {
            let remaining = self.remaining();
            self.draw(&format!("{experiment}: round {round} of {rounds}, {remaining} left, {function}"));
        }
    }

    /// Removes the line that is redrawn.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn draw(&mut self, text: &str) {
        let text: String = text.chars().take(WIDTH).collect();
        let _ = write!(io::stderr().lock(), "\r{text}\x1b[K");
        self.is_drawn = true;
    }

    /// Returns the remaining time.
    fn remaining(&self) -> String {
        let passed = clock::now().saturating_sub(self.left.1) as f64 / 1e9;
        duration((self.left.0 - passed).max(0.0))
    }
}

/// Returns seconds for people.
pub fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 90.0 => format!("{seconds:.0} s"),
        _ if seconds < 5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
