//! The daemon and what runs.

use std::fmt::Write as _;

use proto_core::api::views::{DoctorCheck, InstancesView, NamespaceView, StatusView};
use proto_core::runtime::{InstanceState, ObservedInstance, exit_in_words};

use super::ago;
use crate::out::table;

/// `status`.
pub(crate) fn status(view: &StatusView) -> String {
    let mut out = format!("cluster {} ({})\n", view.cluster, view.cluster_id);
    _ = writeln!(
        out,
        "machine {}, runtime {}, ployzd {} (pid {}, up {})",
        view.machine,
        view.runtime,
        view.version,
        view.pid,
        ago(view.uptime_ms)
    );
    let detail = view.store.detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let reachable = if view.store.reachable { "answers" } else { "DOES NOT ANSWER" };
    _ = writeln!(out, "store {reachable}{detail}");
    let rows = view.components.iter().map(|component| {
        let state = &component.state;
        [
            component.name.clone(),
            if component.stale { format!("{state}, stale") } else { state.clone() },
            component.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            component.applied.map(|at| at.to_string()).unwrap_or_default(),
            component.detail.clone().unwrap_or_default(),
        ]
    });
    _ = write!(
        out,
        "\n{}",
        table(["COMPONENT", "STATE", "PID", "SERVES", "DETAIL"], rows.collect())
    );
    if view.store.reachable {
        _ = write!(out, "\n{}", namespaces(&view.namespaces));
    } else {
        out += "\nnamespaces: not known while the store does not answer\n";
    }
    out
}

/// `namespace ls`.
pub(crate) fn namespaces(views: &[NamespaceView]) -> String {
    if views.is_empty() {
        return "no namespaces\n".to_owned();
    }
    let rows = views.iter().map(|view| {
        [
            view.namespace.to_string(),
            view.commit.to_string(),
            view.services.to_string(),
            // What is not known is not 0.
            view.running.map_or_else(
                || format!("?/{}", view.instances),
                |running| format!("{running}/{}", view.instances),
            ),
        ]
    });
    table(["NAMESPACE", "COMMIT", "SERVICES", "RUNNING"], rows.collect())
}

/// `ps`: what was seen, and who did not answer.
pub(crate) fn instances(view: &InstancesView) -> String {
    let mut rows: Vec<_> = view.rows.iter().collect();
    rows.sort_by_key(|row| {
        let spec = &row.instance.spec;
        (&spec.namespace, &spec.service, spec.slot, !row.committed, &spec.name)
    });
    let cells = rows.iter().map(|row| {
        let (seen, spec) = (&row.instance, &row.instance.spec);
        let ports: Vec<_> =
            spec.ports.iter().map(|(name, port)| format!("{name}={port}")).collect();
        [
            format!("{}/{}/{}", spec.namespace, spec.service, spec.slot),
            spec.name.to_string(),
            row.machine.to_string(),
            if row.committed { state(seen) } else { format!("{}, not committed", state(seen)) },
            seen.restarts.to_string(),
            format!("{} {}", spec.address, ports.join(" ")),
            spec.workload.image.clone(),
        ]
    });
    let mut out = if rows.is_empty() {
        "no instances\n".to_owned()
    } else {
        let header = ["SLOT", "INSTANCE", "MACHINE", "STATE", "RESTARTS", "ADDRESS", "IMAGE"];
        table(header, cells.collect())
    };
    for silent in &view.silent {
        _ = writeln!(
            out,
            "silent: {}: {}; what runs there is unknown",
            silent.machine, silent.reason
        );
    }
    out
}

/// An instance's state in a few words.
pub(crate) fn state(seen: &ObservedInstance) -> String {
    match seen.state {
        InstanceState::Created => "created".to_owned(),
        InstanceState::Running => "running".to_owned(),
        InstanceState::Restarting => match seen.last_exit {
            Some(code) => format!("restarting, exited {}", exit_in_words(code)),
            None => "restarting".to_owned(),
        },
        InstanceState::Exited { code } => format!("exited {}", exit_in_words(code)),
    }
}

/// `doctor`.
pub(crate) fn doctor(checks: &[DoctorCheck]) -> String {
    let mut out = String::new();
    for DoctorCheck { check, ok, detail, next } in checks {
        let mark = if *ok { "ok   " } else { "WRONG" };
        _ = writeln!(out, "{mark}  {check}: {detail}");
        if let Some(next) = next.as_ref().filter(|_| !ok) {
            _ = writeln!(out, "       {}", crate::next::line(next));
        }
    }
    out
}
