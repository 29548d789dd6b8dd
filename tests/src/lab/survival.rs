//! What goes on while the daemon or the store is away.

use std::time::{Duration, Instant};

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
