//! What every actor of the daemon is given: the way to the outside services and the limits of the host.

use std::sync::Arc;

use crate::{admission::Admission, callback::Callbacks, sandbox::Sandboxes};

/// Shared by all actors, on their one thread.
pub struct Services {
    /// Starts instances.
    pub sandboxes: Box<dyn Sandboxes>,
    /// Whom a ready callback is for.
    pub callbacks: Arc<Callbacks>,
    /// Which instances the host has room for.
    pub admission: Arc<Admission>,
}
