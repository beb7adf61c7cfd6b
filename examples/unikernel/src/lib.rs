//! The part of the unikernel that is independent of the machine: the function, the command line, HTTP. `cargo test` tests
//! it on the host. `main.rs` is the unikernel.

#![cfg_attr(not(test), no_std)]

pub mod cmdline;
pub mod function;
pub mod http;
pub mod text;
pub mod work;
