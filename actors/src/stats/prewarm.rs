//! What instances were good for that were started ahead of requests.

/// The result of a start ahead of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrewarmResult {
    /// A request came.
    Used,
    /// The instance ended before a request came.
    Unused,
    /// It could not be started.
    Failed,
}

impl PrewarmResult {
    /// Every result, in the order of the discriminants.
    pub const ALL: [PrewarmResult; 3] = [PrewarmResult::Used, PrewarmResult::Unused, PrewarmResult::Failed];

    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            PrewarmResult::Used => "used",
            PrewarmResult::Unused => "unused",
            PrewarmResult::Failed => "failed",
        }
    }
}
