//! What a daemon finds when it starts: exactly what drifted is made anew, everything else keeps running as it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use io_adapters::process::ProcessIdentity;
use rustix::process::Signal;
use serde_json::Value;

use super::survival::signal;
use super::{Cluster, Extent, Lab, Report};
use crate::ports;

/// Each part of an identity: its name in the record, its name in the event, and one sidecar for the short form.
const PARTS: [(&str, &str, &str); 5] = [
    ("binary", "binary", "dns"),
    ("arguments", "arguments", "gateway"),
    ("config", "configuration", "nats"),
    ("network_namespace", "network namespace", "dns"),
    ("parent_namespace", "parent's network namespace", "nats"),
];

/// Each part of each sidecar's identity changed alone, by hand and in the record; another namespace; and strangers.
pub(super) async fn all(lab: Lab<'_>) -> anyhow::Result<()> {
    let Lab { cluster, report, extent } = lab;
    cluster.deployed(cluster.service("v1", 1)).await?;
    let mut strangers = strangers(cluster)?;
    let result = changes(cluster, report, extent, &strangers).await;
    let mut gone = Vec::new();
    for (name, child) in &mut strangers {
        if let Some(status) = child.try_wait()? {
            gone.push(format!("{name}: {status}"));
        }
        // It may have ended by itself; `wait` takes it all the same.
        drop(child.kill());
        child.wait()?;
    }
    result?;
    report.check(
        "adoption: a process of the same program without a record is left alone",
        gone.is_empty(),
        format!("gone: {gone:?}"),
    );
    Ok(())
}

async fn changes(
    cluster: &mut Cluster,
    report: &mut Report,
    extent: Extent,
    strangers: &BTreeMap<&'static str, Child>,
) -> anyhow::Result<()> {
    by_hand(cluster, report).await?;
    for (part, name, one) in PARTS {
        let sidecars = match (extent, part) {
            (Extent::Short, _) => vec![one],
            (Extent::Full, "parent_namespace") => vec!["nats"],
            (Extent::Full, _) => vec!["nats", "gateway", "dns"],
        };
        for sidecar in sidecars {
            let part = Change { sidecar, part: name };
            let of = record(cluster, sidecar)?["identity"].clone();
            let known = PARTS.map(|(part, ..)| part);
            let unknown = of.as_object().context("an identity")?.keys();
            let unknown: Vec<_> = unknown.filter(|key| !known.contains(&key.as_str())).collect();
            ensure!(unknown.is_empty(), "parts that this scenario does not change: {unknown:?}");
            part.only(cluster, report, |cluster| change_record(cluster, sidecar, part_of(name)))
                .await?;
        }
    }
    another_namespace(cluster, report).await?;
    // As after a reboot, or when pids ran round: the record's pid is somebody else's, even one of the same program.
    let stranger = strangers["gateway"].id();
    let before = ProcessIdentity::of(stranger)?;
    let seen = reused_pid(cluster, stranger).await?;
    let same = before.is_some() && ProcessIdentity::of(stranger)? == before;
    report.check("adoption: a reused pid is left alone", same, seen);
    Ok(())
}

/// The name in the record of a part that an event names.
fn part_of(name: &str) -> &'static str {
    PARTS.iter().find(|(_, event, _)| *event == name).map_or("", |(part, ..)| *part)
}

/// A sidecar of which one part changes.
#[derive(Clone, Copy)]
struct Change {
    sidecar: &'static str,
    part: &'static str,
}

