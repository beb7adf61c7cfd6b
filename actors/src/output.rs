//! What one instance has printed: the last lines, bounded in number and length.
//!
//! Written by whoever reads the instance's pipes or console, read by `/debug` and by the error of a failed boot. Secrets
//! that the instance prints are covered.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::redact::Redactor;

/// Lines kept per instance.
const LINES: usize = 100;
/// Bytes kept of one line; the rest of it is dropped.
const LINE_BYTES: usize = 1024;

/// A shared, bounded log of an instance's output.
#[derive(Debug, Clone, Default)]
pub struct OutputLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    done: VecDeque<String>,
    open: Vec<u8>,
    redactor: Redactor,
}

impl OutputLog {
    /// An empty one, of an instance with these secrets.
    pub fn new(redactor: Redactor) -> Self {
        Self(Arc::new(Mutex::new(Lines { redactor, ..Lines::default() })))
    }

    /// Takes the next bytes as they were read; lines may come in pieces.
    pub fn write(&self, bytes: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.ends_with(b"\n");
            let text = if ended { &piece[..piece.len() - 1] } else { piece };
            // A secret that begins in what is kept must be there as a whole, or it would not be recognised.
            let room = (LINE_BYTES + lines.redactor.longest()).saturating_sub(lines.open.len());
            lines.open.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                lines.close();
            }
        }
    }

    /// The last lines, oldest first, an unfinished one included.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = (!lines.open.is_empty()).then(|| lines.unfinished());
        let mut tail: Vec<String> = open.into_iter().chain(lines.done.iter().rev().cloned()).take(count).collect();
        tail.reverse();
        tail
    }
}

impl Lines {
    fn close(&mut self) {
        if self.done.len() == LINES {
            self.done.pop_front();
        }
        let line = self.unfinished();
        self.open.clear();
        self.done.push_back(line);
    }

    fn unfinished(&self) -> String {
        let mut line = self.redactor.redact(readable(&self.open)).into_owned();
        line.truncate(line.floor_char_boundary(LINE_BYTES));
        line
    }
}

/// Text that is safe to show: no invalid UTF-8, no terminal control but tabs.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\r').chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_in_pieces_are_put_together() {
        let log = OutputLog::default();
        log.write(b"one\ntw");
        log.write(b"o\nthr");
        assert_eq!(log.tail(10), ["one", "two", "thr"]);
        assert_eq!(log.tail(2), ["two", "thr"]);
    }

    #[test]
    fn endless_output_stays_bounded() {
        let log = OutputLog::default();
        log.write(&vec![b'x'; 1 << 20]);
        for line in 0..10_000 {
            log.write(format!("\nline {line}").as_bytes());
        }
        assert_eq!(log.tail(usize::MAX).len(), LINES + 1);
        assert_eq!(log.tail(1), ["line 9999"]);
        let log = OutputLog::default();
        log.write(&vec![b'x'; 1 << 20]);
        assert_eq!(log.tail(1)[0].len(), LINE_BYTES);
    }

    #[test]
    fn secrets_are_covered_also_where_a_line_is_cut() {
        let token = crate::id::ReadyToken::random();
        let log = OutputLog::new(Redactor::new(token, &Default::default()));
        let secret = token.reveal();
        log.write(format!("callback=http://x/ready/{secret} ro\n").as_bytes());
        assert_eq!(log.tail(1), ["callback=http://x/ready/… ro"]);
        for before in LINE_BYTES - 40..=LINE_BYTES {
            log.write(format!("{}{secret} and more", "x".repeat(before)).as_bytes());
            for line in log.tail(1) {
                assert!(!line.contains(&secret[..4]), "{before}: {line}");
                assert!(line.len() <= LINE_BYTES);
            }
            log.write(b"\n");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        let log = OutputLog::default();
        log.write(b"\xff\x00\x1b[31mred\r\n");
        assert_eq!(log.tail(1), ["\u{fffd}\u{fffd}\u{fffd}[31mred"]);
    }
}
