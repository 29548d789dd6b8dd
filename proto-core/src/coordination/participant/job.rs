use std::time::Duration;

use super::Participant;
use super::fence::JournalEntry;
use crate::Outcome;
use crate::coordination::command::{
    Command, CommandBody, CommandReply, MachineObservation, StepFailure,
};
use crate::coordination::plan::Action;
use crate::daemon::{Completion, EffectKind, ReplyToken, RoutesRequest};
use crate::id::{Epoch, InstanceName, OperationId, StepId};
use crate::mutant::{self, Mutant};
use crate::runtime::{InstanceState, ObservedInstance, RuntimeError, RuntimeReply, RuntimeRequest};
use crate::span::Span;
use crate::store::{Revision, Scope};
use crate::time::Time;

/// The least time between two probes, whatever a plan says: one that says "none at all" would keep the daemon busy.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How long an instance without a readiness probe must run to count as ready.
const STILL_RUNNING: Duration = Duration::from_secs(1);
/// How often an instance that was started again is looked at for its exit code, where only its pauses show it.
const CODE_LOOKS: u32 = 20;
/// Between two of these looks.
const CODE_PAUSE: Duration = Duration::from_millis(100);
/// How many of its last log lines a failure carries.
const LOG_TAIL: u32 = 20;
/// How often a change with a lost answer is settled and looked at again before the sender is told that nobody knows.
const MAX_UNKNOWN: u32 = 3;

/// The number of a job, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(super) u64);

/// One command under way, or the settling of a journalled one.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) tokens: Vec<ReplyToken>,
    pub(super) operation: OperationId,
    pub(super) attempt: u32,
    pub(super) scope: Option<Scope>,
    pub(super) epoch: Epoch,
    pub(super) step: Option<StepId>,
    /// The instance that it changes.
    pub(super) instance: Option<InstanceName>,
    pub(super) work: Work,
    /// An effect is under way.
    pub(super) busy: bool,
    /// The answer of a change was lost, and it was not settled since: it may still land.
    pub(super) unsettled: bool,
    /// When its turn came.
    pub(super) started: Option<Time>,
    /// It waits until this version of the fence file is written.
    pub(super) needs_version: Option<u64>,
    pub(super) wake_at: Option<Time>,
    /// How many probes failed after the start period.
    pub(super) probe_failures: u32,
    /// How often an exit code was looked for in vain.
    pub(super) code_looks: u32,
}

/// What a job does, and how far it is.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// Answer what is here.
    Observe {
        namespace: Option<crate::id::Namespace>,
        images: Vec<String>,
        ports: Vec<u16>,
        seen: Vec<ObservedInstance>,
    },
    /// Answer when its turn has come and the floor is written.
    Barrier,
    /// Make it true.
    Perform { action: Action, commit: Option<Revision>, stage: Stage, unknowns: u32 },
    /// Wait until nothing that an earlier daemon issued can land.
    Settle,
}

/// How far a change is.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Waiting for its turn.
    Waiting,
    /// How is the instance now?
    Inspect,
    /// Does another instance have its address?
    CheckAddress,
    /// The change is under way.
    Act,
    /// The change's answer was lost: until it can't land any more.
    Settle,
    /// Is it as wanted?
    Verify,
    /// Probing.
    Probe,
    /// The probe succeeded: does the instance still run, or was it somebody else who answered?
    Confirm,
    /// Its probe failed for good, or it ended: what did it say last?
    Logs { failure: StepFailure },
    /// Gateway and DNS are asked.
    Routes,
}

impl Job {
    pub(super) fn new(token: ReplyToken, command: Command) -> Self {
        let Command { operation, attempt, body, .. } = command;
        let mut job = Self {
            tokens: vec![token],
            operation,
            attempt,
            scope: None,
            epoch: Epoch::default(),
            step: None,
            instance: None,
            work: Work::Barrier,
            busy: false,
            unsettled: false,
            started: None,
            needs_version: None,
            wake_at: None,
            probe_failures: 0,
            code_looks: 0,
        };
        match body {
            CommandBody::Observe { namespace, images, ports } => {
                job.work = Work::Observe { namespace, images, ports, seen: Vec::new() };
            }
            CommandBody::Barrier { scope, epoch } => {
                (job.scope, job.epoch) = (Some(scope), epoch);
            }
            CommandBody::Perform { scope, epoch, step, action, commit } => {
                (job.scope, job.epoch, job.step) = (Some(scope), epoch, Some(step));
                job.instance = action.changes().cloned();
                job.work = Work::Perform { action, commit, stage: Stage::Waiting, unknowns: 0 };
            }
        }
        job
    }

