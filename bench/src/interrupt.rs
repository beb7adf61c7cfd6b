//! Signals that end a run: the first one after the present sample, the second one at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use crate::error::BenchError;

/// How often a run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    count: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl Interrupt {
    /// Begins to listen for SIGINT and SIGTERM. Needs a runtime.
    ///
    /// # Errors
    /// When the signals cannot be handled.
    pub fn listen() -> Result<Self, BenchError> {
        let failed = |error| BenchError::System("signals", error);
        let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminations = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = Self::default();
        let listener = interrupt.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                listener.count.fetch_add(1, Relaxed);
                listener.changed.notify_waiters();
            }
        });
        Ok(interrupt)
    }

    /// Fails if the run was asked to end.
    ///
    /// # Errors
    /// When it was.
    pub fn check(&self) -> Result<(), BenchError> {
        if self.count.load(Relaxed) > 0 { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    /// Waits until the run was asked to end `count` times.
    pub async fn reached(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Relaxed) >= count {
                return;
            }
            changed.await;
        }
    }
}
