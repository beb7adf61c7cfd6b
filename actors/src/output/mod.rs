//! The last lines that an instance has printed, bounded in number and length, with the daemon's own lines about it.
//!
//! The sandbox writes what it reads from the instance's pipes or console, and the InstanceActor adds lines of the platform.
//! `/debug`, the log and the error of a failed boot read it, and followers get each complete line through the
//! [`Feed`](crate::Feed). The instance's secrets are redacted. `line.rs` is one line.

mod line;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use line::{OutputLine, OutputStream};

use tokio::time::Instant;

use crate::{
    boot::{BootClock, Phase},
    feed::{Feed, LineBatch},
    id::InstanceId,
    redact::Redactor,
    wall_time::WallTime,
};

/// Lines kept per instance.
pub(crate) const MAX_LINES: usize = 100;
/// Bytes kept of one line; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 1024;
/// Bytes that a kept line takes beside its text: the line itself, its reference counts, and a pointer to it.
pub(crate) const LINE_OVERHEAD: usize = size_of::<OutputLine>() + 3 * size_of::<usize>();
/// What begins a line by which an instance marks a time of its start.
const GUEST_MARK: &str = "unifaas-mark: ";
/// Between the lines of a text that has to be one line.
const SEPARATOR: &str = " | ";

/// A shared, bounded log of an instance's output.
#[derive(Debug, Clone)]
pub struct OutputLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    function: Arc<str>,
    instance: InstanceId,
    redactor: Redactor,
    feed: Arc<Feed>,
    clock: BootClock,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    complete: VecDeque<Arc<OutputLine>>,
    /// The lines that have not ended yet, by stream.
    partial: [Vec<u8>; OutputStream::PRINTED.len()],
    /// The number of the last line.
    number: u64,
    /// The sequence number of the last line that made room for another.
    last_dropped: u64,
    /// Lines for the followers, while there are some.
    unpublished: Vec<Arc<OutputLine>>,
    /// The instance has ended: what comes now is dropped.
    sealed: bool,
}

impl Default for OutputLog {
    fn default() -> Self {
        let clock = BootClock::new(Instant::now());
        Self::of("".into(), InstanceId::random(), Redactor::default(), Arc::default(), clock)
    }
}

impl OutputLog {
    /// Creates an empty log of an instance with these secrets.
    pub(crate) fn of(
        function: Arc<str>,
        instance: InstanceId,
        redactor: Redactor,
        feed: Arc<Feed>,
        clock: BootClock,
    ) -> Self {
        Self(Arc::new(Inner { function, instance, redactor, feed, clock, lines: Mutex::default() }))
    }

