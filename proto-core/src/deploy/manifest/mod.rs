//! Manifests: the text in which an operator says what a namespace shall be, in TOML or JSON.
//!
//! ```text
//! text ──toml.rs──┐                          ┌── validate (conflicts, on specs alone)
//!                 ├─▶ tree ──service.rs──▶ Manifest ──▶ normalised: sorted where order means nothing
//! text ──json.rs──┘   (with places)
//! ```
//!
//! Two front ends make one tree, one reader knows the keys ([`keys`](self) is the list), so the two syntaxes cannot differ.
//! All problems are found in one go, each with its place. Every default is filled in here, and nowhere else.
//! The same text gives the same [`Manifest`] and digest on every machine.

mod json;
mod keys;
mod problem;
mod read;
mod render;
mod service;
#[cfg(test)]
mod tests;
mod toml;
mod tree;
mod values;

pub use problem::{Code, ManifestProblem};
pub(super) use read::join;
pub use render::{document, render};

use std::collections::BTreeMap;

use read::{Reader, View};
use tree::{Lines, Node};

use super::spec::{Manifest, ServiceSpec};
use super::validate::validate;
use crate::id::{Namespace, ServiceName};

/// The largest manifest that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most problems that are reported of one text.
const MAX_PROBLEMS: usize = 100;

/// The syntax of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.1.
    Toml,
    /// JSON, RFC 8259.
    Json,
}

impl Format {
    /// JSON if the file's name ends in `.json`, or if the text starts with `{`, as no TOML does; TOML otherwise.
    #[must_use]
    pub fn guess(file: &str, text: &str) -> Self {
        if file.ends_with(".json") || text.trim_start().starts_with('{') {
            Self::Json
        } else {
            Self::Toml
        }
    }
}

/// Reads and validates a manifest. `file` is only repeated in problems.
///
/// # Errors
///
/// All problems in the order of their places; of a text that is no TOML or JSON, the first error of its syntax.
pub fn parse(text: &str, format: Format, file: &str) -> Result<Manifest, Vec<ManifestProblem>> {
    let mut reader = Reader::default();
    let manifest = match tree(&mut reader, text, format) {
        Some(root) => read_manifest(&mut reader, &root),
        None => None,
    };
    let mut found = reader.found;
    match manifest {
        Some(manifest) if found.is_empty() => return Ok(manifest),
        _ => assert!(!found.is_empty(), "a manifest that is not read has a problem"),
    }
    found.sort_by(|a, b| (a.at, a.code, &a.path).cmp(&(b.at, b.code, &b.path)));
    let more = found.len().saturating_sub(MAX_PROBLEMS);
    found.truncate(MAX_PROBLEMS);
    if let Some(last) = found.last_mut().filter(|_| more > 0) {
        last.message += &format!("; and {more} more problems after this one");
    }
    let lines = Lines::new(text);
    Err(found
        .into_iter()
        .map(|found| {
            let (line, column) = lines.position(found.at);
            ManifestProblem {
                code: found.code,
                message: found.message,
                file: file.to_owned(),
                line,
                column,
                path: found.path,
                hint: found.hint,
            }
        })
        .collect())
}

fn tree(reader: &mut Reader, text: &str, format: Format) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let message = format!("more than the {MAX_BYTES} bytes that are read");
        reader.report(0, Code::TooLarge, "", message, None);
        return None;
    }
    let parsed = match format {
        Format::Toml => toml::parse(text),
        Format::Json => json::parse(text),
    };
    parsed
        .map_err(|error| {
            let code = if error.duplicate { Code::DuplicateKey } else { Code::ManifestSyntax };
            reader.report(error.at, code, "", error.message.replace('\n', ", "), None);
        })
        .ok()
}

fn read_manifest(reader: &mut Reader, root: &Node) -> Option<Manifest> {
    let view = View { node: root, path: String::new() };
    let table = reader.table(&view, &keys::TOP)?;
    let namespace = match table.get("namespace") {
        Some(view) => reader.parsed::<Namespace>(&view, Code::InvalidName),
        None => {
            reader.missing(&table, "namespace", "write `namespace = \"blog\"`");
            None
        }
    };
    let mut services: BTreeMap<ServiceName, ServiceSpec> = BTreeMap::new();
    let mut indices: BTreeMap<ServiceName, usize> = BTreeMap::new();
    match table.get("services") {
        Some(view) => {
            let items = reader.array(
                &view,
                super::validate::MAX_SERVICES,
                "write `[[services]]` for each service",
            );
            for (index, item) in items.iter().enumerate() {
                let before = reader.found.len();
                let Some((Some(name), spec)) = service::read(reader, item) else { continue };
                // A service that is wrong in itself is left out of the search for conflicts, which would find more wrong
                // that isn't; unknown keys are no reason for that.
                let whole = reader.found[before..]
                    .iter()
                    .all(|f| matches!(f.code, Code::UnknownKey | Code::Unsupported));
                if let Some(first) = indices.insert(name.clone(), index) {
                    let at = item.node.locate("name");
                    let message = format!("services[{first}] has the name {name} already");
                    reader.report(
                        at,
                        Code::DuplicateName,
                        &format!("{}.name", item.path),
                        message,
                        None,
                    );
                } else if whole {
                    services.insert(name, spec);
                }
            }
        }
        None => {
            let hint = "write `[[services]]` for each service, or `services = []` to remove all";
            reader.missing(&table, "services", hint);
        }
    }
    // Names are wanted by the conflicts only; any will do if this one is wrong.
    let namespace = namespace.or_else(|| Namespace::new("x").ok())?;
    let mut manifest = Manifest { namespace, services };
    for violation in validate(&manifest) {
        let path = match violation.service.as_ref().and_then(|name| indices.get(name)) {
            Some(index) if violation.field.is_empty() => format!("services[{index}]"),
            Some(index) => format!("services[{index}].{}", violation.field),
            None => violation.field,
        };
        reader.report(root.locate(&path), violation.code, &path, violation.message, violation.hint);
    }
    manifest.services.values_mut().for_each(normalise);
    Some(manifest)
}

/// Brings into one order what has none, so that texts that ask for the same have the same digest.
fn normalise(spec: &mut ServiceSpec) {
    spec.placement.constraints.sort();
    spec.placement.constraints.dedup();
    spec.routes.iter_mut().for_each(|route| route.hostnames.sort());
    spec.routes.sort();
}
