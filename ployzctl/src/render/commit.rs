//! Commits and manifests.

use std::fmt::Write as _;

use proto_core::api::views::CommitView;
use proto_core::store::facts::Commit;

use super::plan::committed_service;
use crate::out::table;

/// `deploy history`, newest first.
pub(crate) fn history(commits: &[Commit]) -> String {
    let rows = commits.iter().map(|commit| {
        let instances: usize = commit.services.values().map(|service| service.slots.len()).sum();
        [
            commit.number.to_string(),
            commit.at.to_string(),
            commit.operation.to_string(),
            commit.services.len().to_string(),
            instances.to_string(),
            commit.summary.clone(),
        ]
    });
    table(["COMMIT", "AT", "OPERATION", "SERVICES", "INSTANCES", "WHAT"], rows.collect())
}

/// `deploy show`: the commit, then the manifest that would ask for it.
pub(crate) fn show(view: &CommitView) -> String {
    let mut out = head(view);
    _ = write!(out, "\n{}", proto_core::deploy::manifest::render(&view.manifest));
    out
}

/// The commit without its manifest.
pub(crate) fn head(view: &CommitView) -> String {
    let commit = &view.commit;
    let head = if view.head { " (head)" } else { "" };
    let mut out =
        format!("commit {} of {}{head}: {}\n", commit.number, commit.namespace, commit.summary);
    _ = writeln!(out, "at {} by operation {}", commit.at, commit.operation);
    for (name, service) in &commit.services {
        out += &committed_service(name.as_str(), service);
    }
    out
}
