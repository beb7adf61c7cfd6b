//! The queue of messages to the log's writer. A full queue loses messages and never blocks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use slog::{Drain, Level, Never, OwnedKVList, Record, b, record};
use slog_async::{AsyncCore, AsyncError, AsyncGuard, AsyncResult};

/// Messages that may wait to be written, of 96 bytes each. Those beyond are lost, and their number is logged.
const QUEUE_LENGTH: usize = 4096;

/// Messages that were lost since the daemon started. There is one log.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Returns how many messages were lost.
pub fn lost_lines() -> u64 {
    LOST.load(Relaxed)
}

/// Passes messages to a thread that writes them.
pub struct Queue {
    core: AsyncCore,
    /// Lost messages that were not logged yet.
    unreported: AtomicU64,
}

/// Starts the thread that writes messages.
pub fn queued<D>(drain: D) -> (Queue, AsyncGuard)
where
    D: Drain<Err = Never, Ok = ()> + Send + 'static,
{
    let (core, guard) = AsyncCore::custom(drain).chan_size(QUEUE_LENGTH).build_with_guard();
    (Queue { core, unreported: AtomicU64::new(0) }, guard)
}

impl Queue {
    /// Logs how many messages were lost since the last such message.
    fn report(&self, logger_values: &OwnedKVList) -> AsyncResult<()> {
        let lost = self.unreported.swap(0, Relaxed);
        if lost == 0 {
            return Ok(());
        }
        let words = format_args!("dropped messages: the log is read too slowly");
        let reported = self.core.log(&record!(Level::Error, "unifaas", &words, b!("count" => lost)), logger_values);
        if reported.is_err() {
            self.unreported.fetch_add(lost, Relaxed);
        }
        reported
    }
}

impl Drain for Queue {
    type Ok = ();
    type Err = AsyncError;

    fn log(&self, record: &Record<'_>, logger_values: &OwnedKVList) -> AsyncResult<()> {
        match self.report(logger_values).and_then(|()| self.core.log(record, logger_values)) {
            Err(AsyncError::Full) => {
                self.unreported.fetch_add(1, Relaxed);
                LOST.fetch_add(1, Relaxed);
                Ok(())
            }
            result => result,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A full queue at the end is lost with its number.
        let _ = self.report(&slog::o!().into());
    }
}
