//! Where the time of a start goes: the clock that engines and actors mark, and the record of it.
//!
//! `clock.rs` is the clock, `record.rs` the record, `origin.rs` says what was started from. `history/boots.rs` keeps records.

mod clock;
mod origin;
mod record;

pub use clock::{BootClock, BootSpan, Phase};
pub use origin::Origin;
pub use record::{BootRecord, BootReport, EvictedInstance, GuestMark, Phases, StartCause};