    pub(super) fn settle(entry: JournalEntry) -> Self {
        Self {
            tokens: Vec::new(),
            operation: entry.operation,
            // What it was of was journalled with it.
            attempt: 0,
            scope: Some(entry.scope),
            epoch: entry.epoch,
            step: Some(entry.step),
            instance: Some(entry.instance),
            work: Work::Settle,
            busy: false,
            unsettled: false,
            started: Some(Time::ZERO),
            needs_version: None,
            wake_at: None,
            probe_failures: 0,
            code_looks: 0,
        }
    }

    /// Whether `command` is this job's command, sent again.
    pub(super) fn is_same(&self, command: &Command) -> bool {
        match (&command.body, &self.work) {
            (
                CommandBody::Perform { epoch, step, action: theirs, .. },
                Work::Perform { action, .. },
            ) => {
                *epoch == self.epoch
                    && command.operation == self.operation
                    && Some(step) == self.step.as_ref()
                    && theirs == action
            }
            _ => false,
        }
    }

    /// What the fence file must name while the job is under way.
    pub(super) fn journal_entry(&self) -> Option<JournalEntry> {
        Some(JournalEntry {
            scope: self.scope.clone()?,
            epoch: self.epoch,
            operation: self.operation.clone(),
            step: self.step.clone()?,
            instance: self.instance.clone()?,
        })
    }

    /// Takes note of whether its change may still land, now that an effect of it ended like this.
    pub(super) fn learn(&mut self, completion: &Completion) {
        let (Work::Perform { stage, .. }, Completion::Runtime(outcome)) = (&self.work, completion)
        else {
            return;
        };
        match (stage, outcome) {
            (Stage::Act, Outcome::Unknown | Outcome::Stale) => {
                self.unsettled = !mutant::on(Mutant::FencedNotSettled);
            }
            (Stage::Settle, Outcome::Ok(_)) => self.unsettled = false,
            _ => {}
        }
    }

    /// Whether something of it can still happen.
    pub(super) fn can_still_act(&self) -> bool {
        self.busy || self.instance.is_some()
    }
}

fn done() -> CommandReply {
    CommandReply::Done { note: None, used_by_others: None }
}

fn failed(error: RuntimeError) -> CommandReply {
    CommandReply::Failed(StepFailure::Runtime { error })
}

impl Participant {
    /// The job's turn has come, and what must be remembered is written.
    pub(super) fn begin(&mut self, now: Time, id: JobId) {
        match &mut self.job(id).work {
            Work::Observe { namespace, .. } => {
                let namespace = namespace.clone();
                self.issue(id, EffectKind::Runtime(RuntimeRequest::List { namespace }));
            }
            Work::Barrier => {
                let Job { operation, attempt, .. } = &self.jobs[&id];
                let others = self.fence.used_by_others(operation, *attempt);
                let reply = CommandReply::Done { note: None, used_by_others: Some(others) };
                self.finish(now, id, Some(reply));
            }
            Work::Settle => unreachable!("a settling is issued when it is made"),
            Work::Perform { action: Action::AwaitReady { .. }, .. }
                if mutant::on(Mutant::ReadinessSkipped) =>
            {
                self.finish(now, id, Some(done()));
            }
            Work::Perform { action: Action::AwaitRoutes, commit, stage, .. } => {
                *stage = Stage::Routes;
                let at_least = commit.unwrap_or_default();
                let within = Span::from_secs(5);
                let Some(Scope::Namespace(namespace)) = self.job(id).scope.clone() else {
                    unreachable!("only an operation on a namespace has routes")
                };
                let request = RoutesRequest::Applied { namespace, at_least, within };
                self.issue(id, EffectKind::Routes(request));
            }
            Work::Perform { action: Action::Drain { backends, within }, stage, .. } => {
                *stage = Stage::Routes;
                let request =
                    RoutesRequest::Drained { backends: backends.clone(), within: *within };
                self.issue(id, EffectKind::Routes(request));
            }
            Work::Perform { action: Action::Ensure { spec }, stage, .. }
                if mutant::on(Mutant::StepNotIdempotent) =>
            {
                *stage = Stage::Act;
                let mut spec = spec.clone();
                let fresh = format!("{}-x{}", spec.name, id.0);
                spec.name = InstanceName::new(fresh).expect("a mutant's names are short");
                self.issue(id, EffectKind::Runtime(RuntimeRequest::Create { spec }));
            }
            Work::Perform { .. } => self.inspect(id, Stage::Inspect),
        }
    }

