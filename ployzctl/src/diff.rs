//! `diff`: a manifest against the head commit, and the head commit against what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proto_core::api::views::{CommitView, InstancesView};
use proto_core::deploy::manifest;
use proto_core::deploy::spec::Manifest;
use proto_core::id::{InstanceName, MachineId, Namespace, ServiceName};
use proto_core::runtime::InstanceState;
use serde::Serialize;

use crate::args::ManifestArg;
use crate::client::Client;
use crate::deploy::{commit, read_manifest};
use crate::failure::{Failure, OK};
use crate::out::Out;
use crate::render::status::state;

/// What `diff` shows.
#[derive(Debug, Serialize)]
struct Diff {
    namespace: Namespace,
    /// The head commit; none: the namespace does not exist.
    head: Option<u64>,
    /// The services that differ.
    services: Vec<ServiceDiff>,
    /// The instances of the head commit that do not run.
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct ServiceDiff {
    service: ServiceName,
    /// Lines of the head that the manifest does not have.
    head: Vec<String>,
    /// Lines of the manifest that the head does not have.
    manifest: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Missing {
    service: ServiceName,
    slot: u32,
    instance: InstanceName,
    machine: MachineId,
    /// How it is instead.
    state: String,
}

/// `diff`. What differs is no error: exit 0.
pub(crate) async fn diff(client: &Client, out: Out, file: &ManifestArg) -> Result<u8, Failure> {
    let manifest = read_manifest(out, file)?;
    let head = match commit(client, &manifest.namespace, None).await {
        Ok(head) => Some(head),
        Err(Failure::Error { error, .. }) if error.code == "NO_SUCH_NAMESPACE" => None,
        Err(other) => return Err(other),
    };
    let missing = match &head {
        Some(head) => {
            let path = format!("/v1/instances?namespace={}", manifest.namespace);
            missing(head, &client.get(&path).await?)
        }
        None => Vec::new(),
    };
    let diff = Diff {
        services: services(head.as_ref(), &manifest),
        head: head.map(|head| head.commit.number),
        namespace: manifest.namespace,
        missing,
    };
    out.document(&diff, text)?;
    Ok(OK)
}

fn services(head: Option<&CommitView>, wanted: &Manifest) -> Vec<ServiceDiff> {
    let nothing = BTreeMap::new();
    let there = head.map_or(&nothing, |head| &head.manifest.services);
    let names: BTreeSet<_> = there.keys().chain(wanted.services.keys()).collect();
    let differing = names.into_iter().filter_map(|name| {
        let lines = |services: &BTreeMap<_, _>| {
            let spec = services.get(name).cloned();
            let services = spec.map(|spec| (name.clone(), spec)).into_iter().collect();
            let alone = Manifest { namespace: wanted.namespace.clone(), services };
            let text = manifest::render(&alone);
            // The first line is the namespace; a service's block begins with an empty line and its header.
            text.lines().skip(3).map(str::to_owned).collect::<Vec<_>>()
        };
        let (mut old, new) = (lines(there), lines(&wanted.services));
        let stopped = head.and_then(|head| head.commit.services.get(name)?.stopped.then_some(()));
        if stopped.is_some() {
            old.push("# stopped: it has no instances".to_owned());
        }
        let only = |these: &[String], those: &[String]| -> Vec<_> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        let (head, manifest) = (only(&old, &new), only(&new, &old));
        let differs = !head.is_empty() || !manifest.is_empty();
        differs.then(|| ServiceDiff { service: name.clone(), head, manifest })
    });
    differing.collect()
}

fn missing(head: &CommitView, seen: &InstancesView) -> Vec<Missing> {
    let slots = head.commit.services.iter().flat_map(|(service, committed)| {
        committed.slots.iter().map(move |(slot, instance)| (service, slot, instance))
    });
    let missing = slots.filter_map(|(service, slot, wanted)| {
        let row = seen
            .rows
            .iter()
            .find(|row| row.machine == wanted.machine && row.instance.spec.name == wanted.instance);
        let state = match row {
            Some(row) if row.instance.state == InstanceState::Running => return None,
            Some(row) => state(&row.instance),
            None if seen.answered.contains(&wanted.machine) => "not there".to_owned(),
            None => "unknown: its machine does not answer".to_owned(),
        };
        let (instance, machine) = (wanted.instance.clone(), wanted.machine.clone());
        Some(Missing { service: service.clone(), slot: *slot, instance, machine, state })
    });
    missing.collect()
}

fn text(diff: &Diff) -> String {
    let Diff { namespace, head, services, missing } = diff;
    let mut out = String::new();
    if services.is_empty() {
        out += &match head {
            Some(head) => format!("the manifest is what commit {head} of {namespace} asks for\n"),
            None => {
                format!("there is no namespace {namespace}, and the manifest has no services\n")
            }
        };
    } else {
        let head = head.map_or_else(|| "nothing".to_owned(), |head| format!("commit {head}"));
        _ = writeln!(out, "--- {namespace}: {head}\n+++ {namespace}: the manifest");
    }
    for ServiceDiff { service, head, manifest } in services {
        _ = writeln!(out, "@@ {service} @@");
        for (sign, lines) in [('-', head), ('+', manifest)] {
            for line in lines {
                _ = writeln!(out, "{sign}{line}");
            }
        }
    }
    for Missing { service, slot, instance, machine, state } in missing {
        _ = writeln!(
            out,
            "{namespace}/{service}/{slot} ({instance} on {machine}) does not run: {state}"
        );
    }
    out
}
