use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use proto_core::Outcome;
use proto_core::api::requests::InstancesQuery;
use proto_core::api::views::{
    CommitView, DoctorCheck, InstanceRow, InstancesView, LeaseView, NamespaceView, SilentMachine,
    StatusView, StoreView,
};
use proto_core::coordination::Phase;
use proto_core::coordination::command::{Command, CommandBody, CommandReply, MachineObservation};
use proto_core::coordination::record::OperationRecord;
use proto_core::deploy::plan::{MIN_DISK_FREE, no_namespace};
use proto_core::deploy::spec::Manifest;
use proto_core::digest::Digest;
use proto_core::id::{MachineId, Namespace, OperationId};
use proto_core::span::Span;
use proto_core::store::facts::{Commit, Head, Lease};
use proto_core::store::{Entry, Facts, Key};
use proto_core::time::Time;
use serde::Deserialize;

use super::asked::{Path, Query};
use super::running::Running;
use super::{Answer, Api, Failure, namespace};

/// How long machines may take to say what runs: a listing ends then and says who was silent.
pub(super) const LIST_WITHIN: Span = Span::from_secs(1);
/// How long store, gateway and DNS may take to say how they are: a status is answered at once, with what is known.
const STATUS_WITHIN: Duration = Duration::from_millis(500);
/// The same for machines.
const STATUS_SPAN: Span = Span::from_millis(500);

/// `GET /v1/leases`. Not those of operations that are over: a store that lost its power may show them again.
pub(super) async fn leases(State(api): State<Arc<Api>>) -> Answer<Vec<LeaseView>> {
    let (leases, records): (Vec<_>, Vec<_>) = api
        .read(vec![Key::leases(), Key::operations()])
        .await?
        .into_iter()
        .partition(|entry| entry.key.is_under(&Key::leases()));
    let open: BTreeSet<_> = records
        .into_iter()
        .filter_map(|entry| OperationRecord::deserialize(&*entry.value).ok())
        .filter(|record| !record.phase.is_final())
        .map(|record| record.id)
        .collect();
    let views = leases.into_iter().filter_map(|entry| {
        let lease: Lease = Lease::deserialize(&*entry.value).ok()?;
        let held = !lease.released && open.contains(&lease.operation);
        held.then_some(LeaseView { key: entry.key, lease })
    });
    Ok(Json(views.collect()))
}

/// `GET /v1/status`. Answers also while the store is away or hangs, and says so.
pub(super) async fn status(State(api): State<Arc<Api>>) -> Answer<StatusView> {
    let read = api.read_within(vec![Key::namespaces()], STATUS_WITHIN);
    let (read, components) = tokio::join!(read, api.ports.components(STATUS_WITHIN));
    let (store, namespaces) = match read {
        Ok(entries) => (StoreView { reachable: true, detail: None }, by_namespace(&entries)),
        Err(Failure(_, error)) => {
            (StoreView { reachable: false, detail: Some(error.message) }, BTreeMap::new())
        }
    };
    let about = &api.about;
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: about.cluster.clone(),
        cluster_id: about.cluster_id.clone(),
        machine: about.machine.clone(),
        runtime: about.runtime.clone(),
        pid: std::process::id(),
        uptime_ms: api.clock.now().since(Time::ZERO).as_millis().try_into().unwrap_or(u64::MAX),
        store,
        components,
        namespaces: with_running(&api, namespaces).await,
    }))
}

/// The head and the head commit of each namespace that exists.
pub(super) fn by_namespace(entries: &[Entry]) -> BTreeMap<Namespace, (Head, Commit)> {
    let by_key: BTreeMap<_, _> = entries.iter().map(|entry| (&entry.key, &entry.value)).collect();
    let named = by_key.iter().filter_map(|(key, value)| {
        let namespace = key.as_str().strip_prefix("ns.")?.strip_suffix(".head")?;
        let namespace = Namespace::new(namespace).ok()?;
        let head = Head::deserialize(&***value).ok().filter(|head| !head.removed)?;
        // Of a long history only this one is read.
        let commit = by_key.get(&Key::commit(&namespace, head.commit))?;
        Some((namespace, (head, Commit::deserialize(&***commit).ok()?)))
    });
    named.collect()
}

/// What there is of each namespace, and how much of it runs.
async fn with_running(api: &Api, heads: BTreeMap<Namespace, (Head, Commit)>) -> Vec<NamespaceView> {
    let commits: Vec<_> = heads.into_values().map(|(_, commit)| commit).collect();
    let running = Running::ask(api, &commits, STATUS_SPAN).await;
    commits.iter().map(|commit| view(commit, &running)).collect()
}

fn view(commit: &Commit, running: &Running) -> NamespaceView {
    NamespaceView {
        namespace: commit.namespace.clone(),
        commit: commit.number,
        services: commit.services.len(),
        instances: commit.services.values().map(|service| service.slots.len()).sum(),
        running: running.count(commit),
    }
}