    fn inspect(&mut self, id: JobId, next: Stage) {
        let Work::Perform { action, stage, .. } = &mut self.job(id).work else {
            unreachable!("only a change is inspected for")
        };
        *stage = next;
        let instance = match action {
            Action::AwaitReady { instance, .. } => instance.clone(),
            other => other.changes().expect("begun as a change").clone(),
        };
        self.issue(id, EffectKind::Runtime(RuntimeRequest::Inspect { instance }));
    }

    fn act(&mut self, id: JobId, request: RuntimeRequest) {
        let Work::Perform { stage, .. } = &mut self.job(id).work else {
            unreachable!("only a change acts")
        };
        *stage = Stage::Act;
        self.issue(id, EffectKind::Runtime(request));
    }

    /// Goes on after an effect of the job ended.
    pub(super) fn advance(&mut self, now: Time, id: JobId, completion: Completion) {
        let completion = match completion {
            Completion::Routes(result) => {
                // Whoever does not answer holds up nothing: the answer says so.
                let note = result.unwrap_or_else(Some);
                let reply = CommandReply::Done { note, used_by_others: None };
                return self.finish(now, id, Some(reply));
            }
            Completion::Runtime(outcome) => outcome,
            other => panic!("a job of the participant was answered with {other:?}"),
        };
        if matches!(self.job(id).work, Work::Observe { .. }) {
            return self.observed(now, id, completion);
        }
        let Work::Perform { stage, unknowns, .. } = &mut self.job(id).work else {
            unreachable!("settling and barriers end elsewhere")
        };
        match completion {
            Outcome::Ok(reply) => self.advance_ok(now, id, reply),
            // A runtime has no epochs: whatever it means, nobody knows.
            Outcome::Stale | Outcome::Unknown => {
                *unknowns += 1;
                if *unknowns > MAX_UNKNOWN {
                    return self.finish(now, id, Some(CommandReply::Unknown));
                }
                *stage = Stage::Settle;
                match self.job(id).instance.clone() {
                    Some(instance) => {
                        self.issue(id, EffectKind::Runtime(RuntimeRequest::Settle { instance }));
                    }
                    None => self.inspect(id, Stage::Inspect),
                }
            }
            Outcome::Failed(error) => {
                // The logs are an extra: without them the failure is still told.
                let reply = match std::mem::replace(stage, Stage::Waiting) {
                    Stage::Logs { failure } => CommandReply::Failed(failure),
                    _ => failed(error),
                };
                self.finish(now, id, Some(reply));
            }
        }
    }

    fn advance_ok(&mut self, now: Time, id: JobId, reply: RuntimeReply) {
        let Work::Perform { action, stage, .. } = &mut self.job(id).work else {
            unreachable!("only changes come here")
        };
        match (&mut *stage, reply) {
            (Stage::Settle, _) => self.inspect(id, Stage::Inspect),
            (Stage::Inspect, RuntimeReply::Instance(seen)) => {
                let action = action.clone();
                self.compare(now, id, action, seen);
            }
            (Stage::CheckAddress, RuntimeReply::Instances(all)) => {
                let Action::Ensure { spec } = action else {
                    unreachable!("only a new instance needs an address")
                };
                let spec = spec.clone();
                match self.address_taken(id, &spec, &all) {
                    Some(by) => {
                        let failure = StepFailure::AddressTaken { instance: spec.name, by };
                        self.finish(now, id, Some(CommandReply::Failed(failure)));
                    }
                    None => self.act(id, RuntimeRequest::Create { spec }),
                }
            }
            (Stage::Act, _) if mutant::on(Mutant::StepNotIdempotent) => {
                self.finish(now, id, Some(done()));
            }
            (Stage::Act, _) => self.inspect(id, Stage::Verify),
            (Stage::Verify, RuntimeReply::Instance(seen)) => {
                let action = action.clone();
                self.verify(now, id, action, seen);
            }
            (Stage::Probe, RuntimeReply::Probed(result)) => self.probed(now, id, result),
            (Stage::Confirm, RuntimeReply::Instance(seen)) => {
                self.look_for_ready(now, id, seen, true);
            }
            (Stage::Logs { failure }, RuntimeReply::Logs(lines)) => {
                let mut failure = failure.clone();
                match &mut failure {
                    StepFailure::Exited { logs, .. } | StepFailure::NotReady { logs, .. } => {
                        *logs = lines;
                    }
                    StepFailure::Runtime { .. } | StepFailure::AddressTaken { .. } => {}
                }
                self.finish(now, id, Some(CommandReply::Failed(failure)));
            }
            (stage, reply) => panic!("the runtime answered {reply:?} at stage {stage:?}"),
        }
    }

