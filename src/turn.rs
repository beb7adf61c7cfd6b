//! The order in which long pages are written: slice by slice, one at a time, with pauses.
//!
//! The threads of these pages serve invocations as well. However many readers there are, all of them together take a bounded
//! share of one processor.

use std::time::Duration;

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};

/// Behind a slice: at least this, and so many times as long as the slice has taken.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_FACTOR: u32 = 3;

/// Gives each reader its turn, in the order in which they ask.
#[derive(Debug, Default)]
pub struct Turns(Mutex<()>);

/// The turn of one reader. Dropped, it is the next one's.
#[derive(Debug)]
pub struct Turn<'a> {
    _guard: MutexGuard<'a, ()>,
    begun: Instant,
}

impl Turns {
    /// Waits for a turn.
    pub async fn next(&self) -> Turn<'_> {
        let guard = self.0.lock().await;
        Turn { _guard: guard, begun: Instant::now() }
    }
}

impl Turn<'_> {
    /// Pauses behind a slice that another one follows, and ends the turn.
    pub async fn pause(self) {
        sleep(PAUSE.max(self.begun.elapsed() * PAUSE_FACTOR)).await;
    }
}
