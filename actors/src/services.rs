//! What every actor is given: the sandboxes, the callback table, the AdmissionActor, the history and the starts.

use std::sync::Arc;

use actix::Addr;

use crate::{
    admission::AdmissionActor, callback::Callbacks, history::History, sandbox::Sandboxes, start_tracker::StartTracker,
};

/// Shared by all actors, on their one thread.
pub struct Services {
    /// Starts and probes instances.
    pub sandboxes: Box<dyn Sandboxes>,
    /// Maps the tokens of ready callbacks to instances.
    pub callbacks: Arc<Callbacks>,
    /// Grants permits to start instances.
    pub admission: Addr<AdmissionActor>,
    /// Remembers instances for the admin pages.
    pub history: Arc<History>,
    /// The starts of all functions that are in progress.
    pub starts: StartTracker,
}
