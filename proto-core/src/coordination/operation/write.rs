//! An operation's batches on their way: when one is sent, and what follows when it is stored.

use super::batch::{Batch, Pending, REVISIONS_A_BATCH};
use super::fate::Resolve;
use super::lease::HeldLease;
use super::{
    LEASE_RENEW, Operation, PATIENCE, RESOLVE_PATIENCE, RETRY, Reading, State, StoreOutcome, Tag,
    store_away, store_failed,
};
use crate::Outcome;
use crate::api::{ErrorBody, OperationEvent, OperationResult};
use crate::coordination::record::{Done, OperationRecord, Phase};
use crate::daemon::EffectKind;
use crate::id::{Epoch, InstanceName};
use crate::mutant::{self, Mutant};
use crate::store::facts::{Head, Lease, VERSION};
use crate::store::{Revision, StoreError, StoreReply, StoreRequest, Versioned};
use crate::time::{Time, UnixTime};

impl Operation {
    /// Takes the lease and writes the record, new or adopted.
    pub(super) fn take(&mut self, record: Versioned<OperationRecord>, adopt: bool, wall: UnixTime) {
        self.record = Some(record);
        self.lease = None;
        self.retake(Batch::Take { adopt }, wall);
    }

    /// Gives up: takes a new epoch for the undo, so that nothing delayed can land after it. What was adopted and may have committed
    /// already, as a torn batch can leave the head without the record, is interrupted instead.
    pub(super) fn abort(&mut self, _now: Time, wall: UnixTime, error: ErrorBody) {
        if self.unchecked {
            return self.interrupt(error);
        }
        let record = self.record.as_mut().expect("only what is recorded is aborted");
        let look = format!("ployzctl op show {}", record.value.id);
        record.value.error.get_or_insert(error.or_next(look));
        self.retake(Batch::Abort, wall);
    }

    fn retake(&mut self, what: Batch, wall: UnixTime) {
        let lease = self.fresh_lease(wall);
        let mut record = self.record().clone();
        record.nonce = self.nonce();
        record.epoch = None;
        record.updated = wall;
        if what == Batch::Abort {
            record.phase = Phase::Aborting;
        }
        self.write(Pending { what, record, lease: Some(lease), since: None, lost: 0 });
    }

    /// Every step is done: first what is immutable, then the point of no return.
    pub(super) fn commit(&mut self, wall: UnixTime) {
        let mut record = self.record().clone();
        record.updated = wall;
        self.write(Pending {
            what: Batch::Revisions { from: 0 },
            record,
            lease: None,
            since: None,
            lost: 0,
        });
    }

    fn commit_batch(&mut self, wall: UnixTime) {
        let mut record = self.record().clone();
        record.nonce = self.nonce();
        record.epoch = Some(self.epoch());
        record.updated = wall;
        record.phase = Phase::CleanupPending;
        if let Some(plan) = &mut record.plan {
            plan.commit.commit.at = wall;
        }
        let lease =
            self.lease.as_ref().map(|held| Lease { epoch: Some(held.epoch), ..held.value.clone() });
        self.write(Pending { what: Batch::Commit, record, lease, since: None, lost: 0 });
    }

    /// The head moved to this operation's commit, and only the record does not say so: how things are was just read. A lease that has run
    /// out is taken again, under a new epoch, as others may have had it meanwhile. `lost`: how often this was tried before.
    pub(super) fn landed(&mut self, wall: UnixTime, lost: u32) {
        let held = self.lease.as_ref().filter(|_| self.has_lease());
        let (lease, epoch) = match held {
            Some(held) => {
                let value = Lease { epoch: Some(held.epoch), ..held.value.clone() };
                (value, Some(held.epoch))
            }
            None if self.facts.held_lease().is_some() => {
                let message = "it has committed, and another operation has taken the lease that it needs to clean up";
                return self.interrupt(ErrorBody::new("LEASE_LOST", message));
            }
            None => {
                self.follow_lease();
                (self.fresh_lease(wall), None)
            }
        };
        let mut record = self.record().clone();
        record.nonce = self.nonce();
        record.epoch = epoch;
        record.updated = wall;
        record.phase = Phase::CleanupPending;
        record.error = None;
        self.write(Pending { what: Batch::Landed, record, lease: Some(lease), since: None, lost });
    }

    /// Whether the head is the commit of this plan. Another try of the same operation has planned another one, under the same number, and the
    /// record of this try may have come back since.
    pub(super) fn has_landed(&self) -> bool {
        let record = self.record();
        let planned = record.plan.as_ref().map(|plan| plan.commit.commit.number);
        planned == Some(self.facts.head_number()) && self.has_committed(record)
    }

