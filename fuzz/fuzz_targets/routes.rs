//! Hands what libFuzzer makes up to [`fuzz::routes`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::routes::run(data));
