//! The engine: runs every plan, so that all crash safety is in one machine.
//!
//! ```text
//! read facts → ask machines → plan → take lease + record (one batch) → barrier → look again
//!   → steps → revisions → commit (one batch) → cleanup → finish
//!        └─ failed or cancelled ─→ take a new epoch + record Aborting (one batch) → barrier → what runs? → undo → finish
//! ```
//!
//! An operation that was left behind is *adopted*: the same batch takes the lease under a new epoch and rewrites the record, from
//! which instant the old coordinator's commit fails in the store; the barrier then makes sure that none of its commands can still
//! land; then the recorded plan goes on where its phase says. Aborting one's own operation goes the same way, so that a delayed command of
//! its forward part cannot land after the undo. What runs is only asked where another operation of the scope is unfinished too.
//!
//! Feed it with [`Operation::done`], [`Operation::cancel`], [`Operation::shutdown`] and [`Operation::timeout`]; drain
//! [`Operation::poll_effect`] and [`Operation::poll_event`] after each until both are empty. The last event is `Finished`; after it
//! there are no more effects, and completions that still come are ignored.

mod ask;
mod batch;
mod fate;
mod lease;
mod observe;
mod run;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ask::Asked;
use batch::Pending;
use fate::Resolve;
use lease::HeldLease;
use run::Run;

use super::plan::Plan;
use super::record::{OperationRecord, Phase};
use crate::Outcome;
use crate::api::{ErrorBody, OperationEvent, OperationRequest, OperationResult, Submission};
use crate::coordination::command::{MachineObservation, Uses};
use crate::daemon::{Completion, EffectKind};
use crate::id::{MachineId, OperationId};
use crate::random::Random;
use crate::span::Span;
use crate::store::{Facts, Scope, StoreError, StoreReply, Versioned};
use crate::time::{Time, UnixTime};

/// How long a lease lives without a renewal.
pub const LEASE_TTL: Duration = Duration::from_secs(30);
/// How often a lease is renewed.
pub const LEASE_RENEW: Duration = Duration::from_secs(10);
/// How long a machine may take to say how it is.
const OBSERVE_WITHIN: Span = Span::from_secs(5);
/// Between two tries of something that was not answered.
const RETRY: Duration = Duration::from_millis(500);
/// How long a store or machine that does not answer is waited for before the operation gives up on it.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the fate of a lost write is asked for before the operation is reported as unknown.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(60);
/// How often a take that lost a race is begun anew.
const MAX_RACES: u32 = 5;

/// What an effect of the operation was for; comes back with its completion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// A read of the facts.
    Read,
    /// The batch that the operation waits for.
    Write,
    /// The mark that decides the fate of a lost batch.
    Mark,
    /// A renewal of the lease.
    Renew,
    /// An observation of a machine.
    Observe(MachineId),
    /// A question to a machine that must be answered; the number tells it from earlier ones.
    Asked(MachineId, u32),
    /// A step; the number tells it from those of an earlier run.
    Step(crate::id::StepId, u32),
}

/// Where the operation is.
#[derive(Debug, Clone)]
enum State {
    /// Waiting for a read, and what it is for.
    Reading(Reading),
    /// Waiting for these machines to say how they are.
    Observing { waiting: BTreeSet<MachineId> },
    /// Waiting for a batch.
    Writing(Pending),
    /// A batch was not taken: again at this time.
    WriteAgain { pending: Pending, at: Time },
    /// A batch's acknowledgement was lost: a competing write decides.
    Resolving(Resolve),
    /// Waiting for machines that must answer before anything goes on.
    Asking(Asked),
    /// Steps are under way.
    Running(Run),
    /// It ended.
    Finished,
}

