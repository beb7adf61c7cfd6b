//! What of the unikernel is independent of the machine: reading the command line and HTTP. Tested on the host, by
//! `cargo test`. `main.rs` is the unikernel.

#![cfg_attr(not(test), no_std)]

pub mod cmdline;
pub mod http;
pub mod text;
