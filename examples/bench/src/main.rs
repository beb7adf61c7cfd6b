//! The benchmark function as a program of its own, for containers and guests: `bench-function [CALLBACK_URL]`.
//! `bench-function files DIRECTORY` writes the files that `/read` and `/unzip` need. Everything is in `lib.rs`.

use std::{env, io::Write, process::ExitCode};

fn main() -> ExitCode {
    match bench_function::main(env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-function: {error}");
            ExitCode::FAILURE
        }
    }
}
