//! The behaviour of the actors by example: requests, boots, exits, changes of the registry, the drain.
//!
//! Everything runs on one thread in virtual time, with a scripted sandbox (`support/fake/`) instead of real ones.
//! `simulation/` combines all of it at random.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests may fail, and show their seeds"
)]

mod actions;
mod admission;
mod backoff;
mod boots;
mod callbacks;
mod changes;
mod cloning;
mod cluster;
mod draining;
mod ends;
mod external_pauses;
mod keeping;
mod panics;
mod pausing;
mod prewarming;
mod requests;
mod simulation;
mod starts;
mod support;
mod waiting;
