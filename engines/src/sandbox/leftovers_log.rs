//! Log lines about the removal of what earlier daemons have left.

use std::io;

use slog::{Logger, info, warn};

/// Logs how many leftovers of one kind were removed, if any.
pub fn removed(log: &Logger, kind: &'static str, count: usize) {
    if count > 0 {
        info!(log, "removed leftovers of an earlier daemon"; "kind" => kind, "count" => count);
    }
}

/// Logs that a leftover stays for the next daemon.
pub fn not_removed(log: &Logger, what: &str, error: &io::Error) {
    warn!(log, "leftovers of an earlier daemon could not be removed"; "what" => what, "error" => %error);
}
