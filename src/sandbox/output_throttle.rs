//! How fast the output of an instance is read: as fast as people write, not as fast as a program can.
//!
//! All output is read on the thread of the actors. An instance that prints without end waits for its reader, as it would
//! for a terminal, instead of keeping everybody else waiting.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes that are read at any speed. No more than fits into a pipe: what an instance leaves behind when it ends is read
/// without a pause.
const BURST: usize = 64 * 1024;
/// For each burst, at least. Short enough for the last lines of an instance to be read before it is said to have ended.
const TURN: Duration = Duration::from_millis(10);

/// The pace of one reader.
#[derive(Debug)]
pub struct OutputThrottle {
    taken: usize,
    since: Instant,
}

impl OutputThrottle {
    pub fn new() -> Self {
        Self { taken: 0, since: Instant::now() }
    }

    /// So many bytes have been read. Resolves when the next ones may be.
    pub async fn keep(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= BURST {
            sleep_until(self.since + TURN).await;
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_read_at_once_and_a_flood_is_not() {
        let (mut pace, start) = (OutputThrottle::new(), Instant::now());
        pace.keep(BURST - 1).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        pace.keep(1).await;
        assert_eq!(start.elapsed(), TURN);
        for _ in 0..100 {
            pace.keep(BURST / 2).await;
        }
        assert_eq!(start.elapsed(), TURN * 51);
        tokio::time::advance(TURN).await;
        let later = Instant::now();
        pace.keep(BURST).await;
        assert_eq!(later.elapsed(), Duration::ZERO, "it has been slow enough");
    }
}
