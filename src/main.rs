//! The `unifaas` program. All of it is in the library beside, which fuzzers can link.

use std::process::ExitCode;

fn main() -> ExitCode {
    unifaas::main()
}
