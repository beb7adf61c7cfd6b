//! The stand-in for Firecracker against 1.17: the same inputs are refused, with the same status and form of message, and the
//! same ones run. Where `FIRECRACKER_EXE` is a Firecracker 1.17, it has to pass as well.
//!
//! `host.rs` runs one input; the other files have the inputs by their part of the command line and configuration file.

/// Wraps the words of a wrong file.
macro_rules! parsing {
    ($words:literal) => {
        Exits(1, concat!("Error: RunWithoutApiError(BuildMicroVMFromJson(ParseFromJson(", $words))
    };
}

/// Wraps the words of a machine that cannot be started.
macro_rules! starting {
    ($words:literal) => {
        Exits(1, concat!("Error: RunWithoutApiError(BuildMicroVMFromJson(StartMicroVM(", $words))
    };
}

mod api;
mod arguments;
mod boot;
mod devices;
mod host;
mod machine;
