//! What becomes of a batch that was refused, or whose answer was lost.

use super::batch::{Batch, Pending, is_taken};
use super::{Operation, RESOLVE_PATIENCE, RETRY, Reading, State, StoreOutcome, Tag, store_away};
use crate::Outcome;
use crate::api::{ErrorBody, OperationResult};
use crate::coordination::record::{OperationRecord, Phase};
use crate::daemon::EffectKind;
use crate::mutant::{self, Mutant};
use crate::span::Span;
use crate::store::{Facts, Key, Scope, StoreError, StoreReply, StoreRequest, Write};
use crate::time::{Time, UnixTime};

/// How long the mark lives that keeps a lost batch from landing where no record was.
const MARK_TTL: Span = Span::from_secs(3600);

/// A batch whose acknowledgement was lost, until a competing write decides what became of it.
#[derive(Debug, Clone)]
pub(super) struct Resolve {
    pub(super) pending: Pending,
    /// When the mark is written again; `None` while it is under way.
    pub(super) wake_at: Option<Time>,
    pub(super) until: Time,
}

impl Operation {
    pub(super) fn resolve_later(&mut self, now: Time, pending: Pending) {
        self.state = State::Resolving(Resolve {
            pending,
            wake_at: Some(now + RETRY),
            until: now + RESOLVE_PATIENCE,
        });
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
        self.facts = facts;
        let still_ours = self.has_lease();
        if pending.is_commit() && self.has_landed() {
            self.follow_lease();
            return self.landed(wall, 0);
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
            (Batch::Landed, false) if pending.lost < 3 => self.landed(wall, pending.lost + 1),
            (Batch::Abort | Batch::Landed | Batch::Finish, _) if pending.lost < 3 => {
                self.follow_lease();
                let lost = pending.lost + 1;
                let mut pending = Pending { lost, ..pending };
                if pending.what == Batch::Finish && !still_ours {
                    // An expired lease needs no release, and its epoch is no longer this scope's.
                    pending.lease = None;
                    pending.record.epoch = None;
                }
                self.write(pending);
            }
            _ => self.interrupt(contended()),
        }
    }

    /// Whether the lease that was read is the one that this operation took.
    pub(super) fn has_lease(&self) -> bool {
        let held = self.lease.as_ref().map(|held| &held.value.nonce);
        let there = self.facts.lease.as_ref().map(|lease| &lease.value.nonce);
        held.is_some() && held == there
    }

    /// Takes over the revision of the lease as it was read; one that is no longer ours is held no more.
    pub(super) fn follow_lease(&mut self) {
        let ours = self.has_lease();
        match (&mut self.lease, &self.facts.lease) {
            (Some(held), Some(there)) if ours => held.revision = there.revision,
            (held, _) => *held = None,
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
            self.landed(wall, 0);
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
