//! Asynchronous invocations: accepted durably, tried again, ended for a true reason, and never lost.

mod accept;
mod deliver;
mod durable;
mod faults;
mod figures;
mod operate;
mod retry;
mod see;
