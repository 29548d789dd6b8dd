//! Steps: what machines are told to do, and what becomes of it when they do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Operation, PATIENCE, RETRY, State, Tag, cancelled};
use crate::Outcome;
use crate::api::{ErrorBody, OperationEvent, StepStatus};
use crate::coordination::command::{BusError, Command, CommandBody, CommandReply, StepFailure};
use crate::coordination::plan::{Action, Step};
use crate::coordination::record::{OperationRecord, Phase};
use crate::daemon::EffectKind;
use crate::id::{InstanceName, MachineId, StepId};
use crate::mutant::{self, Mutant};
use crate::runtime::RuntimeError;
use crate::span::Span;
use crate::time::{Time, UnixTime};

/// How many steps may be under way at once.
const MAX_STEPS: usize = 16;
/// How often a step that failed is tried again where there is no way but forward.
const MAX_TRIES: u32 = 4;

/// A run over steps.
#[derive(Debug, Clone)]
pub(super) struct Run {
    kind: Kind,
    steps: BTreeMap<StepId, Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forward,
    Undo,
    Cleanup,
}

#[derive(Debug, Clone)]
struct Progress {
    step: Step,
    status: Status,
    /// When it was first sent.
    since: Option<Time>,
    failures: u32,
}

impl Progress {
    fn new(step: Step) -> Self {
        Self { step, status: Status::Waiting, since: None, failures: 0 }
    }

