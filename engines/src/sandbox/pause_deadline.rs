//! How long the processes of an instance may take to stand still.

use std::{io, time::Duration};

use tokio::time::{self, Instant};

/// A pause takes long only if a process hangs in the kernel, or the machine is busy: a process has to be scheduled to stand
/// still. The actors wait for more than twice as long, since an engine may be asked twice.
pub const PAUSE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often the processes are looked at before they are given up. A host that stood still meanwhile has let none of them stop,
/// nor this process look at them.
const MIN_LOOKS: u32 = 100;
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(1);

/// When a pause is given up.
#[derive(Debug)]
pub struct PauseDeadline {
    at: Instant,
    looks: u32,
}

impl PauseDeadline {
    pub fn start() -> Self {
        Self { at: Instant::now() + PAUSE_TIMEOUT, looks: 0 }
    }

    /// Waits until the next look, after a look that has seen something run.
    ///
    /// # Errors
    /// When it has taken too long: `not WHAT within 4s`.
    pub async fn next_look(&mut self, what: &str) -> io::Result<()> {
        self.looks += 1;
        if self.looks > MIN_LOOKS && Instant::now() > self.at {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not {what} within {PAUSE_TIMEOUT:?}")));
        }
        time::sleep(INTERVAL).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn processes_are_given_up_after_four_seconds() {
        let (begun, mut deadline) = (Instant::now(), PauseDeadline::start());
        let error = loop {
            if let Err(error) = deadline.next_look("stopped").await {
                break error;
            }
        };
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::TimedOut, "not stopped within 4s".to_owned()));
        assert!((PAUSE_TIMEOUT..PAUSE_TIMEOUT * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn processes_are_looked_at_again_after_the_host_stood_still() {
        let mut deadline = PauseDeadline::start();
        deadline.next_look("stopped").await.unwrap();
        time::advance(PAUSE_TIMEOUT * 5).await;
        for _ in 1..MIN_LOOKS {
            deadline.next_look("stopped").await.unwrap();
        }
        assert!(deadline.next_look("stopped").await.is_err());
    }
}
