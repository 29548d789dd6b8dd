//! One machine's side of every operation: fence, journal, inspect, act, verify.
//!
//! A command becomes a job. A job that changes an instance goes: wait for its turn → raise the floor and journal,
//! written and synced → inspect → act → inspect again → reply. Three rules keep it safe:
//!
//! * **The fence.** A command whose epoch is below the floor of its scope is refused; a job that is under way when the floor
//!   rises goes no further than the effect that it has issued.
//! * **The barrier.** A command waits until no job of a lower epoch of its scope has an effect under way. After a restart the
//!   journalled instances are settled first: they are jobs too, so everything waits for them by the same rule.
//! * **One at a time.** Jobs on one instance run in the order in which they arrived.
//!
//! Feed it commands, completions and timeouts; drain [`Participant::poll_effect`] after each. At most one effect of a job is
//! under way; its completion comes back with the job's number. Fence files are written one at a time, in order.

mod fence;
mod job;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(crate) use fence::places;
pub use fence::{FenceFile, JournalEntry, User};
pub use job::JobId;
use job::{Job, Work};

use super::command::{Command, CommandBody, CommandReply, StepFailure};
use super::plan::Action;
use crate::Outcome;
use crate::daemon::{Completion, EffectKind, ReplyToken};
use crate::id::{MachineId, OperationId};
use crate::mutant::{self, Mutant};
use crate::runtime::{RuntimeError, RuntimeRequest};
use crate::time::Time;

/// How long a failed settling waits before it is tried again.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// Who an effect of the participant belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A job.
    Job(JobId),
    /// The fence file.
    Fence,
}

/// The participant of one machine. See the module's page.
#[derive(Debug, Clone)]
pub struct Participant {
    machine: MachineId,
    runtime: String,
    fence: FenceFile,
    /// Counts changes of `fence`.
    version: u64,
    /// The version that is being written.
    writing: Option<u64>,
    /// The version that is written and synced.
    written: u64,
    next_job: u64,
    jobs: BTreeMap<JobId, Job>,
    effects: VecDeque<(Owner, Option<OperationId>, EffectKind)>,
}

impl Participant {
    /// A participant that goes on from a fence file. What the file's journal names is settled first.
    #[must_use]
    pub fn new(machine: MachineId, runtime: String, fence: FenceFile) -> Self {
        let mut this = Self {
            machine,
            runtime,
            version: 0,
            writing: None,
            written: 0,
            next_job: 0,
            jobs: BTreeMap::new(),
            effects: VecDeque::new(),
            fence,
        };
        for entry in this.fence.journal.clone() {
            if mutant::on(Mutant::JournalNotSettled) {
                break;
            }
            let job = Job::settle(entry);
            this.insert(job);
        }
        for id in this.jobs.keys().copied().collect::<Vec<_>>() {
            this.settle(id);
        }
        this
    }

    /// Takes a command.
    pub fn command(&mut self, now: Time, token: ReplyToken, command: Command) {
        if let Some(scope) = command.body.scope() {
            let (scope, epoch) = (scope.clone(), command.body.epoch());
            let floor = self.fence.floor(&scope);
            if epoch < floor && !mutant::on(Mutant::NoFence) {
                self.reply(&[token], command.operation, CommandReply::Stale { floor });
                return;
            }
            if self.fence.raise(&scope, epoch) {
                self.version += 1;
                self.stop_fenced(now);
            }
            // The same command again (its answer was lost on the way): one job answers both.
            if let Some(job) = self.jobs.values_mut().find(|job| job.is_same(&command)) {
                job.tokens.push(token);
                return;
            }
        }
        let id = self.insert(Job::new(token, command));
        self.try_start(now, id);
    }

