//! Hands what libFuzzer makes up to [`fuzz::dns`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dns::run(data));
