//! A manifest in either syntax: problems or a manifest, and what is rendered reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_core::deploy::manifest::{Format, parse, render};

fuzz_target!(|text: &str| {
    for format in [Format::Toml, Format::Json] {
        if let Ok(manifest) = parse(text, format, "fuzz") {
            let again = parse(&render(&manifest), Format::Toml, "rendered");
            assert_eq!(again.as_ref(), Ok(&manifest));
        }
    }
});
