//! What every actor of the daemon is given: the way to the outside world and the limits of the host.

use std::{rc::Rc, sync::Arc};

use crate::{budget::Budget, callback::Callbacks, sandbox::Sandboxes};

/// Shared by all actors, on their one thread.
pub struct World {
    /// Starts instances.
    pub sandboxes: Box<dyn Sandboxes>,
    /// Whom a ready callback is for.
    pub callbacks: Arc<Callbacks>,
    /// Memory that instances may use together.
    pub memory: Rc<Budget>,
}