/// What a read is for.
#[derive(Debug, Clone)]
enum Reading {
    /// Which scope is the operation to be resumed or aborted on?
    Find,
    /// What is there to decide from?
    Initial,
    /// Did the head move before the lease was taken?
    Recheck,
    /// A batch was refused: what moved?
    Conflict(Pending),
    /// The mark was stored, so the commit batch never landed whole: did its first writes?
    NotLanded(Pending),
    /// The mark was refused: did the lost batch land?
    Fate(Pending),
}

/// One operation. See the module's page.
#[derive(Debug, Clone)]
pub struct Operation {
    me: MachineId,
    submission: Submission,
    /// Operations that run in this daemon: their leases are not up for adoption.
    running_here: BTreeSet<OperationId>,
    /// Somebody has asked for the same since the facts were read.
    joined: bool,
    random: Random,
    scope: Option<Scope>,
    facts: Facts,
    observations: BTreeMap<MachineId, MachineObservation>,
    plan: Option<Plan>,
    record: Option<Versioned<OperationRecord>>,
    lease: Option<HeldLease>,
    /// Which addresses of each machine others had used when it acknowledged the barrier.
    used_by_others: BTreeMap<MachineId, Uses>,
    /// Counts questions and runs of steps: what an earlier one still answers is ignored.
    round: u32,
    races: u32,
    /// What is being ended is to be planned anew: another namespace came first.
    again: bool,
    state: State,
    renewing: bool,
    renew_at: Option<Time>,
    cancelled: bool,
    /// It was adopted, and whether the one before has committed all the same was not looked at yet.
    unchecked: bool,
    /// The nonces of the marks that were written, in case a mark's own answer is lost.
    marks: Vec<String>,
    notes: Vec<String>,
    effects: VecDeque<(Tag, EffectKind)>,
    events: VecDeque<OperationEvent>,
}

impl Operation {
    /// Begins an operation. `seed` is where its nonces come from.
    #[must_use]
    pub fn new(me: MachineId, seed: u64, submission: Submission) -> Self {
        let mut this = Self {
            me,
            running_here: BTreeSet::new(),
            joined: false,
            random: Random::new(seed),
            scope: None,
            facts: Facts::default(),
            observations: BTreeMap::new(),
            plan: None,
            record: None,
            lease: None,
            used_by_others: BTreeMap::new(),
            round: 0,
            races: 0,
            again: false,
            state: State::Finished,
            renewing: false,
            renew_at: None,
            cancelled: false,
            unchecked: false,
            marks: Vec::new(),
            notes: Vec::new(),
            effects: VecDeque::new(),
            events: VecDeque::new(),
            submission,
        };
        this.begin();
        this
    }

    /// The operation's id, once it is known.
    #[must_use]
    pub fn id(&self) -> Option<&OperationId> {
        match (&self.record, &self.submission) {
            (Some(record), _) => Some(&record.value.id),
            (_, Submission::Resume { operation } | Submission::Abort { operation }) => {
                Some(operation)
            }
            _ => self.plan.as_ref().map(|plan| &plan.operation),
        }
    }

    /// Whether it was begun to apply this very request.
    #[must_use]
    pub fn applies(&self, request: &OperationRequest) -> bool {
        matches!(&self.submission, Submission::Apply { request: own } if own == request)
    }

    /// Tells it what else runs in this daemon now.
    pub fn set_running_here(&mut self, running: BTreeSet<OperationId>) {
        self.running_here = running;
    }

    /// Somebody else asks for the same and is to be told the same. They are not told what was read before they asked: if nothing comes to
    /// be recorded, the facts are read once more.
    pub fn join(&mut self) {
        self.joined = true;
    }

    /// Somebody else asks for it to be aborted. Who takes up one that is recorded and only looks yet goes on, and undoes it then: nothing is
    /// aborted by looking no further. From here on a cancel changes nothing.
    pub fn abort_too(&mut self, now: Time, wall: UnixTime) {
        let takes_up =
            matches!(self.submission, Submission::Resume { .. } | Submission::Abort { .. });
        if !(takes_up && self.looks_only()) {
            self.cancel(now, wall);
        } else if !std::mem::replace(&mut self.cancelled, true) {
            self.note(later(None));
        }
    }

