//! `docs/facts.md` against the store of a real cluster, read with a client that is not ours.

mod client;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use anyhow::{Context as _, bail, ensure};
use client::{Client, Message};
use page::Page;
use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::deploy::HostName;
use proto_core::deploy::spec::{Manifest, ServiceSpec, Strategy};
use proto_core::id::{Namespace, ServiceName};
use proto_core::runtime::{Network, RestartPolicy};
use serde_json::Value;
use tests::lab::{Cluster, Parts};

/// A week, as `Nats-TTL` has it.
const WEEK: &str = "604800s";

#[test]
fn every_key_of_a_real_store_is_a_row_of_the_page_and_every_row_is_there() {
    let parts = match Parts::find() {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return;
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&parts).await.unwrap();
        let result = compare(&cluster).await;
        let log = cluster.log_tail();
        let directory = cluster.destroy().await.unwrap();
        result.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
        std::fs::remove_dir_all(directory).unwrap();
    });
}

async fn compare(cluster: &Cluster) -> anyhow::Result<()> {
    let config = std::fs::read_to_string(cluster.directory.join("ployzd.toml"))?;
    let port = config.split_once("[nats]").context("[nats]")?.1;
    let port = port.lines().find_map(|line| line.strip_prefix("port = ")).context("a port")?;
    let port = port.parse()?;
    let seed = std::fs::read_to_string(cluster.directory.join("nats/coordinator.nk"))?;
    let mut client = Client::connect(port, &seed, "reader")?;
    let mut follower = Client::connect(port, &seed, "follower")?;
    follower.follow()?;
    let (sender, writes) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let message = follower.next();
            // Ends when nobody listens any more, or with the server.
            let last = message.is_err();
            if sender.send(message).is_err() || last {
                break;
            }
        }
    });

    let operations = work(cluster).await?;
    let page = Page::read()?;
    let writes = until_all_ended(&writes, operations)?;
    check_keys(&page, &mut client, &writes)?;
    check_values(&page, &writes)?;
    check_phases(&page, &writes)?;
    Ok(())
}

/// Operations that write every kind of key: how many of them.
async fn work(cluster: &Cluster) -> anyhow::Result<usize> {
    let deploy = |services: Vec<(&str, ServiceSpec)>| {
        let services = services.into_iter().map(|(name, s)| (ServiceName::new(name).unwrap(), s));
        let manifest = Manifest { namespace: namespace(), services: services.collect() };
        OperationRequest::Deploy { manifest }
    };
    // Its ports are the machine's own, so they are claimed.
    let mut agent = cluster.service("v1", 1);
    agent.workload.network = Network::Host;
    agent.rollout.strategy = Strategy::Recreate;
    agent.routes.clear();
    let mut web = cluster.service("v1", 2);
    web.routes[0].hostnames.push(HostName::new("second.lab.test").unwrap());
    committed(cluster, deploy(vec![("web", web), ("agent", agent)])).await?;
    // Gives up a host name, a port and a service.
    committed(cluster, deploy(vec![("web", cluster.service("v2", 2))])).await?;
    let replicas = [(ServiceName::new("web").unwrap(), 1)].into();
    committed(cluster, OperationRequest::Scale { namespace: namespace(), replicas }).await?;
    let mut broken = cluster.service("v3", 1);
    broken.workload.env.insert("CRASH".to_owned(), "as it was told".to_owned());
    broken.workload.restart = RestartPolicy::No;
    match run(cluster, deploy(vec![("web", broken)])).await? {
        OperationResult::Aborted { .. } => {}
        other => bail!("it should have been undone: {other:?}"),
    }
    committed(cluster, OperationRequest::RemoveNamespace { namespace: namespace() }).await?;
    Ok(5)
}

fn namespace() -> Namespace {
    Namespace::new("lab").unwrap()
}

async fn run(cluster: &Cluster, request: OperationRequest) -> anyhow::Result<OperationResult> {
    let running = cluster.api().submit(&Submission::Apply { request }).await?;
    running.end().await?.context("the daemon ended")
}

async fn committed(cluster: &Cluster, request: OperationRequest) -> anyhow::Result<()> {
    match run(cluster, request).await? {
        OperationResult::Committed { .. } => Ok(()),
        other => bail!("it should have been committed: {other:?}"),
    }
}

/// Every write in the order of the stream, until so many operations are at their end.
fn until_all_ended(
    writes: &mpsc::Receiver<anyhow::Result<Message>>,
    operations: usize,
) -> anyhow::Result<Vec<(String, Message)>> {
    let mut seen = Vec::new();
    let mut ended = BTreeSet::new();
    while ended.len() < operations {
        let message = writes.recv_timeout(std::time::Duration::from_secs(10));
        let message = message.with_context(|| format!("{} writes and no more", seen.len()))??;
        let key = message.subject.strip_prefix("$KV.facts.");
        let key = key.with_context(|| format!("no key: {message:?}"))?.to_owned();
        if key.starts_with("op.") && message.headers.get("Nats-TTL").is_some_and(|ttl| ttl == WEEK)
        {
            ended.insert(key.clone());
        }
        seen.push((key, message));
    }
    Ok(seen)
}

