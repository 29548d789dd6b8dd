//! One run of a scenario: the operation, what the operator does when its daemon dies, and the questions at rest.

use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::Phase;

use crate::choice::{Choice, Choices, sparse};
use crate::cluster::{Cluster, PAUSE};
use crate::fate::{Budget, Fates};
use crate::invariants::rest::{self, Content, Snapshot};
use crate::invariants::{Invariants, Violation};
use crate::scenario::{Scenario, founded};
use crate::trace::{Kind, Trace};
use crate::world::World;

/// How long a client waits for an operation.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the world takes to come to rest: every lease has expired, everybody goes on.
const REST: Duration = Duration::from_secs(90);
/// As many effects as a run may have.
const MAX_EFFECTS: u64 = 3000;
/// As many events as a run may have: beyond it something goes round in circles.
const MAX_EVENTS: u64 = 60_000;
/// As many times as the operator tries.
const MAX_TRIES: usize = 8;

/// A scenario with what came before it done.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The scenario.
    pub scenario: Scenario,
    world: World,
    before: Content,
    after: Content,
    /// How many effects a run has in which nothing goes wrong.
    pub effects: u64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was broken.
    pub violations: Vec<Violation>,
    /// How the operation ended, as the client was told at last.
    pub ended: &'static str,
    /// How many effects there were.
    pub effects: u64,
    /// How many daemons died or stood still.
    pub crashes: u32,
    /// The choices.
    pub taken: Vec<Choice>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

impl Report {
    /// The choices, as `ployz-sim replay` reads them.
    #[must_use]
    pub fn schedule(&self) -> String {
        sparse(&self.taken)
    }
}

impl Prepared {
    /// Does what comes before, and the operation once with nothing going wrong.
    ///
    /// # Errors
    ///
    /// The report of the run in which nothing went wrong, if it broke something.
    pub fn new(scenario: Scenario) -> Result<Self, Box<Report>> {
        let mut choices = Choices::recorded(Vec::new());
        let mut world = founded(scenario.machines);
        for request in &scenario.before {
            let fates = Fates::Chosen(&mut choices, Budget::none());
            let mut cluster = Cluster::new(world, fates, Invariants::new(true));
            let submission = Submission::Apply { request: request.clone() };
            let handle = cluster.submit(0, submission).expect("nothing is broken yet");
            cluster.run(PATIENCE, MAX_EVENTS, |cluster| cluster.results.contains_key(&handle));
            rest_for(&mut cluster, REST);
            world = cluster.world;
        }
        let before = rest::content(&world);
        let mut this = Self { scenario, world, before, after: Content::new(), effects: 0 };
        let report = this.run_with(&mut choices, Budget::none(), true, true);
        this.effects = report.0.effects;
        this.after = report.1;
        if report.0.violations.is_empty() { Ok(this) } else { Err(Box::new(report.0)) }
    }

    /// One run.
    pub fn run(&self, choices: &mut Choices, budget: Budget, trace: bool) -> Report {
        self.run_with(choices, budget, trace, false).0
    }

    fn run_with(
        &self,
        choices: &mut Choices,
        budget: Budget,
        trace: bool,
        first: bool,
    ) -> (Report, Content) {
        let invariants = Invariants::new(self.scenario.serves_through);
        let given = budget.clone();
        let fates = Fates::Chosen(choices, budget);
        let mut cluster = Cluster::new(self.world.clone(), fates, invariants);
        cluster.trace = Trace::new(trace);
        let ended = self.operate(&mut cluster);
        let wanted = if self.scenario.fails { "aborted" } else { "committed" };
        if cluster.fates.budget() == given && ended != wanted {
            let what = format!("{ended} instead of {wanted}");
            violate(&mut cluster, "L0 with nothing going wrong it ends as it should", what);
        }
        cluster.fates.end();
        rest_for(&mut cluster, REST);
        self.at_rest(&mut cluster);
        let content = rest::content(&cluster.world);
        if !first {
            let wanted = match ended {
                "committed" | "already done" => &self.after,
                _ => &self.before,
            };
            if content != *wanted {
                let what = format!("it ended as {ended}, and the head is not that of such a run");
                violate(&mut cluster, "L4 a result that a crash-free run could give", what);
            }
        }
        self.stragglers(&mut cluster);
        self.again(&mut cluster, ended, first);
        if cluster.effects > MAX_EFFECTS {
            let what = format!("{} effects", cluster.effects);
            violate(&mut cluster, "L7 effects are bounded", what);
        }
        let report = Report {
            violations: cluster.invariants.violations().to_vec(),
            ended,
            effects: cluster.effects,
            crashes: cluster.crashes,
            trace: Vec::new(),
            taken: Vec::new(),
        };
        let machines = self.scenario.machines;
        let lines = cluster.trace.into_lines();
        let trace = lines.iter().map(|line| line.in_columns(machines)).collect();
        let taken = choices.taken().to_vec();
        (Report { taken, trace, ..report }, content)
    }