impl Change {
    /// Stops the daemon, makes the change, starts it: exactly this sidecar must be another process, and an event must name the part.
    async fn only(
        self,
        cluster: &mut Cluster,
        report: &mut Report,
        change: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { sidecar, part } = self;
        let before = processes(cluster).await?;
        cluster.kill()?;
        change(cluster)?;
        cluster.run(&[]).await?;
        let event = cluster.event("SIDECAR_DRIFTED", sidecar).await?;
        let drifted = cluster.events().await?;
        let drifted = drifted.iter().filter(|event| event.code == "SIDECAR_DRIFTED").count();
        let after = processes(cluster).await?;
        let changed: Vec<_> =
            after.iter().filter(|(name, process)| before.get(*name) != Some(process)).collect();
        let names: Vec<_> = changed.iter().map(|(name, _)| name.as_str()).collect();
        let named = event.message.ends_with(&format!(": {part} changed; it is started anew"));
        report.check(
            &format!("adoption: another {part} of {sidecar} makes exactly that one new"),
            names == [sidecar] && before.len() == after.len() && drifted == 1 && named,
            format!("new: {names:?} of {}; {}", after.len(), event.message),
        );
        Ok(())
    }
}

/// Every process, once the store answers: its server may just have been started anew.
async fn processes(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, ProcessIdentity>> {
    let begun = std::time::Instant::now();
    loop {
        match cluster.processes().await {
            Err(_) if begun.elapsed().as_secs() < 30 => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// What an operator can change: the configuration, which program it is, and what is in its file.
async fn by_hand(cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    let path = cluster.directory.join("ployzd.toml");
    let change = Change { sidecar: "gateway", part: "configuration" };
    let [port] = ports::free()?;
    let old = format!("127.0.0.1:{}", cluster.gateway);
    cluster.gateway = port;
    change.only(cluster, report, |_| replace(&path, &old, &format!("127.0.0.1:{port}"))).await?;

    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find(|line| line.starts_with("server = ")).context("nats.server")?;
    let server = line.trim_start_matches("server = ").trim_matches('"').to_owned();
    let copy = cluster.directory.join("nats-server");
    copy_program(Path::new(&server), &copy)?;
    let change = Change { sidecar: "nats", part: "arguments" };
    change.only(cluster, report, |_| replace(&path, &server, &copy.display().to_string())).await?;

    // The file of a program that runs cannot be written; another one can take its name.
    let other = cluster.directory.join("nats-server.new");
    let change = Change { sidecar: "nats", part: "binary" };
    change
        .only(cluster, report, |_| {
            copy_program(&copy, &other)?;
            let status = Command::new("sh").args(["-c", "printf . >> \"$0\""]).arg(&other).status();
            ensure!(status?.success(), "a byte more");
            Ok(std::fs::rename(&other, &copy)?)
        })
        .await
}

fn replace(path: &Path, old: &str, new: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    Ok(std::fs::write(path, text.replace(old, new))?)
}

/// By another process: this one may be starting others meanwhile, which would hold the file open for writing.
fn copy_program(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

fn record(cluster: &Cluster, sidecar: &str) -> anyhow::Result<Value> {
    let path = cluster.directory.join(format!("sidecars/{sidecar}.json"));
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// As if the sidecar had been started from something else in this part.
fn change_record(cluster: &Cluster, sidecar: &str, part: &str) -> anyhow::Result<()> {
    let mut record = record(cluster, sidecar)?;
    let value = &mut record["identity"][part];
    *value = match &*value {
        Value::Number(inode) => (inode.as_u64().context("an inode")? + 1).into(),
        Value::Array(arguments) => {
            let more = std::iter::once(Value::from("--more"));
            arguments.iter().cloned().chain(more).collect()
        }
        Value::String(digest) => {
            let other = if digest.starts_with('0') { "1" } else { "0" };
            format!("{other}{}", &digest[1..]).into()
        }
        other => anyhow::bail!("{part} of {sidecar} is {other}"),
    };
    let path = cluster.directory.join(format!("sidecars/{sidecar}.json"));
    Ok(std::fs::write(path, serde_json::to_vec(&record)?)?)
}

/// The daemon started in a network namespace of its own: each sidecar is made anew there, the workloads are not touched. And back.
async fn another_namespace(cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    let what = "adoption: a daemon in another network namespace";
    if !rustix::process::geteuid().is_root() {
        report.skip(what, "only root can make one");
        return Ok(());
    }
    if cluster.uses_images() {
        // The DNS server also listens on the engine's bridge, which is in the engine's namespace.
        super::say(&format!("  {what}: shown with processes only"));
        return Ok(());
    }
    let before = processes(cluster).await?;
    for elsewhere in [true, false] {
        let sidecars = record_pids(cluster)?;
        cluster.kill()?;
        if elsewhere {
            cluster.spawn_elsewhere()?;
        } else {
            cluster.spawn(&[])?;
        }
        cluster.ready().await?;
        let mut told = Vec::new();
        for sidecar in super::cluster::SIDECARS {
            told.push(cluster.event("SIDECAR_DRIFTED", sidecar).await?);
        }
        let named = told.iter().all(|event| {
            let both = "network namespace, parent's network namespace changed";
            let own = "network namespace changed";
            event.message.contains(if event.component == "nats" { both } else { own })
        });
        cluster.sidecars().await?;
        let new = record_pids(cluster)?;
        let all = new.iter().all(|(name, pid)| sidecars[name] != *pid);
        let seen: Vec<_> = told.iter().map(|event| event.message.as_str()).collect();
        let way = if elsewhere { "" } else { ", and back" };
        let check = format!("{what}{way}: each sidecar is made anew, with the reason");
        report.check(&check, named && all, seen.join(" | "));
    }
    let after = processes(cluster).await?;
    let workloads = |all: &BTreeMap<String, ProcessIdentity>| {
        let mut all = all.clone();
        all.retain(|name, _| !super::cluster::SIDECARS.contains(&name.as_str()));
        all
    };
    let same = workloads(&before) == workloads(&after) && !workloads(&after).is_empty();
    report.check(&format!("{what}: the workloads are the same"), same, after.len());
    Ok(())
}

/// The pid of each sidecar, as recorded.
fn record_pids(cluster: &Cluster) -> anyhow::Result<BTreeMap<&'static str, Value>> {
    let pid = |name| Ok((name, record(cluster, name)?["pid"].clone()));
    super::cluster::SIDECARS.into_iter().map(pid).collect()
}

/// Processes of the same programs that nobody recorded: an operator's own nats-server, and a gateway on another port.
fn strangers(cluster: &Cluster) -> anyhow::Result<BTreeMap<&'static str, Child>> {
    let directory = &cluster.directory;
    let text = std::fs::read_to_string(directory.join("gateway.toml"))?;
    let text = text
        .replace(&format!("127.0.0.1:{}", cluster.gateway), "127.0.0.1:0")
        .replace("gateway.sock", "stranger.sock")
        .replace("gateway.snapshot", "stranger.snapshot");
    let config = directory.join("stranger.toml");
    std::fs::write(&config, text)?;
    let start = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    let mut gateway = Command::new(&cluster.parts().ployzd);
    gateway.args(["gateway", "--config"]).arg(&config);
    let mut nats = Command::new("nats-server");
    nats.args(["--addr", "127.0.0.1", "--port", "-1"]);
    Ok(BTreeMap::from([("gateway", start(&mut gateway)?), ("nats", start(&mut nats)?)]))
}

async fn reused_pid(cluster: &mut Cluster, stranger: u32) -> anyhow::Result<String> {
    let dns = cluster.sidecars().await?.remove("dns").context("dns is there")?;
    cluster.kill()?;
    signal(&dns, Signal::KILL)?;
    let mut record = record(cluster, "dns")?;
    record["pid"] = stranger.into();
    std::fs::write(cluster.directory.join("sidecars/dns.json"), serde_json::to_vec(&record)?)?;
    cluster.run(&[]).await?;
    let event = cluster.event("SIDECAR_STARTED", "dns").await?;
    let new = cluster.sidecars().await?.remove("dns").context("dns is there")?;
    ensure!(new.pid != stranger, "the stranger was adopted");
    Ok(format!("dns is process {} now ({}); process {stranger} goes on", new.pid, event.message))
}