/// Keys that are there now and keys that were written: each is of one row, and no row is without a key.
fn check_keys(
    page: &Page,
    client: &mut Client,
    writes: &[(String, Message)],
) -> anyhow::Result<()> {
    let all = serde_json::json!({ "subjects_filter": ">" });
    let info = client.ask("$JS.ployz.API.STREAM.INFO.KV_facts", &all)?;
    let there = info["state"]["subjects"].as_object().context("subjects")?;
    let there = there.keys().map(|subject| subject.trim_start_matches("$KV.facts."));
    let mut without: BTreeSet<_> = page.rows.iter().map(|row| row.pattern.as_str()).collect();
    for key in writes.iter().map(|(key, _)| key.as_str()).chain(there) {
        match page.rows_of(key)[..] {
            [row] => without.remove(row.pattern.as_str()),
            ref rows => bail!("{key} is of {} rows of docs/facts.md: {rows:?}", rows.len()),
        };
    }
    ensure!(without.is_empty(), "docs/facts.md lists keys that nobody writes: {without:?}");
    // And a single fact as an operator would look it up.
    let head = client.request("$JS.ployz.API.DIRECT.GET.KV_facts.$KV.facts.ns.lab.head", "")?;
    let head: Value = serde_json::from_slice(&head.payload)?;
    ensure!(head["v"] == 1 && head["removed"] == true && head["commit"] == 4, "{head}");
    Ok(())
}

/// JSON with a version everywhere; what never changes is written once; what expires says when.
fn check_values(page: &Page, writes: &[(String, Message)]) -> anyhow::Result<()> {
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for (key, message) in writes {
        let value: Value = serde_json::from_slice(&message.payload).with_context(|| key.clone())?;
        ensure!(value["v"].as_u64().is_some_and(|v| v >= 1), "{key} has no version: {value}");
        let row = page.rows_of(key)[0];
        let ttl = message.headers.get("Nats-TTL").map(String::as_str);
        let released = value["released"] == true;
        let expected = match row.pattern.as_str() {
            "lease.ns.<ns>" if !released => Some("30s"),
            _ if released => Some("1s"),
            "op.<id>"
                if ["committed", "aborted"].contains(&value["phase"].as_str().unwrap_or("")) =>
            {
                Some(WEEK)
            }
            "ns.<ns>.instance.<service>-<slot>" if value["lifecycle"] == "removed" => Some(WEEK),
            // Of a namespace that is gone: nothing but the addresses that it left.
            "allocation.<ns>" if takes_nothing(&value) => Some("3600s"),
            _ => None,
        };
        ensure!(ttl == expected, "{key} lives {ttl:?} and should live {expected:?}: {value}");
        match row.kind.as_str() {
            // Intent stands until somebody changes or gives up what it says.
            "intent" => ensure!(
                ttl.is_none() || released || takes_nothing(&value),
                "{key} is intent and expires: {ttl:?}"
            ),
            "status" => ensure!(
                value["operation"].is_string() || key.starts_with("op."),
                "{key} is status and names no operation: {value}"
            ),
            other => bail!("{} is {other}: intent or status", row.pattern),
        }
        *times.entry(key).or_default() += 1;
    }
    for (key, times) in times {
        let once = ["cluster", "machine.", "ns.lab.commit.", "ns.lab.revision."];
        let once = once.iter().any(|prefix| key.starts_with(prefix));
        ensure!(!once || times == 1, "{key} was written {times} times");
    }
    Ok(())
}

fn takes_nothing(allocation: &Value) -> bool {
    let machines = allocation["machines"].as_object();
    machines.is_some_and(|all| all.values().all(|machine| machine["addresses"].is_null()))
}

/// Every operation goes through the phases in an order of the page, and every phase of the page is gone through.
fn check_phases(page: &Page, writes: &[(String, Message)]) -> anyhow::Result<()> {
    let mut phases: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, message) in writes.iter().filter(|(key, _)| key.starts_with("op.")) {
        let value: Value = serde_json::from_slice(&message.payload)?;
        let phase = value["phase"].as_str().context("a phase")?.to_owned();
        let seen = phases.entry(key).or_default();
        if seen.last() != Some(&phase) {
            seen.push(phase);
        }
    }
    for (key, seen) in &phases {
        // The bucket keeps the last write of a key only, so a reader may miss one; never the last.
        let fits = page.phases.iter().any(|chain| {
            let mut chain_at = chain.iter();
            chain.last() == seen.last() && seen.iter().all(|phase| chain_at.any(|p| p == phase))
        });
        ensure!(fits, "{key} went {seen:?}; the page says {:?}", page.phases);
    }
    let seen: BTreeSet<_> = phases.values().flatten().map(String::as_str).collect();
    ensure!(seen == page.all_phases(), "{seen:?}; the page says {:?}", page.phases);
    Ok(())
}
