//! The daemon killed once before and once after each effect of a deploy, in each way to roll out, and at random instants.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto_core::api::OperationResult;
use proto_core::deploy::spec::{ServiceSpec, Strategy};
use serde::Deserialize;

use super::cluster::{Cluster, HOST, submission};
use super::report::say;
use super::{Extent, Lab, Load};

/// How long a deploy may take that is not killed.
const DEPLOY_WITHIN: Duration = Duration::from_secs(30);
/// A deploy never has more effects than this; probes and renewals make the number vary.
const MOST: usize = 400;

/// What is deployed again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    scenario: &'static str,
    strategy: Strategy,
    replicas: u32,
}

/// One instance: the new one starts, then the old one goes.
pub(super) const SINGLE: Form =
    Form { scenario: "kill-at-every-effect", strategy: Strategy::Rolling, replicas: 1 };
/// Two instances, one after the other.
pub(super) const ROLLING: Form =
    Form { scenario: "kill-in-rolling", strategy: Strategy::Rolling, replicas: 2 };
/// Two instances at once.
pub(super) const BLUE_GREEN: Form =
    Form { scenario: "kill-in-blue-green", strategy: Strategy::BlueGreen, replicas: 2 };

impl Form {
    fn service(&self, cluster: &Cluster, version: &str) -> ServiceSpec {
        let mut service = cluster.service(version, self.replicas);
        service.rollout.strategy = self.strategy;
        service
    }
}

/// A line of the daemon's failpoint log.
#[derive(Debug, Deserialize)]
struct Line {
    effect: usize,
    kind: String,
}

/// The place of a kill: where in the operation, and which kind of effect.
type Phase = &'static str;

/// phase → kills, and what became of them.
#[derive(Debug, Default)]
struct Table(BTreeMap<Phase, BTreeMap<String, u32>>);

const PHASES: [Phase; 6] = ["start", "observe", "record", "execute", "commit", "clean up"];

/// Kills at each effect, under load.
pub(super) async fn at_every_effect(lab: Lab<'_>, form: Form) -> anyhow::Result<()> {
    let Lab { cluster, report, extent } = lab;
    let name = form.scenario;
    cluster.deployed(form.service(cluster, "v0")).await?;
    let lines = effects(cluster, form).await?;
    let chosen = match extent {
        Extent::Short => one_of_each_phase(&lines)?,
        Extent::Full => {
            (1..=lines.len().min(MOST)).flat_map(|n| [("before", n), ("after", n)]).collect()
        }
    };
    let mut table = Table::default();
    let mut failures = Vec::new();
    let mut missed = 0;
    let load = Load::start(cluster.gateway, HOST);
    for (when, number) in chosen {
        let version = format!("{when}-{number}");
        match kill_at(cluster, form, when, number, &version).await {
            Ok(Some((phase, outcome))) => table.count(phase, outcome),
            Ok(None) => missed += 1,
            Err(error) => {
                failures.push(format!("{when} {number}: {error:#}"));
                // Whatever went wrong, the next kill begins with a daemon that runs.
                drop(cluster.kill());
                cluster.run(&[]).await?;
            }
        }
    }
    let tally = load.finish().await;
    table.print();
    let kills = table.kills();
    let seen = format!("{kills} kills, {missed} not reached, failures {failures:?}");
    report.check(
        &format!("{name}: the same deploy again completes it, nothing is left"),
        failures.is_empty() && kills > 0,
        seen,
    );
    // Not the tally's own words: each kill has a version, and so an answer, of its own.
    let (sent, secs) = (tally.sent, tally.took.as_secs());
    let mut seen = format!("{} of {sent} requests failed in {secs} s", tally.failed);
    if !tally.failures.is_empty() {
        seen = format!("{seen}; {}", tally.failures.join("; "));
    }
    report.check(&format!("{name}: no failed request"), tally.failed == 0, seen);
    if extent == Extent::Full {
        let empty: Vec<_> = PHASES.iter().filter(|phase| !table.0.contains_key(*phase)).collect();
        let seen = format!("{} phases, empty: {empty:?}", PHASES.len());
        report.check(&format!("{name}: no phase is empty"), empty.is_empty(), seen);
    }
    Ok(())
}

/// The effects of a daemon's start and of a deploy that nothing kills.
async fn effects(cluster: &mut Cluster, form: Form) -> anyhow::Result<Vec<Line>> {
    let log = cluster.directory.join("effects.jsonl");
    let path = log.to_str().context("temporary directories have plain names")?;
    cluster.kill()?;
    cluster.run(&[("PLOYZ_FAILPOINT_LOG", path)]).await?;
    cluster.deployed(form.service(cluster, "v1")).await?;
    let lines = read(&log)?;
    ensure!(lines.len() > 10, "a deploy with {} effects", lines.len());
    for line in &lines {
        say(&format!("  effect {}: {}", line.effect, line.kind));
    }
    Ok(lines)
}

/// The effect in the middle of each phase, killed before and after it by turns.
fn one_of_each_phase(lines: &[Line]) -> anyhow::Result<Vec<(&'static str, usize)>> {
    let mut numbers: BTreeMap<Phase, Vec<usize>> = BTreeMap::new();
    for (index, line) in lines.iter().enumerate() {
        numbers.entry(phase(&lines[..=index])?).or_default().push(line.effect);
    }
    let turns = ["before", "after"].into_iter().cycle();
    Ok(turns.zip(numbers.values().map(|all| all[all.len() / 2])).collect())
}

