//! An upgrade without lost requests: the daemon starts its program again, and leaves its listeners to the new daemon.
//!
//! ```text
//!   old                                   new
//!   serves                                               POST /debug/upgrade
//!   ├─ starts the program ──────────────► checks settings and registry, opens a life of its own below the state directory
//!   │  (listeners over a socket)          ├─ serves callbacks, and passes those of the old one's instances back to it
//!   ├─ stops to serve callbacks ◄──────── ┤
//!   │                                     ├─ starts `min-instances`
//!   │                                     ├─ accepts connections
//!   ├─ accepts none any more ◄─────────── ┤ is ready
//!   ├─ reports it to systemd ───────────► ├─ is the daemon
//!   ├─ finishes requests and ends         ├─ counts the memory of the old one's instances until then
//!   ✕ ──────────────────────────────────► └─ removes what the old one has left, if it was killed
//! ```
//!
//! A new daemon that is not ready in time is killed, and the old one serves on. The socket between them shows each the end
//! of the other. A new daemon that has not taken over yet ends with the old one.
//!
//! `protocol.rs` has the messages, `link.rs` passes them, `successor.rs` is the old daemon's side, `predecessor.rs` the new
//! one's, and `recovery.rs` removes what a killed one of both has left.

mod link;
mod predecessor;
mod protocol;
mod recovery;
mod successor;
mod trigger;

pub use predecessor::{CallbackForwarder, Inheritance, Predecessor, minimum_is_ready};
pub use recovery::{Lives, Recovery};
pub use successor::{Attempt, Candidate, Successor, attempt, own_program};
pub use trigger::{UpgradeError, UpgradeRequest, UpgradeTrigger};
