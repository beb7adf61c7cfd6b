//! Fuzz target: the parser of `function.toml`.

#![no_main]

#[path = "../checks/function_toml.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::check(data));
