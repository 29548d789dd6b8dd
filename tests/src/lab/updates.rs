//! Changing what runs.

use std::time::Duration;

use anyhow::ensure;
use proto_core::api::OperationResult;
use proto_core::deploy::spec::Strategy;

use super::cluster::HOST;
use super::{Lab, Load, get_through};

/// A rolling and a blue-green update under load.
pub(super) async fn under_load(lab: Lab<'_>) -> anyhow::Result<()> {
    let wait = lab.choose(Duration::from_millis(500), Duration::from_secs(3));
    let cluster = lab.cluster;
    cluster.deployed(cluster.service("v0", 2)).await?;
    let strategies = [(Strategy::Rolling, "rolling"), (Strategy::BlueGreen, "blue-green")];
    for (strategy, name) in strategies {
        let load = Load::start(cluster.gateway, HOST);
        tokio::time::sleep(wait).await;
        let mut service = cluster.service(name, 2);
        service.rollout.strategy = strategy;
        let result = cluster.deployed(service).await;
        tokio::time::sleep(wait).await;
        let tally = load.finish().await;
        result?;
        let swapped = tally.bodies.contains_key(name) && tally.bodies.len() == 2;
        lab.report.check(
            &format!("updates: {name} under load: no failed request"),
            tally.failed == 0 && swapped,
            &tally,
        );
        let left = cluster.leftovers().await?;
        let instances = cluster.instances().await?.rows.len();
        lab.report.check(
            &format!("updates: {name} leaves only what was committed"),
            left.is_empty() && instances == 2,
            format!("{instances} instances, leftovers {left:?}"),
        );
    }
    Ok(())
}

/// v1, v2, v1 and v1 again.
pub(super) async fn there_and_back(lab: Lab<'_>) -> anyhow::Result<()> {
    let cluster = lab.cluster;
    let mut commits = Vec::new();
    for version in ["v1", "v2", "v1"] {
        commits.push(cluster.deployed(cluster.service(version, 1)).await?);
        let (status, body) = get_through(cluster.gateway, HOST, "/").await?;
        ensure!(status == 200 && body == version, "after {version}: {status} {body}");
    }
    let seen = format!("commits {commits:?}, each served after it was committed");
    lab.report.check("a-b-a: three commits", commits == [1, 2, 3], seen);
    let (operations, processes) = (cluster.operations().await?, cluster.processes().await?);
    let applied = |status: proto_core::api::views::StatusView| {
        status.components.iter().filter_map(|component| component.applied).max()
    };
    let before = applied(cluster.status().await?);
    let again = cluster.deploy(cluster.service("v1", 1)).await?;
    let done = matches!(again, Some(OperationResult::AlreadyDone { commit: 3 }));
    lab.report.check("a-b-a: the same again is done already", done, format!("{again:?}"));
    let same = cluster.operations().await? == operations
        && cluster.processes().await? == processes
        && applied(cluster.status().await?) == before;
    let seen = format!(
        "{} operation records at the same revisions, the same processes, gateway at {before:?}",
        operations.len()
    );
    lab.report.check("a-b-a: and changes nothing", same, seen);
    Ok(())
}
