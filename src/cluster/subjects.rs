//! The subjects of NATS that nodes use.
//!
//! What a node tells is below `uf.<site>.node.<its id>`, so that a server can allow it that alone. What it asks others is
//! below `uf.<site>.ask.<their id>`.

use unifaas_actors::cluster::NodeId;

/// Where a node sends its heartbeats.
pub fn beat(site: &str, node: NodeId) -> String {
    format!("uf.{site}.node.{node}.beat")
}

/// The heartbeats of all nodes of all sites.
pub const ANY_BEATS: &str = "uf.*.node.*.beat";

/// The heartbeats of all nodes of a site.
pub fn all_beats(site: &str) -> String {
    format!("uf.{site}.node.*.beat")
}

/// Where a node is asked for the list of its functions.
pub fn functions(site: &str, node: NodeId) -> String {
    format!("uf.{site}.ask.{node}.functions")
}

/// Where a node is asked which daemon it is.
pub fn who(site: &str, node: NodeId) -> String {
    format!("uf.{site}.ask.{node}.who")
}

/// Returns the site and the node that a heartbeat claims by its subject.
pub fn of_beat(subject: &str) -> Option<(&str, NodeId)> {
    let mut tokens = subject.split('.');
    let (Some("uf"), Some(site), Some("node"), Some(node), Some("beat"), None) =
        (tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next())
    else {
        return None;
    };
    Some((site, node.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_of_a_beat_names_its_sender() {
        let node = NodeId(0xab);
        assert_eq!(of_beat(&beat("eu", node)), Some(("eu", node)));
        for subject in ["uf.eu.node.ab.beat", "uf.eu.node.00000000000000ab.beat.x", "uf.eu.node.00000000000000ab", "x"]
        {
            assert_eq!(of_beat(subject), None, "{subject}");
        }
    }
}
