//! Hands what libFuzzer makes up to [`fuzz::facts`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::facts::run(data));
