//! `unifaas bench`: what the crate `unifaas-bench` does not know of this program.

use std::process::ExitCode;

use unifaas_bench::{BenchArgs, Host};

use super::error::CommandError;
use crate::{sandbox, state, upgrade};

/// Runs the benchmark.
pub fn run(arguments: &BenchArgs) -> ExitCode {
    let program = match upgrade::own_program() {
        Ok(program) => program,
        Err(error) => return CommandError::No(error.to_string()).report(),
    };
    let build = if cfg!(debug_assertions) { " (debug build, many times slower)" } else { "" };
    let version = format!("{}{build}", env!("CARGO_PKG_VERSION"));
    let has_kvm = || sandbox::probe_kvm().is_ok();
    unifaas_bench::run(arguments, &Host { program, version, state: state::default_directory(), has_kvm })
}
