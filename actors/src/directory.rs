//! Which functions exist, as a snapshot that any thread reads without asking an actor.

use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::HashMap;

use crate::function::FunctionHandle;

/// Functions by name. Written by the RegistryActor alone.
#[derive(Debug, Default)]
pub struct Directory(ArcSwap<HashMap<String, Arc<FunctionHandle>>>);

impl Directory {
    /// The function of that name.
    pub fn find(&self, name: &str) -> Option<Arc<FunctionHandle>> {
        self.0.load().get(name).cloned()
    }

    /// All functions as they are now.
    pub fn all(&self) -> Arc<HashMap<String, Arc<FunctionHandle>>> {
        self.0.load_full()
    }

    pub(crate) fn publish(&self, functions: HashMap<String, Arc<FunctionHandle>>) {
        self.0.store(Arc::new(functions));
    }
}
