//! Plays a story on turmoil hosts: operators and faults at work (safety), then everything is mended and must come to rest (liveness).
//!
//! The habits of the operators and the questions at rest are those of [`sim::play`]; there are no clients. Faults for which turmoil has
//! nothing are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::{Phase, Plan};
use proto_core::random::Random;
use sim::invariants::rest::{self, Content, FINISHED, Snapshot};
use sim::invariants::{Seen, Violation};
use sim::play::habits::{self, Again, MAX_TRIES};
use sim::play::outcome;
use sim::story::{Action, Story, Then};
use sim::trace::Trace;
use tokio::sync::mpsc;

use crate::faults::{self, Cut};
use crate::net::Net;
use crate::operator::{Answer, Question};
use crate::shared::Shared;
use crate::stage::Stage;

/// How long it may take until everything has come to an end.
const CONVERGES_WITHIN: Duration = Duration::from_secs(600);

/// Where the daemons run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Each on a host of turmoil, which has a clock, a network and a runtime for it.
    Turmoil,
    /// All of them in one tokio runtime whose time is paused. Bytes go through pipes that are never late, and no link can be cut.
    Paused,
}

impl Tier {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Turmoil => "turmoil",
            Self::Paused => "paused tokio",
        }
    }
}

/// How a story is played.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Where.
    pub tier: Tier,
    /// The step of turmoil's clock, where messages take one to three of them. With paused time: how often the invariants look.
    pub tick: Duration,
    /// How long everything is left alone before the questions at rest. A lease lives for 30 s.
    pub rest: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tier: Tier::Turmoil, tick: Duration::from_millis(1), rest: Duration::from_secs(40) }
    }
}

/// Why a story was not played to its end.
#[derive(Debug)]
pub enum Error {
    /// It has faults of these classes, which this tier does not have.
    NotPlayed(Vec<&'static str>),
    /// Its store has so many servers; here it has one.
    Servers(usize),
    /// A machine stays away when everything else is mended; here all are mended at once.
    Away,
    /// A host's program failed.
    Host(Box<dyn std::error::Error>),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotPlayed(classes) => {
                write!(f, "this tier has no fault {}", classes.join(", "))
            }
            Self::Away => f.write_str("in the daemon tier every machine is mended at once"),
            Self::Servers(servers) => {
                write!(f, "the daemon tier's store has one server, the story's has {servers}")
            }
            Self::Host(error) => write!(f, "a host failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How long it was, on the simulated clock.
    pub simulated: Duration,
    /// How long the story itself took, without what comes after it, on the real clock.
    pub story_took: Duration,
    /// How many effects the nodes put out, beside answers, fences and waits for routes.
    pub effects: u64,
    /// How many daemons died.
    pub crashes: u32,
    /// How many faults there were, crashes among them.
    pub faults: u32,
    /// What daemons that died and partitions struck, by the number of the fault.
    pub struck: BTreeMap<usize, Struck>,
    /// How each operation ended: the last answer that its operator had.
    pub ended: Vec<&'static str>,
    /// When that was, on the simulated clock.
    pub ended_at: Vec<Duration>,
    /// What the heads say at the end.
    pub content: Content,
    /// In how many states each invariant's premise was true.
    pub premises: BTreeMap<&'static str, u64>,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Every answer and when it came, every revision of the store and when: the same for the same story and the same build.
    pub hash: u64,
}

/// What a fault struck, as it was when it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Struck {
    /// Those of its machines that had an instance that ran: the one whose daemon died, or those that a partition cut off from the store.
    pub machines: Vec<usize>,
    /// How many operations were recorded and not finished.
    pub under_way: usize,
}

/// Something on the agenda.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Todo {
    /// An operator asks for something.
    Ask(usize),
    /// An operator does something about what did not come to an end.
    Again(usize),
    /// An operator's mind has changed.
    Cancel(usize),
    /// An operator applies what was prepared.
    ApplyPrepared(usize),
    /// A fault begins.
    Begin(usize),
    /// A fault ends.
    End(usize),
    /// A daemon that died is started.
    Restart(usize),
}

