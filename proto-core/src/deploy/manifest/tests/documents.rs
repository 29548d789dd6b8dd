//! The schema, the manual and the examples say what the reader does.
//!
//! The files are compiled in: this crate reads none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::keys::TABLES;
use super::super::*;

const SCHEMA: &str = include_str!("../../../../../docs/schema/manifest.schema.json");
const MANUAL: &str = include_str!("../../../../../docs/manifest.md");
const EXAMPLES: &[(&str, &str)] = &[
    (
        "docs/examples/hello/ployz.toml",
        include_str!("../../../../../docs/examples/hello/ployz.toml"),
    ),
    (
        "docs/examples/hello/ployz.process.toml",
        include_str!("../../../../../docs/examples/hello/ployz.process.toml"),
    ),
    ("docs/examples/everything.toml", include_str!("../../../../../docs/examples/everything.toml")),
];

/// The keys of each closed object of a schema, by its path as in [`TABLES`].
fn walk(root: &Value, node: &Value, path: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    if let Some(reference) = node["$ref"].as_str() {
        let target =
            root.pointer(reference.trim_start_matches('#')).expect("a reference leads somewhere");
        return walk(root, target, path, found);
    }
    if let Some(properties) = node["properties"].as_object() {
        assert_eq!(node["additionalProperties"], false, "{path} refuses unknown keys");
        found.insert(path.to_owned(), properties.keys().cloned().collect());
        for (key, value) in properties {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(root, value, &path, found);
        }
    }
    for choice in node["oneOf"].as_array().into_iter().flatten() {
        walk(root, choice, path, found);
    }
    if node["items"].is_object() {
        walk(root, &node["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn the_schema_has_the_keys_of_the_reader_and_no_others() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut found = BTreeMap::new();
    walk(&schema, &schema, "", &mut found);
    let own: BTreeMap<String, BTreeSet<String>> = TABLES
        .iter()
        .map(|table| (table.path.to_owned(), table.keys.iter().map(ToString::to_string).collect()))
        .collect();
    assert_eq!(found, own);
}

#[test]
fn every_key_is_read_and_no_other() {
    // A table with all its keys at once has no unknown key; with one more it has exactly that one.
    for table in TABLES {
        let fields: Vec<String> = table.keys.iter().map(|key| format!("{key:?}: null")).collect();
        for (extra, wanted) in [("", 0), (", \"frobnicate\": 1", 1)] {
            let mut text = format!("{{{}{extra}}}", fields.join(", "));
            for part in table.path.rsplit('.').filter(|part| !part.is_empty()) {
                text = match part.strip_suffix("[]") {
                    Some(key) => format!("{{{key:?}: [{text}]}}"),
                    None => format!("{{{part:?}: {text}}}"),
                };
            }
            let problems = parse(&text, Format::Json, "x").unwrap_err();
            let unknown = problems.iter().filter(|p| p.code == Code::UnknownKey).count();
            assert_eq!(unknown, wanted, "{text}");
        }
    }
}

#[test]
fn every_key_that_the_reader_takes_is_used_in_an_example_and_explained_in_the_manual() {
    let everything = EXAMPLES.iter().map(|(_, text)| *text).collect::<String>();
    for table in TABLES {
        for key in table.keys {
            assert!(
                MANUAL.contains(&format!("`{key}`")),
                "docs/manifest.md does not explain {key} of {}",
                table.path
            );
            assert!(everything.contains(key), "no example uses {key} of {}", table.path);
        }
        for (key, _) in table.later {
            assert!(
                MANUAL.contains(&format!("`{key}`")),
                "docs/manifest.md does not say that {key} is refused"
            );
        }
    }
}

#[test]
fn every_code_is_in_the_manual() {
    for code in Code::ALL {
        assert!(MANUAL.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn the_examples_are_accepted_and_rendered_without_loss() {
    for (file, text) in EXAMPLES {
        let manifest = parse(text, Format::Toml, file).unwrap_or_else(|p| panic!("{file}: {p:#?}"));
        assert_eq!(parse(&render(&manifest), Format::Toml, file).as_ref(), Ok(&manifest));
    }
}

#[test]
fn the_manual_s_own_snippets_are_accepted() {
    let snippets: Vec<&str> =
        MANUAL.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(snippets.len() >= 2);
    for snippet in snippets {
        assert!(
            parse(snippet, Format::Toml, "manual").is_ok(),
            "{snippet}\n{:#?}",
            parse(snippet, Format::Toml, "manual")
        );
    }
}
