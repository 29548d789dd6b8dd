use std::time::Duration;

use super::super::{Operation, Tag};
use super::given::{Given, machine};
use crate::Outcome;
use crate::api::{OperationEvent, OperationResult, StepStatus, Submission};
use crate::coordination::command::{BusError, CommandBody, CommandReply, StepFailure};
use crate::coordination::plan::Plan;
use crate::daemon::{Completion, EffectKind};
use crate::id::OperationId;
use crate::store::{Entry, Revision, StoreError, StoreReply, StoreRequest, Write};
use crate::time::{Time, UnixTime};

/// An operation, the effects that wait for an answer, and what its reads are answered with: nothing but what the test put there.
pub(super) struct Bench {
    pub(super) op: Operation,
    pub(super) now: Time,
    pub(super) given: Given,
    out: Vec<(Tag, EffectKind)>,
    events: Vec<OperationEvent>,
    id: Option<OperationId>,
}

impl Given {
    /// Begins an operation on machine m1.
    pub(super) fn begin(self, submission: Submission) -> Bench {
        self.begin_on("m1", submission)
    }

    pub(super) fn begin_on(self, me: &str, submission: Submission) -> Bench {
        let op = Operation::new(machine(me), 7, submission);
        let (out, events) = (Vec::new(), Vec::new());
        let mut bench = Bench { op, now: Time::ZERO, given: self, out, events, id: None };
        bench.drain();
        bench
    }
}

