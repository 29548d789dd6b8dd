//! The end of a commit's batch, or the answer to it, is lost between daemon and store. The daemon waits for its timeout, and asks the store
//! by an abort mark: a write of the operation's record under the revision that the lost batch expects too. One of both is refused.

use anyhow::{Context as _, bail, ensure};
use proto_core::api::OperationResult;

use super::cluster::HOST;
use super::wire::{Fate, Wire};
use super::{Lab, Load, get_through};

/// What the server answers to a write that expects another revision.
const WRONG_REVISION: &str = "\"err_code\":10071";

/// Each fate of the batch, under load.
pub(super) async fn all(lab: Lab<'_>) -> anyhow::Result<()> {
    let fates = [
        ("its answer is lost", Fate::AnswerIsLost),
        ("it lands after the abort mark", Fate::LandsAfterMark),
        ("it never lands", Fate::NeverLands(1)),
        ("it never lands, three times", Fate::NeverLands(3)),
    ];
    let fates = &fates[..lab.choose(2, fates.len())];
    let Lab { cluster, report, .. } = lab;
    let mut commit = cluster.deployed(cluster.service("v0", 2)).await?;
    let wire = Wire::open(cluster.nats).await?;
    cluster.kill()?;
    cluster.run(&[("PLOYZ_FAILPOINT_NATS", &wire.address)]).await?;
    let load = Load::start(cluster.gateway, HOST);
    let mut serves = "v0".to_owned();
    for (number, (what, fate)) in fates.iter().enumerate() {
        let version = format!("v{}", number + 1);
        wire.expect(*fate);
        let result = cluster.deploy(cluster.service(&version, 2)).await?;
        let seen = wire.seen().await.with_context(|| format!("{what}: {result:?}"))?;
        let refused = seen.answer.as_ref().is_some_and(|answer| answer.contains(WRONG_REVISION));
        // Three lost batches are enough: then the deploy is undone.
        let gives_up = *fate == Fate::NeverLands(3);
        let expected = match fate {
            Fate::AnswerIsLost => seen.lost == 1 && seen.marks == 1 && !refused,
            Fate::LandsAfterMark => seen.lost == 1 && seen.marks == 1 && refused,
            Fate::NeverLands(times) => seen.lost == *times && seen.marks == *times,
        };
        let ended = match &result {
            Some(OperationResult::Committed { commit: new, .. }) => {
                ensure!(*new == commit + 1, "{what}: commit {new} after {commit}");
                commit = *new;
                serves = version;
                !gives_up
            }
            Some(OperationResult::Aborted { .. }) => gives_up,
            other => bail!("{what}: {other:?}"),
        };
        report.check(
            &format!("lost-commit: {what}: the abort mark decides"),
            expected && ended,
            format!("{}; {seen:?}", brief(result.as_ref())),
        );
        let left = cluster.leftovers().await?;
        let running = cluster.instances().await?.rows.len();
        let (status, body) = get_through(cluster.gateway, HOST, "/").await?;
        report.check(
            &format!("lost-commit: {what}: nothing is left, what is committed serves"),
            left.is_empty() && running == 2 && status == 200 && body == serves,
            format!("leftovers {left:?}, {running} instances, the gateway answers {status} {body}"),
        );
    }
    let tally = load.finish().await;
    report.check("lost-commit: no failed request", tally.failed == 0, &tally);
    // What was committed is what the same deploy finds, without the proxy.
    cluster.restart().await?;
    let again = cluster.deploy(cluster.service(&serves, 2)).await?;
    let done =
        matches!(&again, Some(OperationResult::AlreadyDone { commit: there }) if *there == commit);
    report.check("lost-commit: the same again is done already", done, format!("{again:?}"));
    Ok(())
}

fn brief(result: Option<&OperationResult>) -> String {
    match result {
        Some(OperationResult::Committed { commit, .. }) => format!("commit {commit}"),
        Some(OperationResult::Aborted { error, .. }) => {
            format!("aborted: {}: {}", error.code, error.message)
        }
        other => format!("{other:?}"),
    }
}
