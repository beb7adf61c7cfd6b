//! Limits the rate at which the output of an instance is read.
//!
//! All output is read on the actors' thread. An instance that prints without end blocks on its pipe, so that it does not
//! hold up the other actors.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes that are read without a pause. A pipe holds as much, so the last output of an instance is read at once.
const BURST: usize = 64 * 1024;
/// The least time per burst. Shorter than the wait for the last output of an ended instance.
const BURST_INTERVAL: Duration = Duration::from_millis(10);

/// The throttle of one reader.
#[derive(Debug)]
pub struct OutputThrottle {
    read: usize,
    since: Instant,
}

impl OutputThrottle {
    pub fn new() -> Self {
        Self { read: 0, since: Instant::now() }
    }

    /// Accounts for `bytes` that were read, and waits until the next ones may be.
    pub async fn after_read(&mut self, bytes: usize) {
        self.read += bytes;
        if self.read >= BURST {
            sleep_until(self.since + BURST_INTERVAL).await;
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_only_reads_beyond_a_burst() {
        let (mut throttle, start) = (OutputThrottle::new(), Instant::now());
        throttle.after_read(BURST - 1).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        throttle.after_read(1).await;
        assert_eq!(start.elapsed(), BURST_INTERVAL);
        for _ in 0..100 {
            throttle.after_read(BURST / 2).await;
        }
        assert_eq!(start.elapsed(), BURST_INTERVAL * 51);
        tokio::time::advance(BURST_INTERVAL).await;
        let later = Instant::now();
        throttle.after_read(BURST).await;
        assert_eq!(later.elapsed(), Duration::ZERO, "the interval is already over");
    }
}