    /// A step that is left out where `spared`.
    fn unless(spared: bool, step: Step) -> Self {
        let status = if spared { Status::Done } else { Status::Waiting };
        Self { status, ..Self::new(step) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Waiting,
    UnderWay,
    /// Sent again at this time.
    Again(Time),
    Done,
}

impl Run {
    pub(super) fn is_forward(&self) -> bool {
        self.kind == Kind::Forward
    }

    /// When a step is to be sent again. With as many under way as may be there is nothing to wake for: their answers come.
    pub(super) fn wake_at(&self) -> Option<Time> {
        if self.under_way() >= MAX_STEPS && !mutant::on(Mutant::SpinsWhenFull) {
            return None;
        }
        let again = |progress: &Progress| match progress.status {
            Status::Again(at) => Some(at),
            _ => None,
        };
        self.steps.values().filter_map(again).min()
    }

    fn under_way(&self) -> usize {
        self.steps.values().filter(|progress| progress.status == Status::UnderWay).count()
    }
}

impl Operation {
    pub(super) fn send(&mut self, tag: Tag, to: MachineId, deadline: Span, body: CommandBody) {
        let OperationRecord { id: operation, attempt, .. } = self.record();
        let (operation, attempt) = (operation.clone(), *attempt);
        let command = Box::new(Command { v: 1, operation, attempt, deadline, body });
        self.effects.push_back((tag, EffectKind::Send { to, command }));
    }

    pub(super) fn fenced(&mut self) {
        let message =
            "a machine has seen a newer epoch: the operation was adopted by somebody else";
        self.interrupt(ErrorBody::new("ADOPTED_ELSEWHERE", message));
    }

    pub(super) fn run_forward(&mut self, now: Time, wall: UnixTime) {
        if self.cancelled || matches!(self.submission, crate::api::Submission::Abort { .. }) {
            return self.abort(now, wall, cancelled());
        }
        let steps = self.recorded_plan().steps.iter().cloned().map(Progress::new).collect();
        self.run(now, wall, Kind::Forward, steps);
    }

    /// Undoes it, but does not start these again.
    pub(super) fn run_undo(&mut self, now: Time, wall: UnixTime, stay: &BTreeSet<InstanceName>) {
        let ready_failed = || {
            let code = self.record().error.as_ref().map(|error| error.code.as_str());
            matches!(code, Some("NOT_READY" | "INSTANCE_EXITED"))
        };
        let skipped = mutant::on(Mutant::UndoSkipped) && ready_failed();
        let steps = if skipped { Vec::new() } else { undo(&self.recorded_plan().steps) };
        let starts = steps.iter().filter_map(|step| match &step.action {
            Action::Start { instance } => Some(instance),
            _ => None,
        });
        let gone: BTreeSet<_> = starts.filter(|instance| self.is_gone(instance)).cloned().collect();
        for instance in gone.difference(stay) {
            self.note(format!("{instance} is not started again: no commit has it any more"));
        }
        let stays = |step: &Step| match &step.action {
            Action::Start { instance } => stay.contains(instance) || gone.contains(instance),
            _ => self.takes_what_serves(step),
        };
        let steps = steps.into_iter().map(|step| Progress::unless(stays(&step), step)).collect();
        self.run(now, wall, Kind::Undo, steps);
    }

    pub(super) fn run_cleanup(&mut self, now: Time, wall: UnixTime) {
        let steps = self.recorded_plan().cleanup.iter().cloned();
        let steps = steps.map(|step| Progress::unless(self.takes_what_serves(&step), step));
        let steps = steps.collect();
        self.run(now, wall, Kind::Cleanup, steps);
    }

    /// Whether no commit has it any more: what another operation replaced, and perhaps has not removed yet, is not started again.
    fn is_gone(&self, instance: &InstanceName) -> bool {
        !self.serves(instance) && !mutant::on(Mutant::StartsWhatIsGone)
    }

    /// Whether it removes an instance that a commit has since made its own.
    fn takes_what_serves(&self, step: &Step) -> bool {
        matches!(&step.action, Action::Remove { instance, .. } if self.serves(instance))
    }

    fn run(&mut self, now: Time, wall: UnixTime, kind: Kind, steps: Vec<Progress>) {
        self.round += 1;
        let steps =
            steps.into_iter().map(|progress| (progress.step.id.clone(), progress)).collect();
        self.state = State::Running(Run { kind, steps });
        self.run_timeout(now, wall);
    }

    /// Sends what can be sent; ends the run when everything is done.
    pub(super) fn run_timeout(&mut self, now: Time, wall: UnixTime) {
        let State::Running(run) = &mut self.state else { return };
        let is_done = |progress: &Progress| progress.status == Status::Done;
        if run.steps.values().all(is_done) {
            return match run.kind {
                Kind::Forward => self.commit(wall),
                Kind::Undo => self.finish(Phase::Aborted, wall),
                Kind::Cleanup => self.finish(Phase::Committed, wall),
            };
        }
        let kind = run.kind;
        let is_due = |progress: &Progress| match progress.status {
            Status::Waiting => {
                let mut before = progress.step.after.iter();
                before.all(|before| run.steps.get(before).is_some_and(is_done))
            }
            Status::Again(at) => at <= now,
            Status::UnderWay | Status::Done => false,
        };
        // This comes with each answer, and a plan may have a step for every machine: few of them are looked at.
        let free = MAX_STEPS.saturating_sub(run.under_way());
        let due = run.steps.iter().filter(|(_, progress)| is_due(progress));
        let due: Vec<_> = due.map(|(id, _)| id.clone()).take(free).collect();
        let mut to_send = Vec::new();
        for id in due {
            let Some(progress) = run.steps.get_mut(&id) else { continue };
            let first = progress.since.is_none();
            progress.since.get_or_insert(now);
            progress.status = Status::UnderWay;
            to_send.push((progress.step.clone(), first));
        }
        let commit = (kind == Kind::Cleanup)
            .then(|| self.facts.head.as_ref().map(|head| head.revision))
            .flatten();
        for (step, first) in to_send {
            if first {
                self.step_event(&step, StepStatus::Started);
            }
            let body = CommandBody::Perform {
                scope: self.scope().clone(),
                epoch: self.epoch(),
                step: step.id.clone(),
                action: step.action.clone(),
                commit,
            };
            let tag = Tag::Step(step.id.clone(), self.round);
            self.send(tag, step.machine.clone(), step.deadline, body);
        }
    }

    fn step_event(&mut self, step: &Step, status: StepStatus) {
        self.events.push_back(OperationEvent::Step {
            step: step.id.clone(),
            machine: step.machine.clone(),
            action: step.action.to_string(),
            status,
        });
    }

    pub(super) fn step_done(
        &mut self,
        now: Time,
        wall: UnixTime,
        id: StepId,
        outcome: Outcome<CommandReply, BusError>,
    ) {
        let State::Running(run) = &mut self.state else { return };
        let kind = run.kind;
        let Some(progress) = run.steps.get_mut(&id) else { return };
        let step = progress.step.clone();
        let waited = now.since(progress.since.unwrap_or(now));
        match outcome {
            Outcome::Ok(CommandReply::Stale { .. }) if mutant::on(Mutant::StaleIsDone) => {
                progress.status = Status::Done;
                self.run_timeout(now, wall);
            }
            Outcome::Ok(CommandReply::Done { note, .. }) => {
                progress.status = Status::Done;
                self.step_event(&step, StepStatus::Done);
                if let Some(note) = note {
                    self.note(format!("machine {}: {note}", step.machine));
                }
                self.run_timeout(now, wall);
            }
            Outcome::Ok(CommandReply::Stale { .. }) | Outcome::Stale => self.fenced(),
            Outcome::Ok(CommandReply::Failed(failure)) if is_gone(kind, &step, &failure) => {
                progress.status = Status::Done;
                self.step_event(&step, StepStatus::Done);
                self.note(format!("{failure}: what would have been started again is gone"));
                self.run_timeout(now, wall);
            }
            Outcome::Ok(CommandReply::Failed(failure)) => {
                progress.failures += 1;
                let again = kind != Kind::Forward && progress.failures < MAX_TRIES;
                if again {
                    progress.status = Status::Again(now + RETRY);
                }
                let error = failed(&step, &failure, &self.record().id);
                self.step_event(&step, StepStatus::Failed { error: error.clone() });
                if !again {
                    self.step_lost(now, wall, kind, error);
                }
            }
            // Not sent, or its answer was lost: the command is absolute, so it is sent again, under the same epoch.
            Outcome::Failed(_) | Outcome::Unknown | Outcome::Ok(_) => {
                let serves = step.action == Action::AwaitRoutes;
                let patience = if serves { Duration::ZERO } else { PATIENCE };
                if waited < step.deadline.duration().max(patience) {
                    progress.status = Status::Again(now + RETRY);
                    self.step_event(&step, StepStatus::Retrying);
                } else if serves {
                    progress.status = Status::Done;
                    self.step_event(&step, StepStatus::Done);
                    self.note(format!(
                        "machine {} does not say what its gateway serves: it may route to what was replaced",
                        step.machine
                    ));
                    self.run_timeout(now, wall);
                } else {
                    let message =
                        format!("machine {} does not answer: {}", step.machine, step.action);
                    let error = ErrorBody::new("MACHINE_SILENT", message).next("ployzctl doctor");
                    self.step_lost(now, wall, kind, error);
                }
            }
        }
    }

    fn step_lost(&mut self, now: Time, wall: UnixTime, kind: Kind, error: ErrorBody) {
        match kind {
            Kind::Forward => self.abort(now, wall, error),
            Kind::Undo | Kind::Cleanup => self.interrupt(error),
        }
    }
}

/// Whether an undo wants to start an instance that is not there any more: the head moved on before this operation changed anything,
/// and who moved it removed the instance. Trying on would keep the operation from ever ending.
fn is_gone(kind: Kind, step: &Step, failure: &StepFailure) -> bool {
    let gone = StepFailure::Runtime {
        error: RuntimeError::NoSuchInstance {
            instance: match &step.action {
                Action::Start { instance } => instance.clone(),
                _ => return false,
            },
        },
    };
    kind == Kind::Undo && *failure == gone
}

/// The steps that take these back, last first.
fn undo(steps: &[Step]) -> Vec<Step> {
    let undo_id = |id: &StepId| StepId::new(format!("undo-{id}")).ok();
    // A step is taken back after all that came after it, directly or through steps with nothing to take back.
    let mut later: BTreeMap<&StepId, BTreeSet<&StepId>> = BTreeMap::new();
    for step in steps {
        for before in &step.after {
            later.entry(before).or_default().insert(&step.id);
        }
    }
    let by_id: BTreeMap<_, _> = steps.iter().map(|step| (&step.id, step)).collect();
    let followers = |id: &StepId| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<_> = later.get(id).into_iter().flatten().copied().collect();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(later.get(next).into_iter().flatten().copied());
            }
        }
        seen
    };
    steps
        .iter()
        .filter_map(|step| {
            let action = step.undo.clone()?;
            let in_order = !mutant::on(Mutant::UndoneInAnyOrder);
            let after = followers(&step.id)
                .into_iter()
                .filter(|_| in_order)
                .filter(|id| by_id[id].undo.is_some())
                .filter_map(undo_id)
                .collect();
            let id = undo_id(&step.id).expect("ids of steps leave room for the prefix");
            Some(Step {
                id,
                machine: step.machine.clone(),
                action,
                undo: None,
                after,
                deadline: step.deadline,
            })
        })
        .collect()
}

fn failed(step: &Step, failure: &StepFailure, operation: &crate::id::OperationId) -> ErrorBody {
    let message = format!("machine {}: {}: {failure}", step.machine, step.action);
    let next = failure.next(&step.machine, operation);
    let mut error = ErrorBody::new(failure.code(), message).next(next);
    error.logs = failure.logs().to_vec();
    error
}
