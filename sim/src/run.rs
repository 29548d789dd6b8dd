//! One run of a scenario: the operation, what the operator does when its daemon dies, and the questions at rest.

use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::{OperationRecord, Phase};
use proto_core::daemon::OperationHandle;

use crate::choice::{Choice, Choices, sparse};
use crate::cluster::{Cluster, PAUSE};
use crate::fate::{Budget, Fates};
use crate::invariants::rest::{self, Content, Snapshot};
use crate::invariants::{Invariants, Violation};
use crate::scenario::{Scenario, founded};
use crate::trace::{Happened, Kind, Trace};
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
    pub trace: Happened,
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
        let mut given_up = Vec::new();
        let mut ended = self.operate(&mut cluster, &mut given_up);
        let wanted = if self.scenario.fails { "aborted" } else { "committed" };
        if cluster.fates.budget() == given && ended != wanted {
            let what = format!("{ended} instead of {wanted}");
            violate(&mut cluster, "L0 with nothing going wrong it ends as it should", what);
        }
        cluster.fates.end();
        rest_for(&mut cluster, REST);
        self.at_rest(&mut cluster);
        let content = rest::content(&cluster.world);
        if !first && content != *self.head_of(ended) {
            // A daemon that stood still went on with what its operator had given up.
            let mut later =
                given_up.iter().filter_map(|handle| cluster.results.get(handle).map(name));
            match later.find(|later| content == *self.head_of(later)) {
                Some(later) => ended = later,
                None => {
                    let what =
                        format!("it ended as {ended}, and the head is not that of such a run");
                    violate(&mut cluster, "L4 a result that a crash-free run could give", what);
                }
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
            trace: Happened::default(),
            taken: Vec::new(),
        };
        let trace = cluster.trace.into_happened();
        let taken = choices.taken().to_vec();
        (Report { taken, trace, ..report }, content)
    }

    /// The operator: asks, and when the daemon dies asks again, resumes or aborts, until it has an answer.
    /// Those of whose daemon he heard nothing while it stood still are in `given_up`.
    fn operate(
        &self,
        cluster: &mut Cluster<'_>,
        given_up: &mut Vec<OperationHandle>,
    ) -> &'static str {
        let mut machine = 0;
        let mut submission = self.apply();
        let mut rival = None;
        let mut ended = "nothing";
        for attempt in 0..MAX_TRIES {
            let up = (0..self.scenario.machines).find(|other| cluster.is_up(*other));
            if !cluster.is_up(machine) {
                machine = up.unwrap_or(machine);
            }
            cluster.run(PAUSE * 2, MAX_EVENTS, |cluster| cluster.is_up(machine));
            let Some(first) = Asked::of(cluster, machine, submission.clone()) else { continue };
            let second = rival.take().and_then(|rival: Rival| rival.comes(cluster, &first));
            let asked: Vec<_> = [Some(first), second].into_iter().flatten().collect();
            cluster.run(PATIENCE, MAX_EVENTS, |cluster| {
                asked.iter().all(|asked| asked.is_over(cluster))
            });
            if let Some(silent) = asked.iter().find(|asked| !asked.is_over(cluster)) {
                let what = format!("no answer of m{} within {PATIENCE:?}", silent.machine + 1);
                violate(cluster, rest::FINISHED, what);
                return ended;
            }
            let silent = asked.iter().filter(|asked| !cluster.results.contains_key(&asked.handle));
            given_up.extend(silent.map(|asked| asked.handle));
            let answers = asked.iter().filter_map(|asked| cluster.results.get(&asked.handle));
            // What settles it counts before what only says that somebody else is at it.
            let answer = answers.min_by_key(|result| !settles(result));
            match answer {
                Some(result) => {
                    ended = name(result);
                    let unfinished = rest::unfinished(&cluster.world);
                    // A refusal with nothing left behind is an answer; one because of what was left behind, or of a
                    // lease that still has to expire, is not.
                    let refused =
                        ended == "refused" && unfinished.is_empty() && cluster.crashes == 0;
                    if settles(result) || refused {
                        return ended;
                    }
                    rest_for(cluster, Duration::from_secs(31));
                }
                None => {
                    let wait = if asked[0].is_lost(cluster) { 2 } else { 35 };
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
                if let Some(record) = unfinished.first() {
                    rival = Rival::drawn(cluster, record, 1 - machine.min(1));
                }
            }
        }
        ended
    }

    /// The head after an end like this.
    fn head_of(&self, ended: &str) -> &Content {
        if matches!(ended, "committed" | "already done") { &self.after } else { &self.before }
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

/// What somebody asked a daemon for.
#[derive(Debug)]
struct Asked {
    machine: usize,
    boot: u32,
    handle: OperationHandle,
}

impl Asked {
    fn of(cluster: &mut Cluster<'_>, machine: usize, submission: Submission) -> Option<Self> {
        let boot = cluster.boot(machine);
        let handle = cluster.submit(machine, submission)?;
        Some(Self { machine, boot, handle })
    }

    /// The daemon that was asked is no more.
    fn is_lost(&self, cluster: &Cluster<'_>) -> bool {
        cluster.boot(self.machine) != self.boot
    }

    /// There is an answer, or there will be none.
    fn is_over(&self, cluster: &Cluster<'_>) -> bool {
        let answered = cluster.results.contains_key(&self.handle);
        answered || self.is_lost(cluster) || !cluster.is_up(self.machine)
    }
}

/// A second operator, who takes up the same operation on another machine while the first is at it.
#[derive(Debug)]
struct Rival {
    machine: usize,
    submission: Submission,
    /// After so many effects.
    after: u64,
}

impl Rival {
    fn drawn(cluster: &mut Cluster<'_>, record: &OperationRecord, machine: usize) -> Option<Self> {
        if cluster.fates.budget().rivals == 0 {
            return None;
        }
        let label = || "a second operator: none, resumes, aborts".to_owned();
        let operation = record.id.clone();
        let submission = match cluster.choices().choose(3, label) {
            0 => return None,
            1 => Submission::Resume { operation },
            _ => Submission::Abort { operation },
        };
        cluster.fates.spend_rival();
        let label = || "how many effects after the first".to_owned();
        let after = [0, 2, 5][cluster.choices().choose(3, label)];
        Some(Self { machine, submission, after })
    }

    fn comes(self, cluster: &mut Cluster<'_>, first: &Asked) -> Option<Asked> {
        let from = cluster.effects + self.after;
        cluster
            .run(PATIENCE, MAX_EVENTS, |cluster| cluster.effects >= from || first.is_over(cluster));
        Asked::of(cluster, self.machine, self.submission)
    }
}

fn settles(result: &OperationResult) -> bool {
    matches!(
        result,
        OperationResult::Committed { .. }
            | OperationResult::AlreadyDone { .. }
            | OperationResult::Aborted { .. }
    )
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
