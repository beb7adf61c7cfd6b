//! What shows a running daemon: pages, lists of boots and errors, logs, metrics, traces. One program, so that short tests run
//! beside long ones.

mod access_log;
mod actions;
mod admin;
mod dashboard;
mod debug;
mod live;
mod log;
mod metrics;
mod records;
mod traces;