    fn compare(&mut self, now: Time, id: JobId, action: Action, seen: Option<ObservedInstance>) {
        match action {
            Action::Ensure { spec } => match seen {
                Some(seen) if seen.spec != *spec => {
                    // It has our name, which holds our operation, and is not what the plan wants: make it anew.
                    let instance = spec.name.clone();
                    self.act(id, RuntimeRequest::Remove { instance });
                }
                Some(seen) if seen.state.runs() => self.finish(now, id, Some(done())),
                Some(_) => self.act(id, RuntimeRequest::Start { instance: spec.name }),
                None => {
                    let Work::Perform { stage, .. } = &mut self.job(id).work else {
                        unreachable!("only changes come here")
                    };
                    *stage = Stage::CheckAddress;
                    let list = RuntimeRequest::List { namespace: None };
                    self.issue(id, EffectKind::Runtime(list));
                }
            },
            Action::Start { instance } => match seen {
                None => {
                    let error = RuntimeError::NoSuchInstance { instance };
                    self.finish(now, id, Some(failed(error)));
                }
                Some(seen) if seen.state.runs() => self.finish(now, id, Some(done())),
                Some(_) => self.act(id, RuntimeRequest::Start { instance }),
            },
            Action::Stop { instance, grace } => match seen {
                Some(seen) if seen.state.runs() => {
                    self.act(id, RuntimeRequest::Stop { instance, grace })
                }
                _ => self.finish(now, id, Some(done())),
            },
            Action::Remove { instance, grace } => match seen {
                None => self.finish(now, id, Some(done())),
                Some(seen) if seen.state.runs() => {
                    self.act(id, RuntimeRequest::Stop { instance, grace })
                }
                Some(_) => self.act(id, RuntimeRequest::Remove { instance }),
            },
            Action::AwaitReady { .. } => self.look_for_ready(now, id, seen, false),
            Action::AwaitRoutes | Action::Drain { .. } => unreachable!("not inspected for"),
        }
    }

    fn verify(&mut self, now: Time, id: JobId, action: Action, seen: Option<ObservedInstance>) {
        let reply = match (&action, &seen) {
            // One act of two is done (stop before remove, remove before create): the next look decides.
            (Action::Remove { .. }, Some(_)) | (Action::Ensure { .. }, None) => {
                return self.compare(now, id, action, seen);
            }
            // Whether it stays up is what the readiness step finds out.
            (Action::Ensure { .. }, Some(_)) | (Action::Remove { .. }, None) => done(),
            (Action::Start { .. }, Some(_)) => done(),
            (Action::Start { instance }, None) => {
                failed(RuntimeError::NoSuchInstance { instance: instance.clone() })
            }
            (Action::Stop { instance, .. }, Some(seen)) if seen.state.runs() => {
                failed(RuntimeError::Other { detail: format!("{instance} was stopped and runs") })
            }
            (Action::Stop { .. }, _) => done(),
            _ => unreachable!("not verified"),
        };
        self.finish(now, id, Some(reply));
    }

    fn address_taken(
        &self,
        id: JobId,
        spec: &crate::runtime::InstanceSpec,
        all: &[ObservedInstance],
    ) -> Option<InstanceName> {
        // Also what other jobs are about to make: two of them may both have looked before either created.
        let making = self.jobs.iter().filter(|(other, _)| **other != id).filter_map(|(_, job)| {
            match &job.work {
                Work::Perform { action: Action::Ensure { spec }, stage: Stage::Act, .. } => {
                    Some(spec.as_ref())
                }
                _ => None,
            }
        });
        let made = all.iter().map(|seen| &seen.spec);
        made.chain(making)
            .find(|other| {
                other.name != spec.name && spec.clashes(other.address, other.ports.values())
            })
            .map(|other| other.name.clone())
    }

