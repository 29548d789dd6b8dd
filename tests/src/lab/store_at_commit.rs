//! nats-server stands still at the commit of a deploy: right before it, with it under way, and right after it. What was sent to a process that
//! is stopped waits in its socket: it lands when the process goes on, after the daemon has given up waiting, and is lost when it is killed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto_core::api::OperationResult;
use rustix::process::Signal;

use super::cluster::HOST;
use super::survival::{deploy_again, signal};
use super::{Lab, get_through};

/// How long a deploy may take to end while the store stands still.
const END_WITHIN: Duration = Duration::from_secs(90);

/// What becomes of the store that stands still.
#[derive(Clone, Copy)]
enum Then {
    /// It goes on: what it was sent meanwhile lands.
    GoesOn,
    /// It is killed: what it was sent is lost. Another one is started by the daemon.
    IsKilled,
}

const ENDS: [(Then, &str); 2] = [(Then::GoesOn, "goes-on"), (Then::IsKilled, "is-killed")];

/// Where the store stands still, and at which effect; the batch that writes the commit comes right after the one with the revisions.
const PLACES: [(&str, &str); 3] = [
    ("during", "before:Key(\"ns.lab.commit."),
    ("before", "before:Key(\"ns.lab.revision."),
    ("after", "after:Key(\"ns.lab.commit."),
];

/// Each place with each end; in the short form the first of each.
pub(super) async fn all(mut lab: Lab<'_>) -> anyhow::Result<()> {
    lab.cluster.deployed(lab.cluster.service("v0", 2)).await?;
    let mut old = "v0".to_owned();
    // Each one takes as long as the daemon waits for the store, some half a minute.
    let (places, ends) = lab.choose((1, 1), (PLACES.len(), ENDS.len()));
    for (place, effect) in &PLACES[..places] {
        for &(then, what) in &ENDS[..ends] {
            let version = format!("{place}-{what}");
            stand_still(&mut lab, &old, &version, effect, then)
                .await
                .with_context(|| format!("stopped {place} the commit, then it {what}"))?;
            old = version;
        }
    }
    Ok(())
}

async fn stand_still(
    lab: &mut Lab<'_>,
    old: &str,
    new: &str,
    effect: &str,
    then: Then,
) -> anyhow::Result<()> {
    let Lab { cluster, report, .. } = lab;
    let nats = cluster.sidecars().await?.remove("nats").context("nats is there")?;
    cluster.kill()?;
    let stop = format!("{}:{effect}", nats.pid);
    cluster.run(&[("PLOYZ_FAILPOINT_STOP", &stop)]).await?;
    let deploy = cluster.deploy(cluster.service(new, 2));
    let ended = tokio::time::timeout(END_WITHIN, deploy).await;
    let served = get_through(cluster.gateway, HOST, "/").await;
    let state = std::fs::read_to_string(format!("/proc/{}/stat", nats.pid))?;
    // Whatever was seen: a process that is stopped takes no SIGTERM.
    signal(
        &nats,
        match then {
            Then::GoesOn => Signal::CONT,
            Then::IsKilled => Signal::KILL,
        },
    )?;
    ensure!(state.contains(") T "), "nats-server was not stopped: {state}");
    let ended = ended.context("the deploy hangs while the store stands still")??;
    let committed = effect.starts_with("after:");
    let told = match &ended {
        Some(OperationResult::Unknown { .. } | OperationResult::Interrupted { .. }) => true,
        // Its commit was acknowledged; what is left to do can wait, and is not done while no machine can be reached.
        Some(OperationResult::CleanupPending { .. }) => committed,
        _ => false,
    };
    report.check(
        &format!("store-at-commit: {new}: the deploy ends and says that it is not done"),
        told,
        format!("{ended:?}"),
    );
    let (status, body) = served?;
    report.check(
        &format!("store-at-commit: {new}: the old version serves meanwhile"),
        status == 200 && (body == old || committed && body == new),
        format!("{status} {body}"),
    );
    let again = deploy_again(cluster, new).await?;
    let (status, body) = get_through(cluster.gateway, HOST, "/").await?;
    let running = cluster.instances().await?.rows.len();
    report.check(
        &format!("store-at-commit: {new}: the same deploy again completes it"),
        status == 200 && body == new && running == 2,
        format!("{again}; {running} instances, the gateway answers {status} {body}"),
    );
    Ok(())
}