    /// Whether the head is the commit of this record's plan, or came after it.
    pub(super) fn has_committed(&self, record: &OperationRecord) -> bool {
        let Some(plan) = &record.plan else { return false };
        let planned = &plan.commit.commit;
        // Those above the head are left out when facts are read.
        self.facts.commits.get(&planned.number).is_some_and(|commit| {
            commit.operation == planned.operation && commit.services == planned.services
        })
    }

    /// Whether this operation has committed and the head has moved on since. That its record is open all the same means that it came
    /// back: a store that lost its power may show a key again whose life was over. Nothing of it is to be done a second time.
    pub(super) fn is_history(&self) -> bool {
        let planned = &self.recorded_plan().commit.commit;
        let there = self.facts.commits.get(&planned.number);
        self.facts.head_number() > planned.number
            && there.is_some_and(|commit| commit.operation == planned.operation)
    }

    /// Whether the head has this instance. It is what is served, so neither an undo nor a cleanup takes it away.
    pub(super) fn serves(&self, instance: &InstanceName) -> bool {
        let head = self.facts.commits.get(&self.facts.head_number());
        let removed = self.facts.head.as_ref().is_none_or(|head| head.value.removed);
        let slots = head.into_iter().flat_map(|commit| commit.services.values());
        !removed
            && slots.flat_map(|service| service.slots.values()).any(|i| i.instance == *instance)
    }

    /// Nothing is left to be done.
    pub(super) fn finish(&mut self, phase: Phase, wall: UnixTime) {
        let mut record = self.record().clone();
        record.nonce = self.nonce();
        record.epoch = self.lease.as_ref().map(|held| held.epoch);
        record.updated = wall;
        record.phase = phase;
        record.notes = self.notes.clone();
        record.done = (phase == Phase::Committed).then(|| Done::of(self.recorded_plan()));
        record.request = None;
        record.plan = None;
        let lease = self.lease.as_ref().map(|held| Lease { released: true, ..held.value.clone() });
        self.write(Pending { what: Batch::Finish, record, lease, since: None, lost: 0 });
    }

    /// Sends a batch, as the facts stand now.
    pub(super) fn write(&mut self, pending: Pending) {
        if self.renewing {
            // The renewal moves the revision that this batch expects; its answer wakes this.
            self.state = State::WriteAgain { pending, at: Time::from_nanos(u64::MAX) };
            return;
        }
        let writes = self.writes(&pending);
        if writes.is_empty() {
            let wall = pending.record.updated;
            self.state = State::Writing(pending);
            return self.revisions_written(wall);
        }
        self.state = State::Writing(pending);
        let effect = EffectKind::Store(StoreRequest::Commit { writes });
        self.effects.push_back((Tag::Write, effect));
    }

    pub(super) fn write_done(&mut self, now: Time, wall: UnixTime, outcome: StoreOutcome) {
        let State::Writing(mut pending) = self.take_state() else {
            panic!("a batch was answered that nobody waits for")
        };
        let since = *pending.since.get_or_insert(now);
        match outcome {
            Outcome::Ok(StoreReply::Committed(last)) => self.written(now, wall, pending, last),
            Outcome::Ok(StoreReply::Entries(_)) => panic!("a batch was answered with entries"),
            Outcome::Failed(StoreError::Conflict) => self.read_facts(Reading::Conflict(pending)),
            Outcome::Failed(StoreError::InFlight) if now.since(since) < PATIENCE => {
                self.write_later(now, pending);
            }
            Outcome::Failed(error) => self.write_failed(now, wall, pending, since, &error),
            Outcome::Stale | Outcome::Unknown => {
                if pending.is_commit() && mutant::on(Mutant::UnknownIsFailed) {
                    return self.abort(now, wall, store_away("no answer"));
                }
                if matches!(pending.what, Batch::Revisions { .. }) {
                    // Immutable and named by its content: writing it twice is writing it once.
                    return self.write_later(now, pending);
                }
                self.state = State::Resolving(Resolve {
                    pending,
                    wake_at: None,
                    until: now + RESOLVE_PATIENCE,
                });
                self.mark(now);
            }
        }
    }

