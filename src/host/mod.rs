//! The host that the daemon runs on: what it has to give, which limits it sets, and which of its peers are functions.

pub mod budget;
pub mod function_peers;
pub mod open_files;
pub mod peer_uid;
pub mod signals;