    /// Whether nothing was begun, and nothing is out but questions.
    fn looks_only(&self) -> bool {
        matches!(
            self.state,
            State::Reading(Reading::Find | Reading::Initial) | State::Observing { .. }
        )
    }

    /// Whether it ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// The next effect.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<(Tag, EffectKind)> {
        self.effects.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<OperationEvent> {
        self.events.pop_front()
    }

    /// When [`Self::timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = match &self.state {
            State::WriteAgain { at, .. } => Some(*at),
            State::Resolving(resolve) => resolve.wake_at,
            State::Asking(asked) => asked.wake_at(),
            State::Running(run) => run.wake_at(),
            State::Reading(_) | State::Observing { .. } | State::Writing(_) | State::Finished => {
                None
            }
        };
        let renew = self.renew_at.filter(|_| self.may_renew());
        own.into_iter().chain(renew).min()
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Time, wall: UnixTime) {
        if self.renew_at.is_some_and(|at| at <= now) && self.may_renew() {
            self.renew(wall);
        }
        match &mut self.state {
            State::WriteAgain { at, .. } if *at <= now => {
                let State::WriteAgain { pending, .. } = self.take_state() else {
                    unreachable!("matched above")
                };
                self.write(pending);
            }
            State::Resolving(resolve) if resolve.wake_at.is_some_and(|at| at <= now) => {
                self.mark(now);
            }
            State::Asking(_) => self.ask_timeout(now, wall),
            State::Running(_) => self.run_timeout(now, wall),
            _ => {}
        }
    }

    /// The audience asks to stop. Before the commit everything is undone; after it the operation finishes.
    pub fn cancel(&mut self, now: Time, wall: UnixTime) {
        if self.is_finished() || std::mem::replace(&mut self.cancelled, true) {
            return;
        }
        match &self.state {
            _ if self.looks_only() => {
                self.end(OperationResult::Refused { error: cancelled().next("ployzctl op ls") });
            }
            State::Running(run) if run.is_forward() => self.abort(now, wall, cancelled()),
            _ => self.note(later(self.record.as_ref().map(|record| record.value.phase))),
        }
    }

    /// The daemon is about to end.
    pub fn shutdown(&mut self) {
        if self.is_finished() {
            return;
        }
        let error = ErrorBody::new(
            "DAEMON_STOPPED",
            "the daemon was asked to stop while the operation ran",
        );
        match &self.state {
            // The batch of the commit is out, or what became of it is being found out.
            State::Writing(pending)
            | State::Resolving(Resolve { pending, .. })
            | State::Reading(Reading::NotLanded(pending) | Reading::Fate(pending))
                if pending.is_commit() =>
            {
                self.end_unknown();
            }
            _ if self.record.is_some() => self.interrupt(error),
            _ => self.end(OperationResult::Refused { error: error.next("ployzctl dev up") }),
        }
    }

    /// An effect ended. `wall` is the machine's clock, for what is recorded.
    pub fn done(&mut self, now: Time, wall: UnixTime, tag: Tag, completion: Completion) {
        if self.is_finished() {
            return;
        }
        match (tag, completion) {
            (Tag::Read, Completion::Store(outcome)) => self.read_done(now, wall, outcome),
            (Tag::Write, Completion::Store(outcome)) => self.write_done(now, wall, outcome),
            (Tag::Mark, Completion::Store(outcome)) => self.mark_done(now, outcome),
            (Tag::Renew, Completion::Store(outcome)) => self.renew_done(now, outcome),
            (Tag::Observe(machine), Completion::Send(outcome)) => {
                self.observe_done(now, wall, machine, outcome);
            }
            (Tag::Asked(machine, round), Completion::Send(outcome)) if round == self.round => {
                self.asked_done(now, wall, machine, outcome);
            }
            (Tag::Step(step, round), Completion::Send(outcome)) if round == self.round => {
                self.step_done(now, wall, step, outcome);
            }
            (Tag::Asked(..) | Tag::Step(..), Completion::Send(_)) => {}
            (tag, completion) => panic!("an effect for {tag:?} was answered with {completion:?}"),
        }
    }

    fn request(&self) -> Option<&OperationRequest> {
        match &self.submission {
            Submission::Apply { request }
            | Submission::Preview { request }
            | Submission::ApplyPrepared { request, .. } => Some(request),
            Submission::Resume { .. } | Submission::Abort { .. } => None,
        }
    }

    fn scope(&self) -> &Scope {
        self.scope.as_ref().expect("known from the request, or from the record that was found")
    }

    fn record(&self) -> &OperationRecord {
        &self.record.as_ref().expect("only called once it is recorded").value
    }

    fn recorded_plan(&self) -> &Plan {
        self.plan.as_ref().expect("every recorded operation has a plan until it is final")
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Finished)
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text.clone());
            self.events.push_back(OperationEvent::Note { text });
        }
    }

    fn end(&mut self, result: OperationResult) {
        self.state = State::Finished;
        self.effects.clear();
        self.renew_at = None;
        self.events.push_back(OperationEvent::Finished { result });
    }

    fn refuse(&mut self, error: ErrorBody) {
        self.answer(OperationResult::Refused { error });
    }

    /// What the facts come to, with nothing recorded. Whoever joined since they were read is told of facts that were read for them too.
    fn answer(&mut self, result: OperationResult) {
        if self.joined { self.look_again() } else { self.end(result) }
    }

    fn interrupt(&mut self, error: ErrorBody) {
        let operation = self.record().id.clone();
        if self.record().phase == Phase::CleanupPending {
            let commit = self.recorded_plan().commit.commit.number;
            let error = error.next(format!("ployzctl op resume {operation}"));
            self.end(OperationResult::CleanupPending { operation, commit, error });
        } else {
            let next = format!("ployzctl op resume {operation}, or ployzctl op abort {operation}");
            self.end(OperationResult::Interrupted { error: error.next(next), operation });
        }
    }

    fn end_unknown(&mut self) {
        let operation = self.record().id.clone();
        let error = ErrorBody::new(
            "COMMIT_UNKNOWN",
            "the store was asked to commit and did not say whether it did; nothing was undone",
        )
        .next(format!("ployzctl op resume {operation}"));
        self.end(OperationResult::Unknown { operation, error });
    }
}

