//! Requests for an upgrade, from the admin pages to the main loop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

/// Why there was no upgrade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    #[error("an upgrade is under way, or the daemon before still finishes its requests")]
    Busy,
    #[error("the new daemon {0}; this one serves on")]
    Failed(String),
    #[error("the daemon ends")]
    Ending,
}

impl From<UpgradeError> for Failure {
    fn from(error: UpgradeError) -> Self {
        Self::NotUpgraded { is_busy: error == UpgradeError::Busy, why: error.to_string() }
    }
}

/// Requests an upgrade. The answer is the process id of the new daemon.
#[derive(Debug)]
pub struct UpgradeRequest {
    pub reply: oneshot::Sender<Result<u32, UpgradeError>>,
}

/// Passes requests on, one at a time. Clones share that.
#[derive(Debug, Clone)]
pub struct UpgradeTrigger {
    requests: mpsc::UnboundedSender<UpgradeRequest>,
    is_busy: Arc<AtomicBool>,
}

impl UpgradeTrigger {
    /// Returns a trigger, and where its requests arrive.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<UpgradeRequest>) {
        let (requests, received) = mpsc::unbounded_channel();
        (Self { requests, is_busy: Arc::default() }, received)
    }

    /// Requests an upgrade, and waits for its end.
    ///
    /// # Errors
    /// Why this daemon is still the daemon.
    pub async fn request(&self) -> Result<u32, UpgradeError> {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Err(UpgradeError::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(UpgradeRequest { reply });
        answer.await.unwrap_or(Err(UpgradeError::Ending))
    }

    /// Sets whether requests are refused.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Release);
    }
}
