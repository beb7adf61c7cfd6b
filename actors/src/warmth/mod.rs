//! Which idle instances are worth the memory that they hold. Pure: facts and a clock in, decisions out.
//!
//! An idle instance can take steps down: a running one can be paused, and each can be ended. `eviction.rs` decides which steps
//! release missing memory at the least cost. `rate.rs` estimates how often instances are wanted. `prewarming.rs` decides when an
//! instance is started ahead of the next request, from the `idle_times.rs` of its function.
//! `admission/simulation/` compares policies over hours.

mod eviction;
mod idle_times;
mod prewarming;
mod rate;

pub use eviction::Rung;
pub(crate) use eviction::{GreedyDual, Step};
pub(crate) use prewarming::{Prewarming, Window};
pub(crate) use rate::{EventRate, Use};
