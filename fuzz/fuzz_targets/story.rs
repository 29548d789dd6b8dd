//! Hands what libFuzzer makes up to [`fuzz::story`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::story::run(data));
