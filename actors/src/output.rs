//! The last lines that an instance has printed, bounded in number and length.
//!
//! The sandbox writes what it reads from the instance's pipes or console. `/debug` and the error of a failed boot read it.
//! The instance's secrets are redacted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::redact::Redactor;

/// Lines kept per instance.
const MAX_LINES: usize = 100;
/// Bytes kept of one line; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 1024;

/// A shared, bounded log of an instance's output.
#[derive(Debug, Clone, Default)]
pub struct OutputLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    complete: VecDeque<String>,
    /// The line that has not ended yet.
    partial: Vec<u8>,
    redactor: Redactor,
}

impl OutputLog {
    /// Creates an empty log of an instance with these secrets.
    pub fn new(redactor: Redactor) -> Self {
        Self(Arc::new(Mutex::new(Lines { redactor, ..Lines::default() })))
    }

    /// Appends bytes as they were read. A line may arrive in pieces.
    pub fn write(&self, bytes: &[u8]) {
        let mut lines = self.lines();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.ends_with(b"\n");
            let text = if ended { &piece[..piece.len() - 1] } else { piece };
            // A secret that begins within the kept bytes must be complete to be recognised.
            let limit = MAX_LINE_BYTES + lines.redactor.longest();
            let space = limit.saturating_sub(lines.partial.len());
            lines.partial.extend_from_slice(&text[..text.len().min(space)]);
            if ended {
                lines.end_line();
            }
        }
    }

    /// Returns the last `count` lines, oldest first, including a line that has not ended.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines();
        let partial = (!lines.partial.is_empty()).then(|| lines.redacted_partial());
        let newest_first = partial.into_iter().chain(lines.complete.iter().rev().cloned());
        let mut tail: Vec<String> = newest_first.take(count).collect();
        tail.reverse();
        tail
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn end_line(&mut self) {
        if self.complete.len() == MAX_LINES {
            self.complete.pop_front();
        }
        let line = self.redacted_partial();
        self.partial.clear();
        self.complete.push_back(line);
    }

    fn redacted_partial(&self) -> String {
        let mut line = self.redactor.redact(readable(&self.partial)).into_owned();
        line.truncate(line.floor_char_boundary(MAX_LINE_BYTES));
        line
    }
}

/// Returns text that is safe to show: valid UTF-8, without control characters other than tabs.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\r').chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_lines_that_arrive_in_pieces() {
        let log = OutputLog::default();
        log.write(b"one\ntw");
        log.write(b"o\nthr");
        assert_eq!(log.tail(10), ["one", "two", "thr"]);
        assert_eq!(log.tail(2), ["two", "thr"]);
    }

    #[test]
    fn bounds_lines_and_their_length() {
        let log = OutputLog::default();
        log.write(&vec![b'x'; 1 << 20]);
        for line in 0..10_000 {
            log.write(format!("\nline {line}").as_bytes());
        }
        assert_eq!(log.tail(usize::MAX).len(), MAX_LINES + 1);
        assert_eq!(log.tail(1), ["line 9999"]);
        let log = OutputLog::default();
        log.write(&vec![b'x'; 1 << 20]);
        assert_eq!(log.tail(1)[0].len(), MAX_LINE_BYTES);
    }

    #[test]
    fn redacts_secrets_at_the_end_of_truncated_lines() {
        let token = crate::id::ReadyToken::random();
        let log = OutputLog::new(Redactor::new(token, &Default::default()));
        let secret = token.reveal();
        log.write(format!("callback=http://x/ready/{secret} ro\n").as_bytes());
        assert_eq!(log.tail(1), ["callback=http://x/ready/… ro"]);
        for before in MAX_LINE_BYTES - 40..=MAX_LINE_BYTES {
            log.write(format!("{}{secret} and more", "x".repeat(before)).as_bytes());
            for line in log.tail(1) {
                assert!(!line.contains(&secret[..4]), "{before}: {line}");
                assert!(line.len() <= MAX_LINE_BYTES);
            }
            log.write(b"\n");
        }
    }

    #[test]
    fn replaces_invalid_text_and_control_characters() {
        let log = OutputLog::default();
        log.write(b"\xff\x00\x1b[31mred\r\n");
        assert_eq!(log.tail(1), ["\u{fffd}\u{fffd}\u{fffd}[31mred"]);
    }
}
