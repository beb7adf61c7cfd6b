#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unifaas::fuzz::function_toml(data));
