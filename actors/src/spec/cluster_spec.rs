//! `[cluster]`: how other nodes take part in serving a function.

use serde::Serialize;

use super::{keys, raw::Section};

/// How other nodes take part in serving a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterSpec {
    /// Whether its requests are forwarded, from this node and to it.
    pub forward: bool,
    /// Labels that a node needs for the function: keys, or keys with a value, as in `zone=a`.
    pub nodes: Vec<String>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self { forward: true, nodes: Vec::new() }
    }
}

/// Whether this can be the key or the value of a node's label.
pub fn is_label_part(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

/// Reads `[cluster]`. A value that is wrong is reported, and replaced by its default.
pub(super) fn cluster_spec(file: &Section<'_>) -> ClusterSpec {
    let default = ClusterSpec::default();
    let Some(table) = file.section("cluster") else { return default };
    table.only(&keys::CLUSTER);
    let nodes = table.strings("nodes").unwrap_or_default();
    let is_wanted = |wanted: &str| wanted.splitn(2, '=').all(is_label_part);
    if let Some(wrong) = nodes.iter().find(|wanted| !is_wanted(wanted)) {
        table.fail("nodes", format!("expected labels such as \"gpu\" or \"zone=a\", found the string {wrong:?}"));
    }
    ClusterSpec { forward: table.boolean("forward").unwrap_or(default.forward), nodes }
}