/// One kill, one restart, the same deploy again. `None` if the deploy ended before that effect.
async fn kill_at(
    cluster: &mut Cluster,
    form: Form,
    when: &str,
    number: usize,
    version: &str,
) -> anyhow::Result<Option<(Phase, String)>> {
    let log = cluster.directory.join(format!("effects-{version}.jsonl"));
    let path = log.to_str().context("temporary directories have plain names")?.to_owned();
    let failpoint = format!("{when}:{number}");
    cluster.kill()?;
    cluster.spawn(&[("PLOYZ_FAILPOINT", &failpoint), ("PLOYZ_FAILPOINT_LOG", &path)])?;
    // Its start has effects too: it settles what an earlier one may have left under way.
    let started = cluster.ready().await;
    if started.is_err() && cluster.died(Duration::ZERO).await? {
        return Ok(Some(("start", recover(cluster, form, version).await?)));
    }
    started?;
    let deploy = cluster.deploy(form.service(cluster, version));
    // It may die before it takes the request, and with the answer under way.
    let answer = tokio::time::timeout(DEPLOY_WITHIN, deploy).await.context("it hangs")?;
    if !cluster.died(Duration::from_secs(2)).await? {
        ensure!(
            matches!(answer, Ok(Some(OperationResult::Committed { .. }))),
            "not killed and not committed: {answer:?}"
        );
        return Ok(None);
    }
    let phase = phase(&read(&log)?)?;
    let outcome = recover(cluster, form, version).await?;
    Ok(Some((phase, outcome)))
}

/// Starts the daemon again, asks for the same again, and looks for what is left.
async fn recover(cluster: &mut Cluster, form: Form, version: &str) -> anyhow::Result<String> {
    cluster.run(&[]).await?;
    let unfinished: Vec<_> = cluster
        .operations()
        .await?
        .into_iter()
        .filter(|operation| !operation.record.phase.is_final())
        .map(|operation| operation.record.phase.to_string())
        .collect();
    ensure!(unfinished.len() <= 1, "several unfinished operations: {unfinished:?}");
    let shown = unfinished.first().map_or("none", String::as_str).to_owned();
    let deploy = cluster.deploy(form.service(cluster, version));
    let again = tokio::time::timeout(DEPLOY_WITHIN, deploy).await.context("the second hangs")??;
    let ended = match &again {
        Some(OperationResult::Committed { .. }) => "committed",
        Some(OperationResult::AlreadyDone { .. }) => "already done",
        _ => anyhow::bail!("op ls showed {shown}; the same deploy again: {again:?}"),
    };
    let left = cluster.leftovers().await?;
    ensure!(left.is_empty(), "left: {left:?}");
    let instances = cluster.instances().await?.rows.len();
    ensure!(instances == form.replicas as usize, "{instances} instances");
    Ok(format!("op ls: {shown}; again: {ended}"))
}

fn read(log: &std::path::Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Where the last effect of the log is: batches are counted, as the first one records the operation and one of the later ones commits.
fn phase(lines: &[Line]) -> anyhow::Result<Phase> {
    let (last, earlier) = lines.split_last().context("an empty log")?;
    let is_batch = |line: &Line| line.kind.starts_with("store: Commit");
    let commits = |line: &Line| is_batch(line) && line.kind.contains(".commit.");
    let recorded = earlier.iter().any(is_batch);
    let committed = earlier.iter().any(commits);
    Ok(if committed {
        "clean up"
    } else if commits(last) {
        "commit"
    } else if recorded {
        "execute"
    } else if is_batch(last) {
        "record"
    } else if last.kind.starts_with("runtime: Settle") {
        "start"
    } else {
        "observe"
    })
}

impl Table {
    fn count(&mut self, phase: Phase, outcome: String) {
        *self.0.entry(phase).or_default().entry(outcome).or_default() += 1;
    }

    fn kills(&self) -> u32 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    fn print(&self) {
        say("  phase     kills  outcome");
        for phase in PHASES {
            let outcomes = self.0.get(phase).cloned().unwrap_or_default();
            let kills: u32 = outcomes.values().sum();
            let parts: Vec<_> = outcomes.iter().map(|(what, n)| format!("{n} × {what}")).collect();
            say(&format!("  {phase:9} {kills:5}  {}", parts.join(", ")));
        }
    }
}

/// Kills at random instants.
pub(super) async fn at_random_instants(lab: Lab<'_>) -> anyhow::Result<()> {
    let kills = lab.choose(3, 20);
    let cluster = lab.cluster;
    cluster.deployed(cluster.service("v0", 1)).await?;
    let begun = std::time::Instant::now();
    cluster.deployed(cluster.service("v1", 1)).await?;
    let took = u64::try_from(begun.elapsed().as_millis())?;
    let mut failures = Vec::new();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..kills {
        let version = format!("random-{number}");
        let after = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|since| u64::from(since.subsec_nanos()) / 1000 % took)?;
        let mut running = cluster.api().submit(&submission(cluster.service(&version, 1))).await?;
        let read = async { while let Ok(Some(_)) = running.next().await {} };
        // Either is fine: it may have ended by then.
        let _ = tokio::time::timeout(Duration::from_millis(after), read).await;
        cluster.kill()?;
        match recover(cluster, SINGLE, &version).await {
            Ok(outcome) => *seen.entry(outcome).or_default() += 1,
            Err(error) => failures.push(format!("after {after} ms: {error:#}")),
        }
    }
    lab.report.check(
        "kill-at-random: the same deploy again completes it, nothing is left",
        failures.is_empty(),
        format!("{kills} kills within {took} ms: {seen:?}, failures {failures:?}"),
    );
    Ok(())
}