/// What an operator is at.
#[derive(Debug, Default)]
struct Task {
    /// The number of what was asked last, and where.
    asked: Option<(u64, usize)>,
    tries: u32,
    ended: Option<&'static str>,
    ended_at: Duration,
    /// What was asked last is the end of somebody else's operation that is in the way.
    clearing: bool,
    /// What was prepared, and is applied or about to be.
    prepared: Option<Box<Plan>>,
}

/// A story that is being played.
pub(crate) struct Play<'s> {
    pub(crate) story: &'s Story,
    config: Config,
    pub(crate) stage: Stage,
    pub(crate) shared: Shared,
    /// The hosts of the machines.
    pub(crate) names: Vec<String>,
    /// Link faults under way, by their number in the story.
    pub(crate) cuts: BTreeMap<usize, Cut>,
    pub(crate) crashes: u32,
    pub(crate) faults: u32,
    /// See [`Report::struck`].
    pub(crate) struck: BTreeMap<usize, Struck>,
    questions: mpsc::UnboundedSender<Question>,
    /// Questions without an answer, and whose they are.
    waiting: BTreeMap<u64, Option<usize>>,
    tasks: Vec<Task>,
    agenda: BTreeMap<(Duration, u64), Todo>,
    planned: u64,
    random: Random,
    trace: Trace,
    mended: bool,
}

/// Plays a story.
///
/// # Errors
///
/// If it asks for what this tier does not have, or a host's program fails. What an invariant says is in the report.
pub fn play(story: &Story, config: Config) -> Result<Report, Error> {
    if story.away.is_some() {
        return Err(Error::Away);
    }
    if story.servers != 1 {
        return Err(Error::Servers(story.servers));
    }
    let missing = faults::not_played(story, config.tier);
    if !missing.is_empty() {
        return Err(Error::NotPlayed(missing));
    }
    let mut play = Play::new(story, config);
    let began = std::time::Instant::now();
    play.safety()?;
    let story_took = began.elapsed();
    let converged = play.liveness()?;
    play.at_rest(converged)?;
    Ok(Report { story_took, ..play.finish() })
}

impl<'s> Play<'s> {
    fn new(story: &'s Story, config: Config) -> Self {
        let net = match config.tier {
            Tier::Turmoil => Net::Turmoil,
            Tier::Paused => Net::pipes(),
        };
        let shared = Shared::new(story.founded(), net);
        let names = shared.names();
        let (questions, asked) = mpsc::unbounded_channel();
        let stage = Stage::new(story.seed, config, &shared, asked);
        Self {
            story,
            config,
            stage,
            shared,
            names,
            cuts: BTreeMap::new(),
            crashes: 0,
            faults: 0,
            struck: BTreeMap::new(),
            questions,
            waiting: BTreeMap::new(),
            tasks: story.operations.iter().map(|_| Task::default()).collect(),
            agenda: BTreeMap::new(),
            planned: 0,
            random: Random::new(story.seed),
            trace: Trace::new(false),
            mended: false,
        }
    }

    pub(crate) fn plan(&mut self, after: Duration, todo: Todo) {
        self.planned += 1;
        self.agenda.insert((self.stage.elapsed() + after, self.planned), todo);
    }

    fn safety(&mut self) -> Result<(), Error> {
        let story = self.story;
        for (n, asked) in story.operations.iter().enumerate() {
            self.plan(Duration::from_millis(asked.at), Todo::Ask(n));
        }
        for (n, fault) in story.faults.iter().enumerate() {
            self.plan(Duration::from_millis(fault.at), Todo::Begin(n));
        }
        self.run_for(Duration::from_millis(story.length), |_| false).map(drop)
    }

    /// Mends everything and lets it come to an end; whether it did.
    fn liveness(&mut self) -> Result<bool, Error> {
        self.mended = true;
        self.heal();
        let end = self.stage.elapsed() + CONVERGES_WITHIN;
        // First what operators are still at, and what they will do about it.
        self.run_for(CONVERGES_WITHIN / 2, Self::is_over)?;
        while self.stage.elapsed() < end && self.is_fine() {
            self.run_for(self.config.rest, Self::is_over)?;
            let unfinished = rest::unfinished(&self.shared.lock().world);
            if unfinished.is_empty() && self.is_over() {
                return Ok(true);
            }
            for record in unfinished {
                let machine = self.below(self.story.nodes);
                let operation = record.id.clone();
                let abort = record.phase == Phase::Executing && self.below(3) == 0;
                let submission = if abort {
                    Submission::Abort { operation }
                } else {
                    Submission::Resume { operation }
                };
                self.submit(None, machine, submission);
            }
        }
        Ok(false)
    }