    /// The operator: asks, and when the daemon dies asks again, resumes or aborts, until it has an answer.
    fn operate(&self, cluster: &mut Cluster<'_>) -> &'static str {
        let mut machine = 0;
        let mut submission = self.apply();
        let mut ended = "nothing";
        for attempt in 0..MAX_TRIES {
            let up = (0..self.scenario.machines).find(|other| cluster.is_up(*other));
            if !cluster.is_up(machine) {
                machine = up.unwrap_or(machine);
            }
            cluster.run(PAUSE * 2, MAX_EVENTS, |cluster| cluster.is_up(machine));
            let Some(handle) = cluster.submit(machine, submission.clone()) else { continue };
            let boot = cluster.boot(machine);
            cluster.run(PATIENCE, MAX_EVENTS, |cluster| {
                let lost = cluster.boot(machine) != boot || !cluster.is_up(machine);
                lost || cluster.results.contains_key(&handle)
            });
            let unfinished = rest::unfinished(&cluster.world);
            match cluster.results.get(&handle) {
                Some(result) => {
                    ended = name(result);
                    let settled = matches!(
                        result,
                        OperationResult::Committed { .. }
                            | OperationResult::AlreadyDone { .. }
                            | OperationResult::Aborted { .. }
                    );
                    // A refusal with nothing left behind is an answer; one because of what was left behind, or of a
                    // lease that still has to expire, is not.
                    let refused =
                        ended == "refused" && unfinished.is_empty() && cluster.crashes == 0;
                    if settled || refused {
                        return ended;
                    }
                    rest_for(cluster, Duration::from_secs(31));
                }
                None if cluster.boot(machine) == boot && cluster.is_up(machine) => {
                    let what = format!("no answer within {PATIENCE:?}");
                    violate(cluster, rest::FINISHED, what);
                    return ended;
                }
                None => {
                    let wait = if cluster.boot(machine) == boot { 35 } else { 2 };
                    rest_for(cluster, Duration::from_secs(wait));
                }
            }
            // What the operator sees by then.
            let unfinished = rest::unfinished(&cluster.world);
            let many = attempt < 2;
            submission = match unfinished.first() {
                None => self.apply(),
                Some(record) => {
                    let operation = record.id.clone();
                    let bound = if record.phase == Phase::CleanupPending { 2 } else { 3 };
                    let bound = if many { bound } else { 1 };
                    let label = || "the operator: resumes, says the same again, aborts".to_owned();
                    match cluster.choices().choose(bound, label) {
                        0 => Submission::Resume { operation },
                        1 => self.apply(),
                        _ => Submission::Abort { operation },
                    }
                }
            };
            if self.scenario.machines > 1 && many {
                let label = || "the operator: on which machine".to_owned();
                machine = cluster.choices().choose(self.scenario.machines, label);
            }
        }
        ended
    }

    fn apply(&self) -> Submission {
        Submission::Apply { request: self.scenario.request.clone() }
    }

    fn at_rest(&self, cluster: &mut Cluster<'_>) {
        for (invariant, what) in rest::check(&cluster.world) {
            violate(cluster, invariant, what);
        }
    }

    /// What was under way all the time lands now, and changes nothing.
    fn stragglers(&self, cluster: &mut Cluster<'_>) {
        let before = Snapshot::of(&cluster.world);
        if cluster.land_the_rest() == 0 {
            return;
        }
        rest_for(cluster, REST);
        if Snapshot::of(&cluster.world) != before {
            let what =
                "something that was under way landed when all was done, and mattered".to_owned();
            violate(cluster, "L6 late stragglers change nothing", what);
        }
        self.at_rest(cluster);
    }

    /// The same command once more.
    fn again(&self, cluster: &mut Cluster<'_>, ended: &'static str, first: bool) {
        let (snapshot, last) = (Snapshot::of(&cluster.world), cluster.world.kv.last());
        let Some(handle) = cluster.submit(0, self.apply()) else {
            return violate(cluster, rest::FINISHED, "the daemon does not run at rest".to_owned());
        };
        cluster.run(PATIENCE, MAX_EVENTS, |cluster| cluster.results.contains_key(&handle));
        let result = cluster.results.get(&handle).map_or("nothing", name);
        rest_for(cluster, REST);
        let done = matches!(ended, "committed" | "already done");
        if done && !self.scenario.repeats {
            let same = Snapshot::of(&cluster.world) == snapshot && cluster.world.kv.last() == last;
            if result != "already done" || !same {
                let what = format!("it is {result}, and changes: {}", !same);
                violate(cluster, "L5 the same operation again has no effects", what);
            }
            return;
        }
        let wanted = if self.scenario.fails { "aborted" } else { "committed" };
        if result != wanted {
            let what = format!("the same command at rest: {result} instead of {wanted}");
            violate(cluster, "L1 the same command again completes it", what);
        }
        self.at_rest(cluster);
        if !first && rest::content(&cluster.world) != self.after {
            let what = "the head after the same command again".to_owned();
            violate(cluster, "L4 a result that a crash-free run could give", what);
        }
    }
}

fn rest_for(cluster: &mut Cluster<'_>, how_long: Duration) {
    cluster.run(how_long, MAX_EVENTS, |_| false);
}

fn violate(cluster: &mut Cluster<'_>, invariant: &'static str, what: String) {
    let now = cluster.world.now;
    cluster.note(None, Kind::Violation, None, || format!("{invariant}: {what}"));
    cluster.invariants.violate(invariant, what, now);
}

fn name(result: &OperationResult) -> &'static str {
    match result {
        OperationResult::Previewed { .. } => "previewed",
        OperationResult::AlreadyDone { .. } => "already done",
        OperationResult::Committed { .. } => "committed",
        OperationResult::Refused { .. } => "refused",
        OperationResult::Aborted { .. } => "aborted",
        OperationResult::Interrupted { .. } => "interrupted",
        OperationResult::Unknown { .. } => "unknown",
        OperationResult::CleanupPending { .. } => "cleanup pending",
    }
}
