//! A plan, in full: what `preview` prints is what `apply` does.

use std::fmt::Write as _;

use proto_core::coordination::plan::{Plan, PlannedCommit, Step};
use proto_core::digest::Digest;
use proto_core::store::facts::CommittedService;

use super::count;

/// The whole plan.
pub(crate) fn plan(plan: &Plan, digest: &Digest) -> String {
    let mut out = format!("plan of operation {} on {}\n", plan.operation, plan.scope);
    for note in &plan.notes {
        _ = writeln!(out, "note: {note}");
    }
    section(&mut out, "before the commit, undone if it fails", &plan.steps);
    commit(&mut out, &plan.commit);
    section(&mut out, "after the commit", &plan.cleanup);
    _ = writeln!(out, "digest {digest}");
    out
}

fn section(out: &mut String, title: &str, steps: &[Step]) {
    if steps.is_empty() {
        _ = writeln!(out, "{title}: nothing");
        return;
    }
    _ = writeln!(out, "{title}: {}", count(steps.len(), "step"));
    let width = |of: fn(&Step) -> usize| steps.iter().map(of).max().unwrap_or(0);
    let ids = width(|step| step.id.as_str().len());
    let machines = width(|step| step.machine.as_str().len());
    for step in steps {
        _ = write!(
            out,
            "  {:ids$}  {:machines$}  {}",
            step.id.as_str(),
            step.machine.as_str(),
            step.action
        );
        if !step.after.is_empty() {
            let after: Vec<_> = step.after.iter().map(|id| id.as_str()).collect();
            _ = write!(out, "  (after {})", after.join(", "));
        }
        out.push('\n');
    }
}

fn commit(out: &mut String, planned: &PlannedCommit) {
    let commit = &planned.commit;
    if planned.removes_namespace {
        _ = writeln!(
            out,
            "commit {}: the namespace {} is removed",
            commit.number, commit.namespace
        );
    } else {
        let services = count(commit.services.len(), "service");
        _ = writeln!(out, "commit {} of {}: {services}", commit.number, commit.namespace);
    }
    for (name, service) in &commit.services {
        out.push_str(&committed_service(name.as_str(), service));
    }
    for key in planned.claims.keys() {
        _ = writeln!(out, "  takes {key}");
    }
    for key in &planned.releases {
        _ = writeln!(out, "  gives up {key}");
    }
}

/// A service of a commit: a line for itself, one for each slot and each route.
pub(crate) fn committed_service(name: &str, service: &CommittedService) -> String {
    let mut out = format!("  {name}: {}", count(service.slots.len(), "instance"));
    if service.stopped {
        out += ", stopped";
    }
    _ = writeln!(out, ", revision {}", service.revision.short());
    for (slot, instance) in &service.slots {
        let ports: Vec<_> =
            instance.ports.iter().map(|(name, port)| format!("{name}={port}")).collect();
        _ = write!(
            out,
            "    /{slot}  {}  {} at {}",
            instance.machine, instance.instance, instance.address
        );
        if !ports.is_empty() {
            _ = write!(out, " {}", ports.join(" "));
        }
        out.push('\n');
    }
    for route in &service.routes {
        let hosts: Vec<_> = route.hostnames.iter().map(ToString::to_string).collect();
        _ = writeln!(
            out,
            "    route {}{} to port {}",
            hosts.join(","),
            route.path_prefix,
            route.port
        );
    }
    out
}
