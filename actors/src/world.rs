//! What every actor of the daemon is given: the way to the outside world and the limits of the host.

use std::sync::Arc;

use crate::{callback::Callbacks, sandbox::Sandboxes};

/// Shared by all actors, on their one thread.
pub struct World {
    /// Starts instances.
    pub sandboxes: Box<dyn Sandboxes>,
    /// Whom a ready callback is for.
    pub callbacks: Arc<Callbacks>,
    /// Memory that instances may use together, in MiB; bounds a function that sets no `max-instances`.
    pub memory_budget: u64,
}
