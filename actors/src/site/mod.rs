//! Asynchronous invocations that the nodes of a site share: any of them may run what any other has accepted.
//!
//! The node that accepts an invocation has it on its own disk first, in the inbox. Then it hands the invocation over to the
//! site: a record that all nodes see and that changes by revisions, and a message that one node at a time works on.
//!
//! | file | content |
//! | --- | --- |
//! | `call.rs` | what the site records of an invocation, and what follows from a delivery and from an attempt |
//! | `store.rs` | what the site's server does: records with revisions, keys, and a queue |
//! | `queue.rs` | offering, pulling, settling and releasing, whatever is lost in between |
//! | `receivers.rs` | which results a node sends now |
//! | `memory.rs` | the model of a server |
//!
//! Invariants: a record exists before its message does. Each change names the revision that it follows, so a node that was
//! given up changes nothing. A message is acknowledged only after the end is recorded.

mod call;
#[cfg(test)]
mod memory;
mod queue;
mod receivers;
#[cfg(test)]
mod simulation;
mod store;

pub use call::{Call, Step};
pub use queue::{Begin, Offer, OfferError, Offered, SiteQueue, Work};
pub use receivers::Receivers;
pub use store::{Delivered, KeyReservation, RESULTS, Revision, SiteError, SiteStore};
