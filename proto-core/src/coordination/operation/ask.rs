//! What machines are asked until each of them has answered, before anything goes on: the barrier, and what runs in the place of something.

use std::collections::{BTreeMap, BTreeSet};

use super::{OBSERVE_WITHIN, Operation, PATIENCE, RETRY, Reading, State, Tag, cancelled};
use crate::Outcome;
use crate::api::{ErrorBody, Submission};
use crate::coordination::command::{BusError, CommandBody, CommandReply};
use crate::coordination::plan::{Action, Plan};
use crate::coordination::record::{OperationRecord, Phase};
use crate::id::{InstanceName, MachineId, OperationId};
use crate::machine::MachineLifecycle;
use crate::mutant::{self, Mutant};
use crate::span::Span;
use crate::store::Scope;
use crate::time::{Time, UnixTime};

/// How long a machine may take to acknowledge a barrier: its effects under way must end first.
const BARRIER_WITHIN: Span = Span::from_secs(10);

/// A question, and who has not answered it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    question: Question,
    waiting: BTreeSet<MachineId>,
    /// Who is asked again, and when.
    again: BTreeMap<MachineId, Time>,
    /// Why somebody could not answer, where that was said.
    why: BTreeMap<MachineId, String>,
    until: Time,
}

#[derive(Debug, Clone)]
enum Question {
    /// From here on nothing of a lower epoch lands.
    Barrier,
    /// Which instances run there?
    Running(Beside),
}

/// What an undo looks for.
#[derive(Debug, Clone)]
struct Beside {
    successors: Vec<Successor>,
    /// The instances that run, as far as machines have answered.
    running: BTreeSet<InstanceName>,
}

impl Asked {
    /// When a machine is asked again. With every question out there is nothing to wake for: the answers come, if only to say that there
    /// is none.
    pub(super) fn wake_at(&self) -> Option<Time> {
        self.again.values().copied().min()
    }
}

/// What an operation starts once something else has stopped: of a service that is recreated, each new instance is one of each old one.
#[derive(Debug, Clone)]
struct Successor {
    /// What has stopped.
    of: InstanceName,
    operation: OperationId,
    instance: InstanceName,
    machine: MachineId,
}

impl Operation {
    /// From here on nothing of a lower epoch can land, on every machine that the plan of an unfinished operation of the scope names. There may be
    /// another one than this: it was recorded while this one was planned, or the store brought it back. Whoever runs it may yet wake up. A
    /// machine that has left the cluster is not waited for.
    pub(super) fn barrier(&mut self, now: Time, wall: UnixTime, adopted: bool) {
        self.used_by_others.clear();
        self.unchecked = adopted && self.record().phase == Phase::Executing;
        if adopted && mutant::on(Mutant::NoBarrier) {
            self.round += 1;
            return self.behind_barrier(now, wall);
        }
        let mut machines = self.recorded_plan().machines();
        let others = self.facts.unfinished(self.scope()).filter_map(|op| op.value.plan.as_ref());
        machines.extend(others.flat_map(Plan::machines).filter(|id| self.is_there(id)));
        self.ask(now, wall, Question::Barrier, machines);
    }

    fn is_there(&self, machine: &MachineId) -> bool {
        let machine = self.facts.machines.get(machine);
        machine.is_some_and(|machine| machine.lifecycle != MachineLifecycle::Removed)
    }

    fn ask(&mut self, now: Time, wall: UnixTime, question: Question, waiting: BTreeSet<MachineId>) {
        self.round += 1;
        let again = waiting.iter().map(|machine| (machine.clone(), now)).collect();
        let (why, until) = (BTreeMap::new(), now + PATIENCE);
        self.state = State::Asking(Asked { question, waiting, again, why, until });
        self.ask_timeout(now, wall);
    }

    pub(super) fn ask_timeout(&mut self, now: Time, wall: UnixTime) {
        if matches!(&self.state, State::Asking(asked) if asked.waiting.is_empty()) {
            let State::Asking(asked) = self.take_state() else { return };
            return match asked.question {
                Question::Barrier => self.behind_barrier(now, wall),
                Question::Running(beside) => self.run_undo_beside(now, wall, beside),
            };
        }
        let State::Asking(Asked { question, again, why, until, .. }) = &mut self.state else {
            return;
        };
        if now >= *until && !again.is_empty() {
            let silent = again.keys().map(|machine| match why.get(machine) {
                Some(why) => format!("{machine} ({why})"),
                None => machine.to_string(),
            });
            let silent: Vec<_> = silent.collect();
            let what = match question {
                Question::Barrier => "do not say that nothing older can land there",
                Question::Running(_) => "do not say what runs there",
            };
            let message = format!("these machines {what}: {}", silent.join(", "));
            return self.interrupt(ErrorBody::new("MACHINE_SILENT", message));
        }
        let is_barrier = matches!(question, Question::Barrier);
        let due: Vec<_> =
            again.iter().filter(|(_, at)| **at <= now).map(|(m, _)| m.clone()).collect();
        for machine in &due {
            again.remove(machine);
        }
        for machine in due {
            let (within, body) =
                if is_barrier { self.barrier_command() } else { self.running_command() };
            let tag = Tag::Asked(machine.clone(), self.round);
            self.send(tag, machine, within, body);
        }
    }

