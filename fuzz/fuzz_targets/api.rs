//! Hands what libFuzzer makes up to [`fuzz::api`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::api::run(data));