    /// Ready is what runs, was never started again, and was probed with success before this look.
    fn look_for_ready(
        &mut self,
        now: Time,
        id: JobId,
        seen: Option<ObservedInstance>,
        probed: bool,
    ) {
        let job = self.job(id);
        let started = job.started.unwrap_or(now);
        let Work::Perform { action, stage, .. } = &mut job.work else {
            unreachable!("only changes come here")
        };
        let Action::AwaitReady { instance, address, port, readiness } = action else {
            unreachable!("only readiness looks for it")
        };
        let instance = instance.clone();
        match seen {
            None => {
                let reply = failed(RuntimeError::NoSuchInstance { instance });
                self.finish(now, id, Some(reply));
            }
            Some(seen) if seen.state != InstanceState::Running || seen.restarts > 0 => {
                let code = seen.exit_code();
                let runs = seen.state == InstanceState::Running;
                if code.is_none() && runs && job.code_looks < CODE_LOOKS {
                    job.code_looks += 1;
                    job.wake_at = Some(now + CODE_PAUSE);
                    return;
                }
                let failure = StepFailure::Exited {
                    instance,
                    code,
                    restarts: seen.restarts,
                    logs: Vec::new(),
                };
                self.fail_with_logs(id, failure);
            }
            Some(_) if probed => self.finish(now, id, Some(done())),
            Some(_) => match readiness {
                None if now.since(started) >= STILL_RUNNING => {
                    self.finish(now, id, Some(done()));
                }
                None => job.wake_at = Some(started + STILL_RUNNING),
                Some(readiness) => {
                    *stage = Stage::Probe;
                    let request = RuntimeRequest::Probe {
                        instance,
                        address: *address,
                        probe: readiness.probe.clone(),
                        port: *port,
                        timeout: readiness.timeout,
                    };
                    self.issue(id, EffectKind::Runtime(request));
                }
            },
        }
    }

    fn probed(&mut self, now: Time, id: JobId, result: Result<(), String>) {
        let job = self.job(id);
        let started = job.started.unwrap_or(now);
        let Work::Perform {
            action: Action::AwaitReady { instance, readiness: Some(readiness), .. },
            ..
        } = &mut job.work
        else {
            unreachable!("only a probing job is probed")
        };
        let Err(said) = result else {
            // Whoever else listens there has answered as well, while the instance could not and ended.
            return self.inspect(id, Stage::Confirm);
        };
        if now.since(started) >= readiness.start_period.duration() {
            job.probe_failures += 1;
        }
        if job.probe_failures > readiness.retries {
            let failure =
                StepFailure::NotReady { instance: instance.clone(), probe: said, logs: Vec::new() };
            self.fail_with_logs(id, failure);
        } else {
            // The next look is at the instance first: one that has ended is told at once.
            job.wake_at = Some(now + readiness.interval.duration().max(PROBE_PAUSE));
        }
    }

    fn fail_with_logs(&mut self, id: JobId, failure: StepFailure) {
        let Work::Perform { action: Action::AwaitReady { instance, .. }, stage, .. } =
            &mut self.job(id).work
        else {
            unreachable!("only readiness fails with logs")
        };
        *stage = Stage::Logs { failure };
        let request = RuntimeRequest::Logs { instance: instance.clone(), tail: LOG_TAIL };
        self.issue(id, EffectKind::Runtime(request));
    }

    /// The job's time has come.
    pub(super) fn wake(&mut self, _now: Time, id: JobId) {
        let Work::Perform { action: Action::AwaitReady { instance, .. }, stage, .. } =
            &mut self.job(id).work
        else {
            return;
        };
        let instance = instance.clone();
        *stage = Stage::Inspect;
        self.issue(id, EffectKind::Runtime(RuntimeRequest::Inspect { instance }));
    }

    fn observed(&mut self, now: Time, id: JobId, completion: Outcome<RuntimeReply, RuntimeError>) {
        let (machine, runtime) = (self.machine.clone(), self.runtime.clone());
        let uses = self.fence.used();
        let Work::Observe { images, ports, seen, .. } = &mut self.job(id).work else {
            unreachable!("only an observation is observed")
        };
        let reply = match completion {
            Outcome::Ok(RuntimeReply::Instances(instances)) => {
                *seen = instances;
                let request =
                    RuntimeRequest::Facts { images: images.clone(), ports: ports.clone() };
                return self.issue(id, EffectKind::Runtime(request));
            }
            Outcome::Ok(RuntimeReply::Facts(facts)) => {
                let instances = std::mem::take(seen);
                CommandReply::Observed(MachineObservation {
                    machine,
                    instances,
                    facts,
                    runtime,
                    uses,
                })
            }
            Outcome::Ok(other) => panic!("the runtime answered {other:?} to an observation"),
            Outcome::Failed(error) => failed(error),
            Outcome::Stale | Outcome::Unknown => CommandReply::Unknown,
        };
        self.finish(now, id, Some(reply));
    }
}
