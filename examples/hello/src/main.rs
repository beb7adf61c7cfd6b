//! The hello function as a program of its own, for containers and for trying it by hand: `hello [CALLBACK_URL]`.
//! Everything it does is in `lib.rs`.

use std::{env, io::Write, process::ExitCode};

fn main() -> ExitCode {
    let callback = env::args_os().nth(1).map(|url| url.to_string_lossy().into_owned());
    match hello::run(callback) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hello: {error}");
            ExitCode::FAILURE
        }
    }
}