/// `GET /v1/namespaces`.
pub(super) async fn namespaces(State(api): State<Arc<Api>>) -> Answer<Vec<NamespaceView>> {
    let entries = api.read(vec![Key::namespaces()]).await?;
    Ok(Json(with_running(&api, by_namespace(&entries)).await))
}

async fn facts(api: &Api, namespace: &Namespace) -> Result<Facts, Failure> {
    let entries = api.read(vec![Key::namespace(namespace)]).await?;
    let facts = Facts::parse(&entries).map_err(|error| Failure::unreadable(&error))?;
    if facts.head.is_none() {
        return Err(Failure(StatusCode::NOT_FOUND, no_namespace(namespace, &facts)));
    }
    Ok(facts)
}

/// `GET /v1/namespaces/{ns}/commits`: newest first.
pub(super) async fn commits(
    State(api): State<Arc<Api>>,
    Path(ns): Path<String>,
) -> Answer<Vec<Commit>> {
    let facts = facts(&api, &namespace(&ns)?).await?;
    Ok(Json(facts.commits.into_values().rev().collect()))
}

/// `GET /v1/namespaces/{ns}/commits/{number}`, or `head`.
pub(super) async fn commit(
    State(api): State<Arc<Api>>,
    Path((ns, number)): Path<(String, String)>,
) -> Answer<CommitView> {
    let namespace = namespace(&ns)?;
    let facts = facts(&api, &namespace).await?;
    let missing = || {
        let message = format!("namespace {namespace} has no commit {number}");
        let next = format!("ployzctl deploy history {namespace}");
        Failure::not_found("NO_SUCH_COMMIT", message, &next)
    };
    let commit = match number.as_str() {
        "head" if facts.head_commit().is_none() => {
            return Err(Failure(StatusCode::NOT_FOUND, no_namespace(&namespace, &facts)));
        }
        "head" => facts.head_commit(),
        number => number.parse().ok().and_then(|number: u64| facts.commits.get(&number)),
    };
    let commit = commit.ok_or_else(missing)?.clone();
    let services = commit.services.iter().filter_map(|(name, service)| {
        Some((name.clone(), facts.revisions.get(&service.revision)?.clone()))
    });
    let manifest = Manifest { namespace: namespace.clone(), services: services.collect() };
    let head = facts.head_commit().is_some_and(|head| head.number == commit.number);
    Ok(Json(CommitView { head, commit, manifest }))
}

/// `GET /v1/instances?namespace=`: asked of every machine at once; ends at the deadline and says who was silent.
pub(super) async fn instances(
    State(api): State<Arc<Api>>,
    Query(query): Query<InstancesQuery>,
) -> Answer<InstancesView> {
    let wanted = query.namespace.as_deref().map(namespace).transpose()?;
    let entries = api.read(vec![Key::machines(), Key::namespaces()]).await?;
    let machines = Facts::parse(&entries).map_err(|error| Failure::unreadable(&error))?.machines;
    let committed: BTreeSet<_> = by_namespace(&entries)
        .into_values()
        .flat_map(|(_, commit)| commit.services.into_values())
        .flat_map(|service| service.slots.into_values())
        .map(|slot| (slot.machine, slot.instance))
        .collect();
    let asked = machines.keys().map(|machine| ask(&api, machine, wanted.clone(), LIST_WITHIN));
    let mut answer = InstancesView { answered: Vec::new(), silent: Vec::new(), rows: Vec::new() };
    for (machine, said) in machines.keys().zip(futures::future::join_all(asked).await) {
        match said {
            Ok(seen) => {
                answer.answered.push(machine.clone());
                answer.rows.extend(seen.instances.into_iter().map(|instance| InstanceRow {
                    machine: machine.clone(),
                    committed: committed.contains(&(machine.clone(), instance.spec.name.clone())),
                    instance,
                }));
            }
            Err(reason) => answer.silent.push(SilentMachine { machine: machine.clone(), reason }),
        }
    }
    Ok(Json(answer))
}

/// What a machine sees.
pub(super) async fn ask(
    api: &Api,
    machine: &MachineId,
    namespace: Option<Namespace>,
    within: Span,
) -> Result<MachineObservation, String> {
    let body = CommandBody::Observe { namespace, images: Vec::new(), ports: Vec::new() };
    // A listing is no operation; the digest of the question stands for it in the machine's log.
    let operation = OperationId::from_digest(&Digest::of(&body));
    let command = Command { v: 1, operation, attempt: 0, deadline: within, body };
    match api.ports.send(machine, &command, within.duration()).await {
        Outcome::Ok(CommandReply::Observed(seen)) => Ok(seen),
        Outcome::Ok(CommandReply::Failed(failure)) => Err(failure.to_string()),
        Outcome::Ok(other) => Err(format!("it answered {other:?}")),
        Outcome::Failed(error) => Err(error.to_string()),
        Outcome::Stale | Outcome::Unknown => Err("it did not answer in time".to_owned()),
    }
}

