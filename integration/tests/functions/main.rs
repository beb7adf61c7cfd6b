//! What callers of functions and their authors see: starts, waiting, limits, pauses, failures, asynchronous and triggered work.
//! One program, so that short tests run beside long ones.

mod abuse;
mod admission;
mod backoff;
mod boot;
mod callback;
mod check;
mod cluster;
mod inbox;
mod lifecycle;
mod memory;
mod messages;
mod output;
mod pause;
mod queue;
mod reach;
mod registry;
mod secrets;
mod triggers;
