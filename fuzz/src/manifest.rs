//! A manifest in either syntax: problems or a manifest, and what is rendered reads back as the same.

use proto_core::deploy::manifest::{Format, parse, render};
use proto_core::digest::Digest;

/// Reads the text in both syntaxes.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [Format::Toml, Format::Json] {
        match parse(text, format, "fuzz") {
            Ok(manifest) => {
                let rendered = render(&manifest);
                let again = parse(&rendered, Format::Toml, "rendered").expect("our own rendering");
                assert_eq!(again, manifest);
                assert_eq!(render(&again), rendered);
                let stored = serde_json::to_string(&manifest).expect("manifests are plain JSON");
                let value: serde_json::Value = serde_json::from_str(&stored).expect("just written");
                assert_eq!(Digest::of(&value), manifest.digest());
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "refused, and nobody says why");
                let lines = u32::try_from(text.split('\n').count()).unwrap_or(u32::MAX);
                for problem in &problems {
                    assert!((1..=lines).contains(&problem.line) && problem.column >= 1);
                }
            }
        }
    }
}
