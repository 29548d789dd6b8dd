//! Hands what libFuzzer makes up to [`fuzz::prepared`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::prepared::run(data));