    fn write_failed(
        &mut self,
        now: Time,
        wall: UnixTime,
        pending: Pending,
        since: Time,
        error: &StoreError,
    ) {
        let failed = store_failed(error);
        match pending.what {
            // Nothing was changed yet, or nothing of what is already there: whoever comes next adopts it.
            Batch::Take { adopt: false } => self.refuse(failed),
            Batch::Take { adopt: true } => self.interrupt(failed),
            _ if matches!(error, StoreError::Unavailable(_) | StoreError::InFlight)
                && now.since(since) < PATIENCE =>
            {
                self.write_later(now, pending);
            }
            Batch::Revisions { .. } | Batch::Commit => self.abort(now, wall, failed),
            Batch::Abort | Batch::Landed | Batch::Finish => self.interrupt(failed),
        }
    }

    pub(super) fn write_later(&mut self, now: Time, mut pending: Pending) {
        pending.since.get_or_insert(now);
        self.state = State::WriteAgain { pending, at: now + RETRY };
    }

    /// The batch is stored; `last` is the revision of its last write, the record's.
    pub(super) fn written(&mut self, now: Time, wall: UnixTime, pending: Pending, last: Revision) {
        let before = |n: u64| Revision(last.0 - n);
        let head = self.after_head(&pending).map(before);
        if let Batch::Revisions { .. } = pending.what {
            self.state = State::Writing(pending);
            return self.revisions_written(wall);
        }
        let Pending { what, record, lease, .. } = pending;
        let is_new_epoch = lease.as_ref().is_some_and(|lease| lease.epoch.is_none());
        if let Some(value) = lease.filter(|lease| !lease.released) {
            let incarnation = self.facts.cluster.as_ref().map_or(0, |c| c.value.incarnation);
            let revision = before(1);
            let epoch = value.epoch.unwrap_or(Epoch { incarnation, revision: revision.0 });
            self.lease = Some(HeldLease { value, revision, epoch });
            self.renew_at = Some(now + LEASE_RENEW);
        }
        let phase = record.phase;
        self.record = Some(Versioned { revision: last, value: record });
        match what {
            Batch::Take { adopt } => {
                let operation = self.record().id.clone();
                self.events.push_back(OperationEvent::Recorded { operation, adopted: adopt });
                self.barrier(now, wall, adopt);
            }
            Batch::Abort => {
                self.events.push_back(OperationEvent::Phase { phase });
                self.barrier(now, wall, true);
            }
            Batch::Revisions { .. } => unreachable!("handled above"),
            Batch::Commit => {
                self.events.push_back(OperationEvent::Phase { phase });
                self.committed_at(head.expect("the batch of a commit writes the head"));
                self.run_cleanup(now, wall);
            }
            Batch::Landed => {
                self.events.push_back(OperationEvent::Phase { phase });
                if is_new_epoch {
                    self.barrier(now, wall, true);
                } else {
                    self.run_cleanup(now, wall);
                }
            }
            Batch::Finish => {
                self.lease = None;
                if std::mem::take(&mut self.again) && !self.cancelled {
                    return self.plan_again();
                }
                self.events.push_back(OperationEvent::Phase { phase });
                self.finished();
            }
        }
    }

    /// Remembers the head, for the gateways, and for what is done after the commit.
    fn committed_at(&mut self, revision: Revision) {
        let planned = &self.recorded_plan().commit;
        let (commit, removed) = (planned.commit.clone(), planned.removes_namespace);
        let value = Head { v: VERSION, commit: commit.number, removed };
        self.facts.head = Some(Versioned { revision, value });
        // A torn batch may have left another one under this number.
        self.facts.commits.insert(commit.number, commit);
    }

    fn revisions_written(&mut self, wall: UnixTime) {
        let State::Writing(Pending { what: Batch::Revisions { from }, record, .. }) =
            self.take_state()
        else {
            unreachable!("the caller put it there")
        };
        let next = from + REVISIONS_A_BATCH;
        if self.revision_writes(next).is_empty() {
            self.commit_batch(wall);
        } else {
            let what = Batch::Revisions { from: next };
            self.write(Pending { what, record, lease: None, since: None, lost: 0 });
        }
    }

    fn finished(&mut self) {
        let record = self.record();
        let operation = record.id.clone();
        let result = if record.phase == Phase::Committed {
            let commit = self.recorded_plan().commit.commit.number;
            OperationResult::Committed { operation, commit, notes: self.notes.clone() }
        } else {
            let look = format!("ployzctl op show {operation}");
            let fallback = || ErrorBody::new("ABORTED", "the operation was aborted").next(look);
            let error = record.error.clone().unwrap_or_else(fallback);
            OperationResult::Aborted { operation, error }
        };
        self.end(result);
    }
}
