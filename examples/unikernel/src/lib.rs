//! What of the unikernel is independent of the machine: what it answers, the command line, HTTP. Tested on the host, by
//! `cargo test`. `main.rs` is the unikernel.

#![cfg_attr(not(test), no_std)]

pub mod cmdline;
pub mod function;
pub mod http;
pub mod text;
