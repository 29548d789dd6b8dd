//! What goes on while the daemon or the store is away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use io_adapters::process::ProcessIdentity;
use proto_core::api::OperationResult;
use rustix::process::{Pid, Signal, kill_process};

use super::cluster::HOST;
use super::{Lab, Load};

/// `kill -9` of the daemon under load.
pub(super) async fn kill_under_load(lab: Lab<'_>) -> anyhow::Result<()> {
    let wait = lab.choose(Duration::from_secs(1), Duration::from_secs(5));
    let cluster = lab.cluster;
    cluster.deployed(cluster.service("v1", 2)).await?;
    let before = cluster.processes().await?;
    let load = Load::start(cluster.gateway, HOST);
    tokio::time::sleep(wait).await;
    cluster.kill()?;
    tokio::time::sleep(wait).await;
    let started = Instant::now();
    cluster.spawn(&[])?;
    // Until the socket is there there is nothing to wait on.
    while cluster.status().await.is_err() && started.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let served = started.elapsed();
    cluster.ready().await?;
    tokio::time::sleep(wait).await;
    let tally = load.finish().await;
    let report = lab.report;
    report.check("kill-under-load: no failed request", tally.failed == 0, &tally);
    let seen = format!("{} ms after its start", served.as_millis());
    report.check(
        "kill-under-load: the API answers within 1 s",
        served < Duration::from_secs(1),
        seen,
    );
    let mut adopted = Vec::new();
    for sidecar in ["nats", "gateway", "dns"] {
        adopted.push(cluster.event("SIDECAR_ADOPTED", sidecar).await?.component);
    }
    let seen = format!("SIDECAR_ADOPTED of {}", adopted.join(", "));
    report.check("kill-under-load: the sidecars are adopted", true, seen);
    let after = cluster.processes().await?;
    let pids: Vec<_> =
        after.iter().map(|(name, process)| format!("{name} {}", process.pid)).collect();
    report.check(
        "kill-under-load: every process is the same, by pid and start time",
        before == after && after.len() == 5,
        pids.join(", "),
    );
    Ok(())
}

/// nats-server stopped (SIGSTOP), then killed, under load.
pub(super) async fn store_away(lab: Lab<'_>) -> anyhow::Result<()> {
    let away = lab.choose(Duration::from_secs(5), Duration::from_secs(60));
    let Lab { cluster, report, .. } = lab;
    cluster.deployed(cluster.service("v1", 2)).await?;
    let nats = cluster.sidecars().await?.remove("nats").context("nats is there")?;
    let load = Load::start(cluster.gateway, HOST);
    signal(&nats, Signal::STOP)?;
    let begun = Instant::now();
    let deploy = cluster.deploy(cluster.service("v2", 2));
    let during = tokio::time::timeout(Duration::from_secs(90), deploy).await;
    tokio::time::sleep(away.saturating_sub(begun.elapsed())).await;
    let stopped_for = begun.elapsed();
    // Also if the deploy failed: a process that is stopped takes no SIGTERM.
    signal(&nats, Signal::CONT)?;
    let during = during.context("a deploy hangs while the store is away")??;
    let told = match &during {
        // The store may still have answered before the signal took effect; then it is the machine, behind the same server.
        Some(OperationResult::Refused { error }) => {
            matches!(error.code.as_str(), "STORE_AWAY" | "MACHINE_SILENT")
        }
        Some(OperationResult::Unknown { .. } | OperationResult::Interrupted { .. }) => true,
        _ => false,
    };
    report.check(
        "store-away: a deploy meanwhile is refused or unknown",
        told,
        format!("{during:?}"),
    );
    let after = deploy_again(cluster, "v2").await?;
    report.check("store-away: afterwards it works", true, after);

    let nats = cluster.sidecars().await?.remove("nats").context("nats is there")?;
    let killed = Instant::now();
    signal(&nats, Signal::KILL)?;
    let event = cluster.event("SIDECAR_DIED", "nats").await?;
    let next = loop {
        let now = cluster.sidecars().await?.remove("nats").context("nats is there")?;
        if now != nats {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let took = killed.elapsed();
    report.check(
        "store-away: nats-server is started again within 2 s of its death",
        took < Duration::from_secs(2),
        format!("process {} after {} ms; {}", next.pid, took.as_millis(), event.message),
    );
    let after = deploy_again(cluster, "v3").await?;
    report.check("store-away: after its death it works", true, after);
    let tally = load.finish().await;
    let seen = format!("stopped for {} s, then killed: {tally}", stopped_for.as_secs());
    report.check("store-away: no failed request", tally.failed == 0, seen);
    Ok(())
}

/// The same deploy until it is committed, as an operator would repeat it; says how often it took.
pub(super) async fn deploy_again(
    cluster: &super::Cluster,
    version: &str,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let result = cluster.deploy(cluster.service(version, 2)).await?;
        if let Some(
            OperationResult::Committed { commit, .. } | OperationResult::AlreadyDone { commit },
        ) = result
        {
            let left = cluster.leftovers().await?;
            ensure!(left.is_empty(), "left: {left:?}");
            let ms = begun.elapsed().as_millis();
            return Ok(format!(
                "commit {commit} at attempt {attempt}, after {ms} ms, no leftovers"
            ));
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "still {result:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(super) fn signal(process: &ProcessIdentity, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(process.pid)?).context("pid 0")?;
    Ok(kill_process(pid, signal)?)
}
