//! The functions that exist, as a snapshot that any thread reads without asking an actor.

use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::HashMap;

use crate::function::FunctionHandle;

/// The functions by name. Only the RegistryActor writes it.
#[derive(Debug, Default)]
pub struct Directory(ArcSwap<HashMap<String, Arc<FunctionHandle>>>);

impl Directory {
    /// Returns the function of that name.
    pub fn find(&self, name: &str) -> Option<Arc<FunctionHandle>> {
        self.0.load().get(name).cloned()
    }

    /// Returns all functions that exist now.
    pub fn all(&self) -> Arc<HashMap<String, Arc<FunctionHandle>>> {
        self.0.load_full()
    }

    pub(crate) fn publish(&self, functions: HashMap<String, Arc<FunctionHandle>>) {
        self.0.store(Arc::new(functions));
    }
}
