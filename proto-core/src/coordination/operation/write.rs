//! Batches: what they hold, and what becomes of them when they are refused or lost.

use super::lease::HeldLease;
use super::{
    LEASE_RENEW, Operation, PATIENCE, RESOLVE_PATIENCE, RETRY, Reading, State, StoreOutcome, Tag,
    store_away, store_failed,
};
use crate::Outcome;
use crate::api::{ErrorBody, OperationEvent, OperationResult};
use crate::coordination::record::{OperationRecord, Phase};
use crate::daemon::EffectKind;
use crate::id::{Epoch, InstanceName};
use crate::mutant::{self, Mutant};
use crate::span::Span;
use crate::store::facts::{
    Claim, Head, InstanceFact, InstanceLifecycle, Lease, ServiceRevision, VERSION,
};
use crate::store::{
    Facts, Key, Revision, Scope, StoreError, StoreReply, StoreRequest, Versioned, Write,
};
use crate::time::{Time, UnixTime};

/// How long the record of a finished operation is kept.
const RECORD_TTL: Span = Span::from_secs(7 * 24 * 3600);
/// How long the mark lives that keeps a lost batch from landing where no record was.
const MARK_TTL: Span = Span::from_secs(3600);
/// How long a released claim or lease is still there to be read.
const RELEASED_TTL: Span = Span::from_secs(1);
/// How long the addresses of a removed namespace are left alone.
const ADDRESSES_TTL: Span = Span::from_secs(3600);
/// How many revisions are written in one batch.
const REVISIONS_A_BATCH: usize = 200;
/// The most lifecycle facts in the batch that ends an operation: the store takes 900 writes, two are lease and record.
const FACTS_A_BATCH: usize = 898;

/// A batch that is on its way.
#[derive(Debug)]
pub(super) struct Pending {
    what: Batch,
    /// The record as this batch writes it (as it stands already, for revisions).
    record: OperationRecord,
    /// The lease as this batch writes it, if it takes or rewrites it.
    lease: Option<Lease>,
    /// Since when it is tried.
    since: Option<Time>,
    /// How often it was found not to have landed.
    lost: u32,
}

/// What a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// Takes the lease and writes the record. `adopt`: of an operation that somebody left behind.
    Take { adopt: bool },
    /// The same for one's own operation that will not commit.
    Abort,
    /// Revisions of services, from this one on.
    Revisions { from: usize },
    /// The point of no return.
    Commit,
    /// The head is this operation's, and its record does not say so yet: a store that lost its power in the middle of the commit
    /// batch may come back with the first of its writes. Head and claims are there; the record follows.
    Landed,
    /// The end: lifecycle facts, the lease released, the record final.
    Finish,
}

/// A batch whose acknowledgement was lost, until a competing write decides what became of it.
#[derive(Debug)]
pub(super) struct Resolve {
    pub(super) pending: Pending,
    /// When the mark is written again; `None` while it is under way.
    pub(super) wake_at: Option<Time>,
    until: Time,
}

