//! Functions in virtual machines. One program, so that Linux guests of all tests take turns, and short tests run beside long
//! ones. Each test has its own network namespace.

mod abuse;
mod bench;
mod check;
mod clone_taps;
mod disk;
mod isolation;
mod lifecycle;
mod limits;
mod published;
mod reach;
mod restore_times;
mod shipped;
mod snapshot_kills;
mod snapshots;