    fn barrier_command(&self) -> (Span, CommandBody) {
        let body = CommandBody::Barrier { scope: self.scope().clone(), epoch: self.epoch() };
        (BARRIER_WITHIN, body)
    }

    fn running_command(&self) -> (Span, CommandBody) {
        let Scope::Namespace(namespace) = self.scope().clone();
        let (images, ports) = (Vec::new(), Vec::new());
        let body = CommandBody::Observe { namespace: Some(namespace), images, ports };
        (OBSERVE_WITHIN, body)
    }

    pub(super) fn asked_done(
        &mut self,
        now: Time,
        wall: UnixTime,
        machine: MachineId,
        outcome: Outcome<CommandReply, BusError>,
    ) {
        let State::Asking(Asked { question, waiting, again, why, .. }) = &mut self.state else {
            return;
        };
        match (question, outcome) {
            (Question::Barrier, Outcome::Ok(CommandReply::Done { used_by_others, .. })) => {
                waiting.remove(&machine);
                self.used_by_others.extend(used_by_others.map(|uses| (machine, uses)));
            }
            (Question::Running(beside), Outcome::Ok(CommandReply::Observed(seen))) => {
                waiting.remove(&machine);
                let there = seen.instances.into_iter().filter(|there| there.state.runs());
                beside.running.extend(there.map(|there| there.spec.name));
            }
            (_, Outcome::Ok(CommandReply::Stale { .. }) | Outcome::Stale) => return self.fenced(),
            (_, outcome) => {
                match why_not(&outcome) {
                    Some(reason) => why.insert(machine.clone(), reason),
                    None => why.remove(&machine),
                };
                again.insert(machine, now + RETRY);
            }
        }
        self.ask_timeout(now, wall);
    }

    fn behind_barrier(&mut self, now: Time, wall: UnixTime) {
        if self.is_history() && !mutant::on(Mutant::HistoryGoesOn) {
            self.note(
                "it had committed already, and newer commits followed: its record had come back",
            );
            return self.finish(Phase::Committed, wall);
        }
        match self.record().phase {
            Phase::Executing => self.read_facts(Reading::Recheck),
            Phase::Aborting => {
                let successors: Vec<_> = self.successors().collect();
                let machines = successors.iter().map(|there| there.machine.clone()).collect();
                let beside = Beside { successors, running: BTreeSet::new() };
                self.ask(now, wall, Question::Running(beside), machines);
            }
            Phase::CleanupPending
                if mutant::on(Mutant::AbortsTheCommitted)
                    && matches!(self.submission, Submission::Abort { .. }) =>
            {
                self.abort(now, wall, cancelled());
            }
            Phase::CleanupPending => self.run_cleanup(now, wall),
            Phase::Aborted | Phase::Committed => unreachable!("final records are not taken"),
        }
    }

    /// What other unfinished operations start once they have stopped something that the undo of this one starts again.
    fn successors(&self) -> impl Iterator<Item = Successor> + '_ {
        let steps = &self.recorded_plan().steps;
        let stopped = steps.iter().filter_map(|step| match &step.undo {
            Some(Action::Start { instance }) => Some(instance),
            _ => None,
        });
        let stopped: BTreeSet<_> = stopped.collect();
        let own = &self.record().id;
        let others = self.facts.unfinished(self.scope()).map(|other| &other.value);
        let replaced = others.filter(|other| other.id != *own).flat_map(replaced);
        replaced.filter(move |successor| {
            stopped.contains(&successor.of) && self.is_there(&successor.machine)
        })
    }

    /// Undoes it. Of two unfinished operations of a namespace one was never begun, and which one that is no record tells: its own landed late, or
    /// came back. What the other one has started runs, so what it stopped for that is not started beside it, wherever in the service that was.
    fn run_undo_beside(&mut self, now: Time, wall: UnixTime, beside: Beside) {
        let Beside { successors, running } = beside;
        let taken = successors.into_iter().filter(|there| running.contains(&there.instance));
        let mut stay = BTreeSet::new();
        for successor in taken.filter(|_| !mutant::on(Mutant::StartsBesideAnother)) {
            let Successor { of, operation, instance, .. } = successor;
            let note = format!(
                "{of} is not started again: {instance} of operation {operation} runs instead"
            );
            if stay.insert(of) {
                self.note(note);
            }
        }
        self.run_undo(now, wall, &stay);
    }
}

/// Why a machine could not answer, if it said so.
pub(super) fn why_not(outcome: &Outcome<CommandReply, BusError>) -> Option<String> {
    match outcome {
        Outcome::Failed(error) => Some(error.to_string()),
        Outcome::Ok(CommandReply::Failed(failure)) => Some(failure.to_string()),
        _ => None,
    }
}

/// What this operation stops, each with everything that it starts after that.
fn replaced(record: &OperationRecord) -> impl Iterator<Item = Successor> + '_ {
    let steps = record.plan.as_ref().map_or(&[][..], |plan| &plan.steps);
    steps.iter().flat_map(move |stop| {
        let of = match &stop.action {
            Action::Stop { instance, .. } => Some(instance),
            _ => None,
        };
        let after = steps.iter().filter(move |step| step.after.contains(&stop.id));
        after.filter_map(move |step| {
            Some(Successor {
                of: of?.clone(),
                operation: record.id.clone(),
                instance: step.action.makes()?.name.clone(),
                machine: step.machine.clone(),
            })
        })
    })
}