impl Pending {
    pub(super) fn is_commit(&self) -> bool {
        self.what == Batch::Commit
    }
}

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

    /// The head moved to this operation's commit, and only the record does not say so.
    pub(super) fn landed(&mut self, wall: UnixTime) {
        let mut record = self.record().clone();
        record.nonce = self.nonce();
        record.epoch = Some(self.epoch());
        record.updated = wall;
        record.phase = Phase::CleanupPending;
        record.error = None;
        let lease =
            self.lease.as_ref().map(|held| Lease { epoch: Some(held.epoch), ..held.value.clone() });
        self.write(Pending { what: Batch::Landed, record, lease, since: None, lost: 0 });
    }

    /// Whether the head is the commit of this operation.
    pub(super) fn has_landed(&self) -> bool {
        let planned = &self.recorded_plan().commit.commit;
        let head = self.facts.commits.get(&planned.number);
        self.facts.head_number() == planned.number
            && head.is_some_and(|commit| commit.operation == planned.operation)
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

    fn writes(&self, pending: &Pending) -> Vec<Write> {
        let json =
            |value: &OperationRecord| serde_json::to_value(value).expect("facts are plain JSON");
        let own = self.record.as_ref().expect("batches are of a recorded operation");
        let record_write = Write {
            key: Key::operation(&pending.record.id),
            value: json(&pending.record),
            expect: Some(own.revision),
            ttl: pending.record.phase.is_final().then_some(RECORD_TTL),
        };
        let lease_expect = match &self.lease {
            Some(held) => held.revision,
            None => self.facts.lease.as_ref().map_or(Revision::ABSENT, |lease| lease.revision),
        };
        let lease_write = pending.lease.as_ref().map(|lease| {
            let mut write = self.lease_write(lease, lease_expect);
            if lease.released {
                write.ttl = Some(RELEASED_TTL);
            }
            write
        });
        match pending.what {
            Batch::Take { .. } | Batch::Abort => {
                lease_write.into_iter().chain([record_write]).collect()
            }
            Batch::Landed => {
                let (_, mut writes) = self.commit_writes(&pending.record);
                writes.extend(lease_write);
                writes.push(record_write);
                writes
            }
            Batch::Revisions { from } => self.revision_writes(from),
            Batch::Commit => {
                let (mut writes, rest) = self.commit_writes(&pending.record);
                writes.extend(rest);
                if !mutant::on(Mutant::LeaseNotInCommit) {
                    writes.extend(lease_write);
                    writes.push(record_write);
                } else {
                    writes.push(Write { expect: None, ..record_write });
                }
                writes
            }
            Batch::Finish => {
                let mut writes = match pending.record.phase {
                    Phase::Committed if self.is_history() => Vec::new(),
                    Phase::Committed => self.instance_writes(pending.record.updated),
                    _ => self.given_up(),
                };
                writes.extend(lease_write);
                writes.push(record_write);
                writes
            }
        }
    }

    fn revision_writes(&self, from: usize) -> Vec<Write> {
        let Scope::Namespace(namespace) = self.scope();
        let missing = self.recorded_plan().commit.revisions.iter();
        missing
            .filter(|(digest, _)| !self.facts.revisions.contains_key(*digest))
            .skip(from)
            .take(REVISIONS_A_BATCH)
            .map(|(digest, spec)| {
                let revision = ServiceRevision { v: VERSION, spec: spec.clone() };
                Write {
                    key: Key::revision(namespace, digest),
                    value: serde_json::to_value(&revision).expect("facts are plain JSON"),
                    expect: None,
                    ttl: None,
                }
            })
            .collect()
    }

    /// The writes of the commit up to the head, and those after it. What must not be there without the head follows it, so that what
    /// a torn batch left can be told: before the head nothing of it counts, from the head on the rest is written again.
    fn commit_writes(&self, record: &OperationRecord) -> (Vec<Write>, Vec<Write>) {
        let Scope::Namespace(namespace) = self.scope();
        let planned = &record.plan.as_ref().expect("a plan until it is final").commit;
        let claim = |key: &Key, value: &Claim| {
            let there = self.facts.claims.get(key);
            let same = there.is_some_and(|there| there.value == *value);
            // What another namespace took since the plan was made is not written over: the store refuses the batch.
            let ours = there.filter(|there| !is_taken(there, namespace));
            let expect = ours.map_or(Revision::ABSENT, |there| there.revision);
            let ttl = value.released.then_some(RELEASED_TTL);
            let value = serde_json::to_value(value).expect("facts are plain JSON");
            (!same).then(|| Write { key: key.clone(), value, expect: Some(expect), ttl })
        };
        let released = planned.releases.iter().filter_map(|key| {
            let there = self.facts.claims.get(key)?;
            let mine = there.value.namespace == *namespace && !there.value.released;
            mine.then(|| Claim { released: true, ..there.value.clone() })
                .and_then(|value| claim(key, &value))
        });
        let claims = planned.claims.iter().filter_map(|(key, value)| claim(key, value));
        let head =
            Head { v: VERSION, commit: planned.commit.number, removed: planned.removes_namespace };
        let expect = self.facts.head.as_ref().map_or(Revision::ABSENT, |head| head.revision);
        let expect = (!mutant::on(Mutant::HeadWithoutCas)).then_some(expect);
        let commit = Write {
            key: Key::commit(namespace, planned.commit.number),
            value: serde_json::to_value(&planned.commit).expect("facts are plain JSON"),
            // Guarded by the head in the same batch. A commit without its head is what a store that lost its power in the middle of a
            // batch may have kept; nothing ever served it.
            expect: None,
            ttl: None,
        };
        let head = Write {
            key: Key::head(namespace),
            value: serde_json::to_value(&head).expect("facts are plain JSON"),
            expect,
            ttl: None,
        };
        let key = Key::allocation(namespace);
        let there = self.facts.allocations.get(namespace);
        let allocation =
            (there.map(|there| &there.value) != Some(&planned.allocation)).then(|| Write {
                key,
                value: serde_json::to_value(&planned.allocation).expect("facts are plain JSON"),
                expect: Some(there.map_or(Revision::ABSENT, |there| there.revision)),
                ttl: planned.removes_namespace.then_some(ADDRESSES_TTL),
            });
        let up_to_head = std::iter::once(commit).chain(claims).chain([head]).collect();
        (up_to_head, released.chain(allocation).collect())
    }

    /// An operation that aborts gives up what it claimed, if a torn batch has kept it.
    fn given_up(&self) -> Vec<Write> {
        let Scope::Namespace(namespace) = self.scope();
        let gains = self.recorded_plan().commit.gains.iter();
        let gains = gains.filter(|_| !mutant::on(Mutant::AbortKeepsClaims));
        let kept = gains.filter_map(|key| {
            let there = self.facts.claims.get(key)?;
            let mine = there.value.namespace == *namespace && !there.value.released;
            mine.then_some((key, there))
        });
        kept.map(|(key, there)| {
            let value = Claim { released: true, ..there.value.clone() };
            Write {
                key: key.clone(),
                value: serde_json::to_value(&value).expect("facts are plain JSON"),
                expect: Some(there.revision),
                ttl: Some(RELEASED_TTL),
            }
        })
        .collect()
    }

    /// What the operation did to each slot that it changed.
    fn instance_writes(&self, at: UnixTime) -> Vec<Write> {
        let Scope::Namespace(namespace) = self.scope();
        let plan = self.recorded_plan();
        let old = self.facts.commits.get(&plan.baseline.head);
        let slots = |commit: &crate::store::facts::Commit| {
            let services = commit.services.clone().into_iter();
            services
                .flat_map(|(service, committed)| {
                    let slots = committed.slots.into_iter();
                    slots.map(move |(slot, instance)| ((service.clone(), slot), instance))
                })
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let new = slots(&plan.commit.commit);
        let old = old.map(slots).unwrap_or_default();
        let started = new.iter().filter(|(_, i)| i.operation == plan.operation);
        let started = started.map(|(key, instance)| (key, instance, InstanceLifecycle::Started));
        let removed = old.iter().filter(|(key, _)| !new.contains_key(*key));
        let removed = removed.map(|(key, instance)| (key, instance, InstanceLifecycle::Removed));
        let fact = |((service, slot), instance, lifecycle): (
            &(crate::id::ServiceName, u32),
            &crate::store::facts::CommittedInstance,
            InstanceLifecycle,
        )| {
            let fact = InstanceFact {
                v: VERSION,
                lifecycle,
                machine: instance.machine.clone(),
                instance: instance.instance.clone(),
                operation: plan.operation.clone(),
                at,
            };
            let gone = lifecycle == InstanceLifecycle::Removed;
            Write {
                key: Key::instance(namespace, service, *slot),
                value: serde_json::to_value(&fact).expect("facts are plain JSON"),
                expect: None,
                ttl: gone.then_some(RECORD_TTL),
            }
        };
        // No planner makes more; a plan that came from elsewhere must not fail at its end, and the commit tells what these do.
        started.chain(removed).map(fact).take(FACTS_A_BATCH).collect()
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

    pub(super) fn resolve_later(&mut self, now: Time, pending: Pending) {
        self.state = State::Resolving(Resolve {
            pending,
            wake_at: Some(now + RETRY),
            until: now + RESOLVE_PATIENCE,
        });
    }

    /// The batch is stored; `last` is the revision of its last write, the record's.
    fn written(&mut self, now: Time, wall: UnixTime, pending: Pending, last: Revision) {
        let before = |n: u64| Revision(last.0 - n);
        let head = self.after_head(&pending).map(before);
        if let Batch::Revisions { .. } = pending.what {
            self.state = State::Writing(pending);
            return self.revisions_written(wall);
        }
        let Pending { what, record, lease, .. } = pending;
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
                self.run_cleanup(now, wall);
            }
            Batch::Finish => {
                self.lease = None;
                self.events.push_back(OperationEvent::Phase { phase });
                self.finished();
            }
        }
    }

    /// How many writes of this batch follow that of the head, if it has one.
    fn after_head(&self, pending: &Pending) -> Option<u64> {
        if !pending.is_commit() {
            return None;
        }
        let Scope::Namespace(namespace) = self.scope();
        let key = Key::head(namespace);
        let writes = self.writes(pending);
        writes.iter().rev().position(|write| write.key == key).map(|after| after as u64)
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

    /// A batch was refused because something moved; this is how things are now.
    pub(super) fn conflict_read(
        &mut self,
        now: Time,
        wall: UnixTime,
        pending: Pending,
        facts: Facts,
    ) {
        if let Batch::Take { .. } = pending.what {
            return self.lost_race();
        }
        let own = self.record.as_ref().expect("batches are of a recorded operation");
        let there = facts.operations.get(&own.value.id);
        if there.map(|there| there.revision) != Some(own.revision) {
            let by = there
                .map_or_else(String::new, |op| format!(" by machine {}", op.value.coordinator));
            let message = format!("the operation was adopted{by} while it ran here");
            return self.interrupt(ErrorBody::new("ADOPTED_ELSEWHERE", message));
        }
        // The record is still ours, so nobody adopted it. The lease may have expired, or a renewal whose answer was lost has landed.
        let held = self.lease.as_ref().map(|held| (held.revision, held.value.nonce.clone()));
        let now_there = facts.lease.as_ref().map(|l| (l.revision, l.value.nonce.clone()));
        let still_ours = matches!((&held, &now_there), (Some((_, a)), Some((_, b))) if a == b);
        self.facts = facts;
        if pending.is_commit() && self.has_landed() {
            self.follow_lease();
            return self.landed(wall);
        }
        match (pending.what, still_ours) {
            // What only ran out, as a claim that had been given up does, is expected as it is now.
            (Batch::Commit, true) if pending.lost < 3 && self.what_moved().is_none() => {
                self.follow_lease();
                let lost = pending.lost + 1;
                self.write(Pending { lost, ..pending });
            }
            (Batch::Commit | Batch::Revisions { .. }, _) => {
                let error = if still_ours {
                    self.what_moved().unwrap_or_else(contended)
                } else {
                    ErrorBody::new(
                        "LEASE_LOST",
                        "the lease of the operation expired before the commit",
                    )
                };
                self.follow_lease();
                self.abort(now, wall, error);
            }
            (Batch::Abort | Batch::Landed | Batch::Finish, _) if pending.lost < 3 => {
                self.follow_lease();
                let lost = pending.lost + 1;
                let lease = match pending.what {
                    // An expired lease needs no release.
                    Batch::Finish if !still_ours => None,
                    _ => pending.lease,
                };
                self.write(Pending { lost, lease, ..pending });
            }
            _ => self.interrupt(contended()),
        }
    }

    /// Takes over the revision of the lease as it was read.
    fn follow_lease(&mut self) {
        let there = self.facts.lease.as_ref().map_or(Revision::ABSENT, |lease| lease.revision);
        if let Some(held) = &mut self.lease {
            held.revision = there;
        }
    }

    /// Which expectation of the commit can not hold any more.
    fn what_moved(&self) -> Option<ErrorBody> {
        let moved = self.facts.head_number() != self.recorded_plan().baseline.head;
        let head =
            || ErrorBody::new("HEAD_MOVED", "the head of the namespace was moved by somebody else");
        self.taken_claim().or_else(|| moved.then(head))
    }

    /// The first claim of the plan that another namespace has, as an error.
    pub(super) fn taken_claim(&self) -> Option<ErrorBody> {
        let Scope::Namespace(namespace) = self.scope();
        self.recorded_plan().commit.claims.keys().find_map(|key| {
            let there = self.facts.claims.get(key).filter(|there| is_taken(there, namespace))?;
            let by = &there.value.namespace;
            let message = format!("{key} was claimed by namespace {by}");
            let next = format!("ployzctl namespace inspect {by}");
            Some(ErrorBody::new("CLAIM_TAKEN", message).next(next))
        })
    }

    /// Writes the mark: if it is stored, the lost batch never will be.
    pub(super) fn mark(&mut self, now: Time) {
        let own = self.record.as_ref().expect("batches are of a recorded operation");
        let (expect, mut record) = (own.revision, own.value.clone());
        let State::Resolving(resolve) = &mut self.state else {
            unreachable!("marks decide lost batches")
        };
        if now >= resolve.until {
            return self.unresolved();
        }
        resolve.wake_at = None;
        if let Batch::Take { adopt: false } = resolve.pending.what {
            // Nothing was recorded before; what is left is a record of a try that never was.
            record.phase = Phase::Aborted;
            record.request = None;
            record.plan = None;
        }
        record.nonce = format!("{:016x}", self.random.next_u64());
        self.marks.push(record.nonce.clone());
        let write = Write {
            key: Key::operation(&record.id),
            value: serde_json::to_value(&record).expect("facts are plain JSON"),
            expect: Some(expect),
            ttl: record.phase.is_final().then_some(MARK_TTL),
        };
        let effect = EffectKind::Store(StoreRequest::Commit { writes: vec![write] });
        self.effects.push_back((Tag::Mark, effect));
    }

    pub(super) fn mark_done(&mut self, now: Time, outcome: StoreOutcome) {
        let State::Resolving(mut resolve) = self.take_state() else {
            panic!("a mark was answered that nobody waits for")
        };
        match outcome {
            Outcome::Ok(StoreReply::Committed(revision)) => {
                self.record.as_mut().expect("marked").revision = revision;
                self.never_landed(resolve.pending);
            }
            Outcome::Failed(StoreError::Conflict) => {
                self.read_facts(Reading::Fate(resolve.pending))
            }
            _ => {
                resolve.wake_at = Some(now + RETRY);
                self.state = State::Resolving(resolve);
            }
        }
    }

    fn never_landed(&mut self, mut pending: Pending) {
        pending.lost += 1;
        match pending.what {
            Batch::Take { adopt: false } => self.lost_race(),
            // Whether its first writes are there all the same is seen before it is written again, or given up.
            Batch::Commit => self.read_facts(Reading::NotLanded(pending)),
            _ if pending.lost < 3 => self.write(pending),
            _ => self.interrupt(store_away("it keeps losing its answers")),
        }
    }

    /// The commit batch did not land, as its record is not there; this is what there is.
    pub(super) fn not_landed_read(
        &mut self,
        now: Time,
        wall: UnixTime,
        pending: Pending,
        facts: Facts,
    ) {
        self.facts = facts;
        if self.has_landed() && !mutant::on(Mutant::TornCommitForgotten) {
            self.follow_lease();
            self.landed(wall);
        } else if pending.lost < 3 {
            self.write(pending);
        } else {
            self.abort(now, wall, store_away("it keeps losing its answers"));
        }
    }

    /// The mark was refused: either the lost batch landed (or one of our marks did), or somebody adopted the operation.
    pub(super) fn fate_read(&mut self, now: Time, wall: UnixTime, pending: Pending, facts: Facts) {
        let there = facts.operations.get(&pending.record.id).cloned();
        match there {
            Some(there) if there.value.nonce == pending.record.nonce => {
                // It landed. Its writes precede the record's without a gap.
                let observed = facts;
                self.facts.cluster = observed.cluster;
                self.written(now, wall, pending, there.revision);
            }
            Some(there)
                if there.value.coordinator == self.me
                    && there.value.attempt == pending.record.attempt
                    && self.is_own_mark(&there.value) =>
            {
                self.record.as_mut().expect("marked").revision = there.revision;
                self.never_landed(pending);
            }
            _ => match pending.what {
                Batch::Take { adopt: false } => self.lost_race(),
                _ => {
                    let message = "the operation was adopted while the store kept its answer";
                    self.interrupt(ErrorBody::new("ADOPTED_ELSEWHERE", message));
                }
            },
        }
    }

    /// Whether a mark of this operation, whose own answer was lost, is what the record holds.
    fn is_own_mark(&self, there: &OperationRecord) -> bool {
        self.marks.contains(&there.nonce)
    }

    fn unresolved(&mut self) {
        let State::Resolving(resolve) = self.take_state() else {
            unreachable!("only called while resolving")
        };
        match resolve.pending.what {
            Batch::Take { adopt: false } => {
                let error = store_away(
                    "whether the operation was recorded is not known; it changed nothing",
                );
                let operation = self.record().id.clone();
                self.end(OperationResult::Unknown { operation, error });
            }
            Batch::Commit => self.end_unknown(),
            _ => self.interrupt(store_away("a write was not answered")),
        }
    }
}

fn contended() -> ErrorBody {
    ErrorBody::new("CONTENDED", "others keep changing the same facts")
}

/// Whether somebody else than this namespace has the claim.
fn is_taken(there: &Versioned<Claim>, namespace: &crate::id::Namespace) -> bool {
    there.value.namespace != *namespace && !there.value.released
}
