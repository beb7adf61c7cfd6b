//! The benchmark function as a program of its own, for containers and guests: `bench-function [CALLBACK_URL]`.
//! `bench-function files DIRECTORY` writes the files that `/read` and `/unzip` need. Everything is in `lib.rs`.

use std::{env, io::Write, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (first, second) = (arguments.next(), arguments.next());
    let outcome = match (first, second) {
        (Some(word), Some(directory)) if word == "files" => bench_function::write_files(Path::new(&directory)),
        (callback, _) => bench_function::run(callback.map(|url| url.to_string_lossy().into_owned())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-function: {error}");
            ExitCode::FAILURE
        }
    }
}
