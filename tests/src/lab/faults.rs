//! Deploys that cannot work, and two at once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use proto_core::api::{ErrorBody, OperationEvent, OperationResult};
use proto_core::runtime::RestartPolicy;
use proto_core::span::Span;

use super::cluster::{Cluster, HOST, submission};
use super::{Lab, get_through};

/// Each fault in turn; the old version keeps serving.
pub(super) async fn all(mut lab: Lab<'_>) -> anyhow::Result<()> {
    let cluster = &mut *lab.cluster;
    cluster.deployed(cluster.service("good", 1)).await?;

    let mut service = cluster.service("crash", 1);
    service.workload.env.insert("CRASH".to_owned(), "the lab crashed it".to_owned());
    service.workload.restart = RestartPolicy::No;
    let error = aborted(lab.cluster.deploy(service).await?)?;
    let logs = error.logs.iter().any(|line| line.contains("the lab crashed it"));
    let seen = format!("{}: {} {:?}", error.code, error.message, error.logs);
    check(
        &mut lab,
        "a command that exits at once",
        error.code == "INSTANCE_EXITED" && logs && error.next.is_some(),
        seen,
    )
    .await?;

    let mut service = lab.cluster.service("never", 1);
    service.workload.env.insert("NEVER_READY".to_owned(), "1".to_owned());
    if let Some(readiness) = &mut service.readiness {
        readiness.start_period = Span::from_secs(1);
        readiness.retries = 2;
    }
    let error = aborted(lab.cluster.deploy(service).await?)?;
    let logs = error.logs.iter().any(|line| line.contains("not ready: the lab says so"));
    let seen = format!("{}: {} ({} log lines)", error.code, error.message, error.logs.len());
    check(
        &mut lab,
        "readiness that never comes",
        error.code == "NOT_READY" && logs && error.next.is_some(),
        seen,
    )
    .await?;

    if lab.cluster.uses_images() {
        let mut service = lab.cluster.service("nowhere", 1);
        service.workload.image = "ployz-lab-there-is-none:1".to_owned();
        let result = lab.cluster.deploy(service).await?;
        let error = match &result {
            Some(OperationResult::Refused { error } | OperationResult::Aborted { error, .. }) => {
                error
            }
            other => bail!("an image that is not there: {other:?}"),
        };
        let told = error.code == "IMAGE_MISSING" && error.message.contains("there-is-none");
        let seen = format!("{}: {}", error.code, error.message);
        check(&mut lab, "an image that is not there", told, seen).await?;
    }

    two_at_once(&mut lab).await
}

/// A second deploy meets the first one's lease; then the first is cancelled.
async fn two_at_once(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let mut service = lab.cluster.service("stuck", 1);
    service.workload.env.insert("NEVER_READY".to_owned(), "1".to_owned());
    let mut first = lab.cluster.api().submit(&submission(service)).await?;
    let operation = loop {
        match first.next().await?.context("the first ended")? {
            OperationEvent::Recorded { operation, .. } => break operation,
            OperationEvent::Finished { result } => bail!("the first ended: {result:?}"),
            _ => {}
        }
    };
    let second = lab.cluster.deploy(lab.cluster.service("second", 1)).await?;
    let Some(OperationResult::Refused { error }) = second else { bail!("the second: {second:?}") };
    let named = error.message.contains(operation.short()) && error.message.contains("since");
    let seen = format!("{}: {}", error.code, error.message);
    lab.report.check(
        "faults: of two deploys at once the second is refused, with holder and time",
        error.code == "LEASE_HELD" && named,
        seen,
    );
    lab.cluster.api().cancel(first.handle).await?;
    let ended = tokio::time::timeout(Duration::from_secs(20), first.end()).await;
    let error = aborted(ended.context("the cancelled deploy does not end")??)?;
    let seen = format!("{}: {}", error.code, error.message);
    check(lab, "a deploy that is cancelled in the middle", true, seen).await
}

fn aborted(result: Option<OperationResult>) -> anyhow::Result<ErrorBody> {
    match result {
        Some(OperationResult::Aborted { error, .. }) => Ok(error),
        other => bail!("not aborted: {other:?}"),
    }
}

/// The fault was told as it should be, nothing is left of the deploy, and the old version serves.
async fn check(lab: &mut Lab<'_>, what: &str, told: bool, seen: String) -> anyhow::Result<()> {
    lab.report.check(&format!("faults: {what}: told"), told, seen);
    let left = lab.cluster.leftovers().await?;
    let (status, body) = get_through(lab.cluster.gateway, HOST, "/").await?;
    lab.report.check(
        &format!("faults: {what}: aborted, nothing is left, the old version serves"),
        left.is_empty() && status == 200 && body == "good",
        format!("leftovers {left:?}, the gateway answers {status} {body}"),
    );
    Ok(())
}

/// A configuration that cannot be read: exit code 2, with the line.
pub(super) async fn malformed_configuration(lab: Lab<'_>) -> anyhow::Result<()> {
    let cluster: &mut Cluster = lab.cluster;
    cluster.kill()?;
    let path = cluster.directory.join("ployzd.toml");
    let good = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("unheard_of = 1\n{good}"))?;
    let (code, said) = cluster.run_to_the_end().await?;
    std::fs::write(&path, good)?;
    cluster.run(&[]).await?;
    let told = said.contains("ployzd.toml:1:1") && said.contains("unheard_of");
    let seen = format!("exit {code:?}: {}", said.trim());
    lab.report.check(
        "configuration: exit 2, with file, line and field",
        code == Some(2) && told,
        seen,
    );
    Ok(())
}