    /// Appends bytes of a stream as they were read. A line may arrive in pieces.
    pub fn write(&self, stream: OutputStream, bytes: &[u8]) {
        self.0.clock.mark(Phase::FirstOutput);
        self.update(|lines, now| {
            // A secret that begins within the kept bytes must be complete to be recognised.
            let limit = MAX_LINE_BYTES + self.0.redactor.longest();
            for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                let ended = piece.ends_with(b"\n");
                let text = if ended { &piece[..piece.len() - 1] } else { piece };
                let Some(partial) = lines.partial.get_mut(stream as usize) else { return };
                let space = limit.saturating_sub(partial.len());
                partial.extend_from_slice(&text[..text.len().min(space)]);
                if ended {
                    self.0.end_line(lines, stream, now);
                }
            }
        });
    }

    /// Ends a stream: an unfinished last line is complete.
    pub fn end(&self, stream: OutputStream) {
        self.update(|lines, now| {
            if lines.partial.get(stream as usize).is_some_and(|partial| !partial.is_empty()) {
                self.0.end_line(lines, stream, now);
            }
        });
    }

    /// Appends a line of the platform about the instance.
    pub fn note(&self, text: &str) {
        self.update(|lines, now| self.0.push(lines, OutputStream::Platform, self.0.redacted(text.as_bytes()), now));
    }

    fn update(&self, change: impl FnOnce(&mut Lines, WallTime)) {
        let mut lines = self.lines();
        if lines.sealed {
            return;
        }
        change(&mut lines, WallTime::now());
        if !lines.unpublished.is_empty() {
            let (function, instance) = (self.0.function.clone(), self.0.instance);
            // Under the lock, so that a follower that reads the log misses no line and knows which it has.
            self.0.feed.publish(LineBatch { function, instance, lines: std::mem::take(&mut lines.unpublished) });
        }
    }

    /// Returns the last `count` lines, oldest first, including lines that have not ended.
    pub fn tail(&self, count: usize) -> Vec<Arc<OutputLine>> {
        let lines = self.lines();
        let unfinished = self.0.unfinished(&lines);
        let all = lines.complete.iter().chain(&unfinished);
        all.skip((lines.complete.len() + unfinished.len()).saturating_sub(count)).cloned().collect()
    }

    /// Returns the text of the last `count` lines, oldest first, including lines that have not ended.
    pub fn texts(&self, count: usize) -> Vec<String> {
        self.tail(count).iter().map(|line| line.text.to_string()).collect()
    }

    /// Returns the text of the last `count` lines as one line, for the log.
    pub fn summary(&self, count: usize) -> String {
        self.texts(count).join(SEPARATOR)
    }

    /// Returns the complete lines behind the event of that sequence number, and whether lines in between may be lost.
    pub fn since(&self, sequence: u64) -> (Vec<Arc<OutputLine>>, bool) {
        let lines = self.lines();
        let since = lines.complete.iter().filter(|line| line.sequence > sequence).cloned().collect();
        (since, lines.last_dropped > sequence)
    }

    /// Returns the last `count` complete lines, oldest first.
    pub fn complete(&self, count: usize) -> Vec<Arc<OutputLine>> {
        let lines = self.lines();
        lines.complete.iter().skip(lines.complete.len().saturating_sub(count)).cloned().collect()
    }

    /// Completes the log of an ended instance, and returns the size of what is kept, in bytes.
    pub(crate) fn seal(&self) -> usize {
        for stream in OutputStream::PRINTED {
            self.end(stream);
        }
        let mut lines = self.lines();
        lines.sealed = true;
        lines.partial = Default::default();
        lines.complete.shrink_to_fit();
        lines.complete.iter().map(|line| LINE_OVERHEAD + line.text.len()).sum()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end_line(&self, lines: &mut Lines, stream: OutputStream, time: WallTime) {
        let mut partial = std::mem::take(&mut lines.partial[stream as usize]);
        let text = self.redacted(&partial);
        if let Some(name) = text.strip_prefix(GUEST_MARK) {
            self.clock.mark_guest(name.trim());
        }
        self.push(lines, stream, text, time);
        // Its memory is used again.
        partial.clear();
        lines.partial[stream as usize] = partial;
    }

    fn push(&self, lines: &mut Lines, stream: OutputStream, text: Box<str>, time: WallTime) {
        if lines.complete.len() == MAX_LINES
            && let Some(dropped) = lines.complete.pop_front()
        {
            lines.last_dropped = dropped.sequence;
        }
        lines.number += 1;
        let (sequence, number) = (self.feed.next_sequence(), lines.number);
        let line = Arc::new(OutputLine { sequence, number, time, stream, text });
        if self.feed.is_followed() {
            lines.unpublished.push(line.clone());
        }
        lines.complete.push_back(line);
    }

    /// Returns the lines that have not ended, with the numbers that follow.
    fn unfinished(&self, lines: &Lines) -> Vec<Arc<OutputLine>> {
        let unfinished =
            OutputStream::PRINTED.into_iter().zip(&lines.partial).filter(|(_, partial)| !partial.is_empty());
        let sequence = self.feed.last_sequence();
        let numbered = unfinished.zip(lines.number + 1..).map(|((stream, partial), number)| {
            Arc::new(OutputLine { sequence, number, time: WallTime::now(), stream, text: self.redacted(partial) })
        });
        numbered.collect()
    }

    fn redacted(&self, bytes: &[u8]) -> Box<str> {
        let mut line = self.redactor.redact(readable(bytes)).into_owned();
        line.truncate(line.floor_char_boundary(MAX_LINE_BYTES));
        line.into()
    }
}

/// Returns text that is safe to show: valid UTF-8, without control characters other than tabs.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\r').chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
