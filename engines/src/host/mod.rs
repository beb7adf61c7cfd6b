//! The host that the daemon runs on: what it has to give, what the daemon may do, which limits it sets, which of its peers are
//! functions, and which of its users operate the daemon.

pub mod budget;
pub mod claim;
pub mod function_peers;
pub mod keep_alive;
pub mod open_files;
pub mod operators;
pub mod peer_uid;
pub mod port_owner;
pub mod privileges;
pub mod signals;
