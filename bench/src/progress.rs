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
    began: u64,
    /// Estimated seconds of the whole run, and of what is done.
    total: f64,
    done: f64,
    is_drawn: bool,
}

impl Progress {
    /// Begins, with the estimated duration in seconds.
    pub fn new(total: f64) -> Self {
        Self { is_terminal: io::stderr().is_terminal(), began: clock::now(), total, done: 0.0, is_drawn: false }
    }

    /// Prints a line that stays.
    pub fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Shows that a round of an experiment begins. Each takes `seconds` by the estimate.
    pub fn round(&mut self, experiment: &str, round: u32, rounds: u32, seconds: f64) {
        let remaining = self.remaining();
        let what = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        let text = format!("{experiment}: {what}, {remaining} left");
        if self.is_terminal {
            self.draw(&text);
        } else {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
        self.done += seconds;
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

    /// Returns the remaining time, by the estimate and by how it has held so far.
    fn remaining(&self) -> String {
        let elapsed = clock::now().saturating_sub(self.began) as f64 / 1e9;
        let factor = if self.done > 0.05 * self.total { elapsed / self.done } else { 1.0 };
        duration((self.total - self.done).max(0.0) * factor)
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