/// What a cancel comes to that cannot be obeyed at once.
fn later(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::CleanupPending | Phase::Committed) => {
            "a cancel was asked for after the commit: the commit stands, and what it replaced is still removed"
        }
        Some(Phase::Aborting | Phase::Aborted) => {
            "a cancel was asked for: everything is being undone already"
        }
        Some(Phase::Executing) | None => {
            "a cancel was asked for; it takes effect as soon as it safely can"
        }
    }
}

fn cancelled() -> ErrorBody {
    ErrorBody::new("CANCELLED", "the operation was cancelled")
}

fn store_away(detail: &str) -> ErrorBody {
    ErrorBody::new("STORE_AWAY", format!("the store does not answer: {detail}"))
        .next("ployzctl doctor")
}

/// Why the store did not do it. One that answers and refuses is not away, and whoever is told so would look in the wrong place.
fn store_failed(error: &StoreError) -> ErrorBody {
    match error {
        StoreError::Refused(why) => {
            let message = format!(
                "the store takes no writes: {why}. A full disk of a store's machine is one reason"
            );
            ErrorBody::new("STORE_REFUSED", message).next("ployzctl doctor")
        }
        StoreError::Conflict | StoreError::InFlight | StoreError::Unavailable(_) => {
            store_away(&error.to_string())
        }
    }
}

type StoreOutcome = Outcome<StoreReply, StoreError>;

#[cfg(test)]
mod tests;