impl Bench {
    fn wall(&self) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + self.now.as_nanos() / 1_000_000)
    }

    fn drain(&mut self) {
        while let Some(effect) = self.op.poll_effect() {
            self.out.push(effect);
        }
        while let Some(event) = self.op.poll_event() {
            if let OperationEvent::Recorded { operation, .. } = &event {
                self.id = Some(operation.clone());
            }
            self.events.push(event);
        }
        self.id = self.op.id().cloned().or(self.id.take());
    }

    fn done(&mut self, tag: Tag, completion: Completion) {
        self.op.done(self.now, self.wall(), tag, completion);
        self.drain();
    }

    fn take(&mut self, wanted: impl Fn(&Tag) -> bool) -> (Tag, EffectKind) {
        let at = self.out.iter().position(|(tag, _)| wanted(tag));
        let at = at.unwrap_or_else(|| panic!("not among what is out: {:?}", self.out()));
        self.out.remove(at)
    }

    /// The id of the operation.
    pub(super) fn id(&self) -> OperationId {
        self.id.clone().expect("planned")
    }

    /// The plan as it was announced.
    pub(super) fn plan(&self) -> Plan {
        let plan = self.events.iter().find_map(|event| match event {
            OperationEvent::Planned { plan, .. } => Some((**plan).clone()),
            _ => None,
        });
        plan.expect("planned")
    }

    /// Names of operations are digests: `ID` and `new` stand for this one's, `old` for that of commit 1.
    fn short(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(id) = &self.id {
            text = text.replace(id.as_str(), "ID").replace(id.short(), "new");
        }
        match &self.given.old {
            Some(old) => text.replace(old.short(), "old"),
            None => text,
        }
    }

    /// The effects that wait for an answer, in the order in which they came out.
    pub(super) fn out(&self) -> Vec<String> {
        let label = |(tag, effect): &(Tag, EffectKind)| match (tag, effect) {
            (Tag::Read, EffectKind::Store(StoreRequest::Read { prefixes })) => {
                format!("read {} prefixes", prefixes.len())
            }
            (tag, EffectKind::Store(StoreRequest::Commit { writes })) => {
                let tag = format!("{tag:?}").to_lowercase();
                format!("{tag}: {}", self.shape(writes).join(", "))
            }
            (_, EffectKind::Send { to, command }) => match &command.body {
                CommandBody::Observe { .. } => format!("observe {to}"),
                CommandBody::Barrier { epoch, .. } => format!("barrier {to} @{}", epoch.revision),
                CommandBody::Perform { epoch, step, commit, .. } => {
                    let commit = commit.map_or(String::new(), |at| format!(" commit {at}"));
                    self.short(&format!("{step} {to} @{}{commit}", epoch.revision))
                }
            },
            other => panic!("an operation has no such effect: {other:?}"),
        };
        self.out.iter().map(label).collect()
    }

    /// Each write as its key and the revision that it expects.
    pub(super) fn shape(&self, writes: &[Write]) -> Vec<String> {
        let shape = |write: &Write| {
            let expect = write.expect.map_or("any".to_owned(), |revision| revision.to_string());
            self.short(&format!("{} {expect}", write.key))
        };
        writes.iter().map(shape).collect()
    }

    /// What was said since the last time.
    pub(super) fn said(&mut self) -> Vec<String> {
        let events = std::mem::take(&mut self.events);
        let label = |event: &OperationEvent| match event {
            OperationEvent::Observing => "observing".to_owned(),
            OperationEvent::Planned { .. } => "planned".to_owned(),
            OperationEvent::Recorded { adopted: false, .. } => "recorded".to_owned(),
            OperationEvent::Recorded { adopted: true, .. } => "adopted".to_owned(),
            OperationEvent::Step { step, status, .. } => match status {
                StepStatus::Started => format!("{step} started"),
                StepStatus::Done => format!("{step} done"),
                StepStatus::Retrying => format!("{step} retrying"),
                StepStatus::Failed { error } => format!("{step} failed {}", error.code),
            },
            OperationEvent::Phase { phase } => format!("phase {phase}"),
            OperationEvent::Note { text } => format!("note: {text}"),
            OperationEvent::Finished { result } => {
                let code = result.error().map_or(String::new(), |e| format!(" {}", e.code));
                format!("exit {}{code}", result.exit_code())
            }
        };
        events.iter().map(|event| self.short(&label(event))).collect()
    }

    /// How it ended; it has nothing more to say or do.
    pub(super) fn result(&self) -> &OperationResult {
        assert!(self.op.is_finished());
        assert_eq!(self.op.poll_timeout(), None);
        match self.events.last() {
            Some(OperationEvent::Finished { result }) => result,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// Answers the read that is out with what is there below its prefixes.
    pub(super) fn read(&mut self) {
        let (tag, effect) = self.take(|tag| *tag == Tag::Read);
        let EffectKind::Store(StoreRequest::Read { prefixes }) = effect else { unreachable!() };
        let wanted = |entry: &&Entry| prefixes.iter().any(|prefix| entry.key.is_under(prefix));
        let entries = self.given.entries.values().filter(wanted).cloned().collect();
        self.done(tag, Completion::Store(Outcome::Ok(StoreReply::Entries(entries))));
    }

    /// The read that is out gets no answer.
    pub(super) fn lose_read(&mut self) {
        let (tag, _) = self.take(|tag| *tag == Tag::Read);
        self.done(tag, Completion::Store(Outcome::Unknown));
    }

    /// The writes of the batch that is out.
    pub(super) fn batch(&self) -> Vec<Write> {
        let batches = self.out.iter().filter_map(|(tag, effect)| match (tag, effect) {
            (Tag::Write | Tag::Mark, EffectKind::Store(StoreRequest::Commit { writes })) => {
                Some(writes.clone())
            }
            _ => None,
        });
        let batches: Vec<_> = batches.collect();
        assert_eq!(batches.len(), 1, "one batch at a time: {:?}", self.out());
        batches.into_iter().next().unwrap()
    }

    /// The first `count` writes of the batch that is out are there from now on, as if the last of all had got this revision.
    pub(super) fn keep(&mut self, count: usize, last: u64) {
        let writes = self.batch();
        let first = last + 1 - writes.len() as u64;
        for (n, write) in writes.into_iter().enumerate().take(count) {
            self.given.put(write.key, first + n as u64, &write.value);
        }
    }

    /// The store takes the batch that is out: its last write gets this revision.
    pub(super) fn accept(&mut self, last: u64) {
        self.keep(usize::MAX, last);
        self.stored(Outcome::Ok(StoreReply::Committed(Revision(last))));
    }

    /// The batch that is out gets no answer.
    pub(super) fn lose(&mut self) {
        self.stored(Outcome::Unknown);
    }

    /// Something that the batch expects is not so.
    pub(super) fn conflict(&mut self) {
        self.stored(Outcome::Failed(StoreError::Conflict));
    }

    pub(super) fn stored(&mut self, outcome: Outcome<StoreReply, StoreError>) {
        let (tag, _) = self.take(|tag| matches!(tag, Tag::Write | Tag::Mark | Tag::Renew));
        self.done(tag, Completion::Store(outcome));
    }

    /// The command whose label begins like this is answered.
    pub(super) fn answer(&mut self, begin: &str, outcome: Outcome<CommandReply, BusError>) {
        let at = self.out().iter().position(|label| label.starts_with(begin));
        let at = at.unwrap_or_else(|| panic!("no {begin} among {:?}", self.out()));
        let (tag, _) = self.out.remove(at);
        self.done(tag, Completion::Send(outcome));
    }

    pub(super) fn ok(&mut self, begin: &str) {
        self.answer(begin, Outcome::Ok(CommandReply::Done { note: None, used_by_others: None }));
    }

    pub(super) fn fail(&mut self, begin: &str, failure: StepFailure) {
        self.answer(begin, Outcome::Ok(CommandReply::Failed(failure)));
    }

    /// Every command is done, until something else than commands is out. Returns the order in which they came out.
    pub(super) fn all_ok(&mut self) -> Vec<String> {
        let mut order = Vec::new();
        let says_done = |(tag, effect): &(Tag, EffectKind)| {
            matches!(tag, Tag::Asked(..) | Tag::Step(..)) && !looks(effect)
        };
        while self.out.first().is_some_and(says_done) {
            let label = self.out().remove(0);
            self.ok(&label);
            order.push(label);
        }
        order
    }

    pub(super) fn all_barriers(&mut self) {
        while self.out().iter().any(|label| label.starts_with("barrier")) {
            self.ok("barrier");
        }
    }

    pub(super) fn observed(&mut self) {
        while let Some((Tag::Observe(machine) | Tag::Asked(machine, _), effect)) = self.out.first()
            && looks(effect)
        {
            let seen = self.given.seen[machine].clone();
            self.answer("observe", Outcome::Ok(CommandReply::Observed(seen)));
        }
    }

    pub(super) fn tick(&mut self, by: Duration) {
        self.now = self.now + by;
        self.op.timeout(self.now, self.wall());
        self.drain();
    }

    pub(super) fn cancel(&mut self) {
        self.op.cancel(self.now, self.wall());
        self.drain();
    }

    pub(super) fn abort_too(&mut self) {
        self.op.abort_too(self.now, self.wall());
        self.drain();
    }

    pub(super) fn shutdown(&mut self) {
        self.op.shutdown();
        self.drain();
    }

    /// Up to the batch that takes lease and record.
    pub(super) fn up_to_take(mut self) -> Self {
        self.read();
        self.observed();
        self
    }

    /// Up to the first steps: lease at 99, record at 100, so the epoch is 99.
    pub(super) fn up_to_steps(mut self) -> Self {
        self = self.up_to_take();
        self.accept(100);
        self.all_ok();
        self.read();
        self
    }

    /// Up to the commit batch.
    pub(super) fn up_to_commit(mut self) -> Self {
        self = self.up_to_steps();
        self.all_ok();
        self.accept(110);
        self
    }

    /// Up to the first steps after the commit, whose record got 120.
    pub(super) fn up_to_cleanup(mut self) -> Self {
        self = self.up_to_commit();
        self.accept(120);
        self
    }
}

/// Whether it only asks a machine how it is.
fn looks(effect: &EffectKind) -> bool {
    matches!(effect, EffectKind::Send { command, .. } if matches!(command.body, CommandBody::Observe { .. }))
}