/// Whether a deploy would find room enough beside the daemon and the store's server.
fn disk(api: &Api) -> Result<String, (String, &'static str)> {
    let data_dir = &api.about.data_dir;
    let free = api
        .ports
        .disk_free()
        .map_err(|error| (format!("{}: {error}", data_dir.display()), "df -h"))?;
    let told = format!("{} MiB free at {}", free >> 20, data_dir.display());
    if free < MIN_DISK_FREE {
        let wanted = MIN_DISK_FREE >> 20;
        return Err((format!("{told}: a deploy wants {wanted} MiB, make room"), "df -h"));
    }
    Ok(told)
}

/// `GET /v1/doctor`: each part asked, with the next command where something is wrong.
pub(super) async fn doctor(State(api): State<Arc<Api>>) -> Answer<Vec<DoctorCheck>> {
    let mut checks = Vec::new();
    let mut add = |check: &str, result: Result<String, (String, &str)>| {
        let (ok, detail, next) = match result {
            Ok(detail) => (true, detail, None),
            Err((detail, next)) => (false, detail, Some(next.to_owned())),
        };
        checks.push(DoctorCheck { check: check.to_owned(), ok, detail, next });
    };
    let store = api.read(vec![Key::cluster(), Key::operations(), Key::namespaces()]).await;
    let heads = store.as_ref().ok().map(|entries| by_namespace(entries));
    let unfinished = store.as_ref().ok().and_then(|entries| Facts::parse(entries).ok());
    add(
        "store",
        store.map_err(|Failure(_, error)| (error.message, "ployzctl events")).and_then(|_| {
            match &unfinished {
                Some(facts) if facts.cluster.is_none() => {
                    let lost = "it answers, and has no record of the cluster";
                    Err((lost.to_owned(), "ployzctl events"))
                }
                _ => Ok("it answers".to_owned()),
            }
        }),
    );
    for component in api.ports.components(STATUS_WITHIN).await {
        let detail = component.detail.unwrap_or_default();
        let answers = component.name == "nats" || component.applied.is_some();
        let result = match (component.pid, answers, component.stale) {
            (None, ..) => Err((format!("it does not run: {detail}"), "ployzctl events")),
            (_, false, _) => Err((detail, "ployzctl events")),
            (_, _, true) => Err((
                "it serves its last good state: the store is away from it".to_owned(),
                "ployzctl status",
            )),
            (Some(pid), ..) => Ok(format!("process {pid} {detail}")),
        };
        add(&component.name, result);
    }
    add("disk", disk(&api));
    let machine = ask(&api, &api.about.machine, None, LIST_WITHIN).await;
    let runtime = machine
        .map(|seen| format!("{}: {} instances", seen.runtime, seen.instances.len()))
        .map_err(|error| (error, "ployzctl events"));
    // Machines are asked through the store's server.
    match (&heads, runtime) {
        (None, Err(_)) => {}
        (_, result) => add("runtime", result),
    }
    if heads.is_none() {
        let unknown = "not known while the store does not answer".to_owned();
        for check in ["instances", "operations"] {
            add(check, Err((unknown.clone(), "ployzctl events")));
        }
    }
    if let Some(heads) = heads {
        let commits: Vec<_> = heads.into_values().map(|(_, commit)| commit).collect();
        let running = Running::ask(&api, &commits, LIST_WITHIN).await;
        let result = running.check(&commits);
        let result = match &result {
            Ok(detail) => Ok(detail.clone()),
            Err((detail, next)) => Err((detail.clone(), next.as_str())),
        };
        add("instances", result);
    }
    if let Some(facts) = unfinished {
        let running = api.driver.running().await;
        let unfinished = facts.operations.values().map(|op| &op.value);
        let behind: Vec<_> =
            unfinished.filter(|op| !op.phase.is_final() && !running.contains(&op.id)).collect();
        let next = behind.first().map_or_else(String::new, |op| match op.phase {
            Phase::CleanupPending => format!("ployzctl op resume {}", op.id),
            _ => format!("ployzctl op resume {0}, or ployzctl op abort {0}", op.id),
        });
        let result = if behind.is_empty() {
            Ok(format!("{} running, none left behind", running.len()))
        } else {
            let told = behind.iter().map(|op| format!("{} ({}, {})", op.id, op.summary, op.phase));
            Err((told.collect::<Vec<_>>().join(", "), next.as_str()))
        };
        add("operations", result);
    }
    Ok(Json(checks))
}
