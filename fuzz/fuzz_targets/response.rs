#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unifaas::fuzz::response(data));