    /// Nobody waits, and nobody will ask for anything more.
    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.agenda.is_empty()
    }

    /// The questions at rest.
    fn at_rest(&mut self, converged: bool) -> Result<(), Error> {
        if !self.is_fine() {
            return Ok(());
        }
        if !converged {
            let what = format!("{} asked and not answered", self.waiting.len());
            self.violate(FINISHED, what);
            return Ok(());
        }
        self.run_for(self.config.rest, |_| false)?;
        let broken = rest::check(&self.shared.lock().world);
        for (invariant, what) in broken {
            self.violate(invariant, what);
        }
        let before = self.look();
        self.run_for(self.config.rest, |_| false)?;
        if self.look() != before {
            self.violate("S10 nothing happens unasked", "the idle cluster changed".to_owned());
        }
        self.again_is_nothing()
    }

    /// Everything that stays as it is while nobody asks for anything.
    fn look(&self) -> (Snapshot, u64, u64) {
        let state = self.shared.lock();
        (Snapshot::of(&state.world), state.world.kv.last().0, state.effects)
    }

    /// L5: what was deployed last is deployed once more.
    fn again_is_nothing(&mut self) -> Result<(), Error> {
        let requests = habits::done_already(self.story, &self.shared.lock().world);
        for request in requests {
            let (before, last, _) = self.look();
            let machine = self.below(self.story.nodes);
            let number = self.submit(None, machine, Submission::Apply { request: request.clone() });
            self.run_for(Duration::from_secs(60), |play| !play.waiting.contains_key(&number))?;
            let (after, last_after, _) = self.look();
            let answer = self.shared.lock().answers.get(&number).cloned();
            let done = matches!(&answer, Some(Answer::Ended(result))
                if matches!(**result, OperationResult::AlreadyDone { .. }));
            if !done || (after, last_after) != (before, last) {
                let what = format!("{} once more: {answer:?}", request.summary());
                self.violate("L5 the same operation again has no effects", what);
            }
        }
        Ok(())
    }

    /// Lets things happen for so long, or until `enough` says so; whether it said so.
    fn run_for(
        &mut self,
        how_long: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<bool, Error> {
        let end = self.stage.elapsed() + how_long;
        while self.stage.elapsed() < end && self.is_fine() {
            if enough(self) {
                return Ok(true);
            }
            while let Some(next) = self.agenda.first_entry()
                && next.key().0 <= self.stage.elapsed()
            {
                let todo = next.remove();
                self.do_it(todo);
            }
            self.stage.step(self.config.tick)?;
            self.attend();
        }
        Ok(enough(self))
    }

    fn do_it(&mut self, todo: Todo) {
        match todo {
            Todo::Ask(task) => {
                let asked = &self.story.operations[task];
                let request = asked.action.request();
                let submission = match asked.action {
                    Action::Preview { .. } | Action::Prepared { .. } => {
                        Submission::Preview { request }
                    }
                    _ => Submission::Apply { request },
                };
                self.try_it(task, asked.machine, submission);
                if let Some(after) = asked.cancel_after {
                    self.plan(Duration::from_millis(after), Todo::Cancel(task));
                }
            }
            Todo::Again(task) => {
                let asked = &self.story.operations[task];
                let applying = self.tasks[task].prepared.is_some();
                let (submission, clearing) =
                    habits::come_back(asked, applying, &self.shared.lock().world);
                self.tasks[task].clearing = clearing;
                self.try_it(task, asked.then_on, submission);
            }
            Todo::Cancel(task) => {
                if let Some((number, machine)) = self.tasks[task].asked
                    && self.waiting.contains_key(&number)
                {
                    self.send(number, machine, None);
                }
            }
            Todo::ApplyPrepared(task) => {
                let asked = &self.story.operations[task];
                let plan = self.tasks[task].prepared.clone().expect("it was prepared");
                let request = asked.action.request();
                self.try_it(task, asked.machine, Submission::ApplyPrepared { request, plan });
            }
            Todo::Begin(_) if self.mended => {}
            Todo::Begin(fault) => self.begin(fault),
            Todo::End(fault) => self.end(fault),
            Todo::Restart(machine) => self.restart(machine),
        }
    }

    fn try_it(&mut self, task: usize, machine: usize, submission: Submission) {
        self.tasks[task].tries += 1;
        let number = self.submit(Some(task), machine, submission);
        self.tasks[task].asked = Some((number, machine));
    }

    fn submit(&mut self, task: Option<usize>, machine: usize, submission: Submission) -> u64 {
        let mut state = self.shared.lock();
        if let Submission::Apply { request } | Submission::ApplyPrepared { request, .. } =
            &submission
        {
            state.see(&Seen::Asked { digest: request.digest() });
        }
        let number = state.number();
        drop(state);
        self.send(number, machine, Some(submission));
        self.waiting.insert(number, task);
        number
    }

    fn send(&self, number: u64, machine: usize, submission: Option<Submission>) {
        let machine = self.names[machine].clone();
        // The operators' host never ends.
        let _ = self.questions.send(Question { number, machine, submission });
    }

    /// Looks at what happened in a step.
    fn attend(&mut self) {
        let mut state = self.shared.lock();
        state.set_now(self.stage.elapsed());
        state.look();
        self.trace.mix(state.world.kv.last().0);
        self.trace.mix(state.effects);
        let answered = |number: &u64| Some((*number, state.answers.get(number)?.clone()));
        let answered: Vec<_> = self.waiting.keys().filter_map(answered).collect();
        drop(state);
        for (number, answer) in answered {
            self.trace.mix(number);
            if let Some(Some(task)) = self.waiting.remove(&number) {
                self.answered(task, &answer);
            }
        }
    }

    fn answered(&mut self, task: usize, answer: &Answer) {
        let clearing = std::mem::take(&mut self.tasks[task].clearing);
        self.tasks[task].ended_at = self.stage.elapsed();
        let after = match answer {
            Answer::Away => {
                self.tasks[task].ended.get_or_insert("daemon_away");
                Some(habits::LATER)
            }
            Answer::Lost => {
                self.tasks[task].ended = Some("connection_lost");
                Some(Duration::from_millis(1500 + self.random.below(6000)))
            }
            Answer::Ended(_) if clearing => Some(Duration::from_secs(2)),
            Answer::Ended(result) => {
                self.tasks[task].ended = Some(outcome(result));
                let asked = &self.story.operations[task];
                if let OperationResult::Previewed { plan, .. } = &**result
                    && let Action::Prepared { after, .. } = asked.action
                    && self.tasks[task].prepared.is_none()
                {
                    self.tasks[task].prepared = Some(plan.clone());
                    self.tasks[task].tries -= 1;
                    self.plan(Duration::from_millis(after), Todo::ApplyPrepared(task));
                }
                habits::about(result, asked.then).map(|again| match again {
                    Again::Soon => Duration::from_millis(1000 + self.random.below(10_000)),
                    Again::Later => habits::LATER,
                })
            }
        };
        let going_home = self.story.operations[task].then == Then::GiveUp;
        if let Some(after) = after
            && self.tasks[task].tries < MAX_TRIES
            && !going_home
        {
            self.plan(after, Todo::Again(task));
        }
    }

    fn is_fine(&self) -> bool {
        self.shared.lock().invariants.violations().is_empty()
    }

    fn violate(&self, invariant: &'static str, what: String) {
        let mut state = self.shared.lock();
        let now = state.world.now;
        state.invariants.violate(invariant, what, now);
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("below a usize")
    }

    fn finish(self) -> Report {
        let state = self.shared.lock();
        Report {
            simulated: self.stage.elapsed(),
            story_took: Duration::ZERO,
            effects: state.effects,
            crashes: self.crashes,
            faults: self.faults,
            struck: self.struck,
            ended: self.tasks.iter().map(|task| task.ended.unwrap_or("unanswered")).collect(),
            ended_at: self.tasks.iter().map(|task| task.ended_at).collect(),
            content: rest::content(&state.world),
            premises: state.invariants.premises(),
            violations: state.invariants.violations().to_vec(),
            hash: self.trace.hash(),
        }
    }
}