    /// Takes the completion of an effect.
    ///
    /// # Panics
    ///
    /// If the owner has no effect under way: the driver answers each effect once.
    pub fn done(&mut self, now: Time, owner: Owner, completion: Completion) {
        match owner {
            Owner::Fence => {
                let Completion::Persist(result) = completion else {
                    panic!("a fence file was answered with {completion:?}")
                };
                self.fence_written(now, result);
            }
            Owner::Job(id) => {
                let job = self.jobs.get_mut(&id).expect("a job lives until its effect is answered");
                assert!(std::mem::take(&mut job.busy), "job {id:?} has no effect under way");
                job.learn(&completion);
                if matches!(job.work, Work::Settle) {
                    match completion {
                        Completion::Runtime(Outcome::Ok(_)) => self.finish(now, id, None),
                        _ if mutant::on(Mutant::FailedIsSettled) => self.finish(now, id, None),
                        _ => self.job(id).wake_at = Some(now + SETTLE_RETRY),
                    }
                } else if self.is_fenced(id) {
                    self.finish_stale(now, id);
                } else {
                    self.advance(now, id, completion);
                }
            }
        }
    }

    /// Wakes the jobs whose time has come.
    pub fn timeout(&mut self, now: Time) {
        let due: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.wake_at.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.wake_at = None;
            if matches!(job.work, Work::Settle) { self.settle(id) } else { self.wake(now, id) }
        }
    }

    /// The next effect, with its owner and the operation that it serves.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<(Owner, Option<OperationId>, EffectKind)> {
        self.effects.pop_front()
    }

    /// When [`Self::timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.jobs.values().filter_map(|job| job.wake_at).min()
    }

    /// The fence as it is in memory.
    #[must_use]
    pub fn fence(&self) -> &FenceFile {
        &self.fence
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.effects.is_empty() && self.writing.is_none()
    }

    fn insert(&mut self, job: Job) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, job);
        id
    }

    fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("the caller holds the number of a live job")
    }

    fn settle(&mut self, id: JobId) {
        let instance = self.job(id).instance.clone().expect("a settling has an instance");
        self.issue(id, EffectKind::Runtime(RuntimeRequest::Settle { instance }));
    }

    fn issue(&mut self, id: JobId, effect: EffectKind) {
        let job = self.job(id);
        assert!(!std::mem::replace(&mut job.busy, true), "job {id:?} has an effect under way");
        let operation = job.operation.clone();
        self.effects.push_back((Owner::Job(id), Some(operation), effect));
    }

    fn reply(&mut self, tokens: &[ReplyToken], operation: OperationId, reply: CommandReply) {
        for &token in tokens {
            let reply = Box::new(reply.clone());
            // A reply has no completion; its owner is not asked for.
            let effect = EffectKind::Reply { token, reply };
            self.effects.push_back((Owner::Fence, Some(operation.clone()), effect));
        }
    }

    /// Whether a job that arrived earlier must end first.
    fn is_blocked(&self, id: JobId) -> bool {
        let job = &self.jobs[&id];
        let Some(scope) = &job.scope else { return false };
        self.jobs.range(..id).any(|(_, earlier)| {
            let lower = earlier.scope.as_ref() == Some(scope) && earlier.epoch < job.epoch;
            let same_instance = earlier.instance.is_some() && earlier.instance == job.instance;
            (lower || same_instance) && earlier.can_still_act()
        })
    }

    fn try_start(&mut self, now: Time, id: JobId) {
        if self.is_blocked(id) {
            return;
        }
        let job = self.job(id);
        job.started = Some(now);
        let needs_journal = job.journal_entry();
        let fenced = job.scope.is_some();
        if let Some(entry) = needs_journal
            && !self.fence.journal.contains(&entry)
        {
            self.fence.journal.push(entry);
            let Job { operation, attempt, work, .. } = &self.jobs[&id];
            match work {
                Work::Perform { action: Action::Ensure { spec }, .. } => {
                    self.fence.made(spec, operation, *attempt);
                }
                Work::Perform { action: Action::Remove { instance, .. }, .. } => {
                    self.fence.given_up(instance, operation, *attempt);
                }
                _ => {}
            }
            self.version += 1;
        }
        let acts_early = mutant::on(Mutant::ActsBeforePersist);
        if fenced && self.written < self.version && !acts_early {
            let version = self.version;
            self.job(id).needs_version = Some(version);
            self.write_fence();
        } else {
            self.begin(now, id);
        }
    }

    fn write_fence(&mut self) {
        if self.writing.is_none() {
            self.writing = Some(self.version);
            let effect = EffectKind::Persist(self.fence.clone());
            let operation = self.jobs.values().find(|j| j.needs_version.is_some());
            let operation = operation.map(|job| job.operation.clone());
            self.effects.push_back((Owner::Fence, operation, effect));
        }
    }

    fn fence_written(&mut self, now: Time, result: Result<(), String>) {
        let version = self.writing.take().expect("a fence file is being written");
        let waiting = |job: &Job| job.needs_version.is_some_and(|needs| needs <= version);
        let ids: Vec<_> =
            self.jobs.iter().filter(|(_, job)| waiting(job)).map(|(id, _)| *id).collect();
        let result = if mutant::on(Mutant::RefusedFileWritten) { Ok(()) } else { result };
        if result.is_ok() {
            self.written = version;
        }
        for id in ids {
            self.job(id).needs_version = None;
            match &result {
                Ok(()) if self.is_fenced(id) => self.finish_stale(now, id),
                Ok(()) => self.begin(now, id),
                Err(detail) => {
                    let error = RuntimeError::DiskFull {
                        detail: format!("the fence file cannot be written: {detail}"),
                    };
                    let reply = CommandReply::Failed(StepFailure::Runtime { error });
                    self.finish(now, id, Some(reply));
                }
            }
        }
        if self.jobs.values().any(|job| job.needs_version.is_some()) {
            self.write_fence();
        }
    }

    fn is_fenced(&self, id: JobId) -> bool {
        let job = &self.jobs[&id];
        let below = |scope| job.epoch < self.fence.floor(scope);
        job.scope.as_ref().is_some_and(below) && !mutant::on(Mutant::NoFence)
    }

    /// Ends every job below its floor that has no effect under way; the others end with their effect.
    fn stop_fenced(&mut self, now: Time) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            let Some(job) = self.jobs.get(&id) else { continue };
            if !job.busy && !matches!(job.work, Work::Settle) && self.is_fenced(id) {
                self.finish_stale(now, id);
            }
        }
    }

    fn finish_stale(&mut self, now: Time, id: JobId) {
        let job = &self.jobs[&id];
        let floor = job.scope.as_ref().map_or_else(Default::default, |s| self.fence.floor(s));
        self.finish(now, id, Some(CommandReply::Stale { floor }));
    }

    /// Ends a job, answers whoever waits for it, and lets those start that waited for it to end.
    ///
    /// One whose change may still land is answered, and goes on as a settling: whoever waits behind it waits for that too.
    fn finish(&mut self, now: Time, id: JobId, reply: Option<CommandReply>) {
        let job = self.job(id);
        if std::mem::take(&mut job.unsettled) {
            (job.work, job.wake_at) = (Work::Settle, None);
            let (tokens, operation) = (std::mem::take(&mut job.tokens), job.operation.clone());
            if let Some(reply) = reply {
                self.reply(&tokens, operation, reply);
            }
            return self.settle(id);
        }
        let job = self.jobs.remove(&id).expect("a job ends once");
        if let Some(entry) = job.journal_entry()
            && !mutant::on(Mutant::JournalGrows)
        {
            // Written with the next change: a journal that names too much is only settled for nothing.
            self.fence.journal.retain(|other| *other != entry);
        }
        if let Some(reply) = reply {
            self.reply(&job.tokens, job.operation, reply);
        }
        let waiting: Vec<_> =
            self.jobs.iter().filter(|(_, job)| job.started.is_none()).map(|(id, _)| *id).collect();
        for id in waiting {
            if self.jobs.contains_key(&id) && self.jobs[&id].started.is_none() {
                self.try_start(now, id);
            }
        }
    }
}

impl CommandBody {
    fn scope(&self) -> Option<&crate::store::Scope> {
        match self {
            Self::Observe { .. } => None,
            Self::Barrier { scope, .. } | Self::Perform { scope, .. } => Some(scope),
        }
    }

    fn epoch(&self) -> crate::id::Epoch {
        match self {
            Self::Observe { .. } => crate::id::Epoch::default(),
            Self::Barrier { epoch, .. } | Self::Perform { epoch, .. } => *epoch,
        }
    }
}

#[cfg(test)]
mod tests;
