//! The function of a request: of this node, or of other nodes only.

use std::sync::Arc;

use unifaas_actors::{FunctionHandle, FunctionStats};

/// The function of a request.
#[derive(Debug, Clone)]
pub enum TargetFunction {
    Here(Arc<FunctionHandle>),
    Elsewhere { name: Box<str>, stats: Arc<FunctionStats> },
}

impl TargetFunction {
    pub fn name(&self) -> &str {
        match self {
            Self::Here(handle) => handle.name(),
            Self::Elsewhere { name, .. } => name,
        }
    }

    /// Returns the counters of its requests.
    pub fn stats(&self) -> &Arc<FunctionStats> {
        match self {
            Self::Here(handle) => handle.stats(),
            Self::Elsewhere { stats, .. } => stats,
        }
    }

    /// Returns the function of this node.
    pub fn here(&self) -> Option<&Arc<FunctionHandle>> {
        match self {
            Self::Here(handle) => Some(handle),
            Self::Elsewhere { .. } => None,
        }
    }

    /// Returns the largest request body that is accepted here, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        self.here().and_then(|handle| handle.max_body())
    }
}
