//! What the batches of an operation hold.

use std::collections::BTreeSet;

use super::Operation;
use crate::coordination::record::{OperationRecord, Phase};
use crate::deploy::placement::machine_ports;
use crate::id::Namespace;
use crate::mutant::{self, Mutant};
use crate::span::Span;
use crate::store::facts::{
    Claim, Head, InstanceFact, InstanceLifecycle, Lease, ServiceRevision, VERSION,
};
use crate::store::{Key, Revision, Scope, Versioned, Write};
use crate::time::{Time, UnixTime};

/// How long the record of a finished operation is kept.
const RECORD_TTL: Span = Span::from_secs(7 * 24 * 3600);
/// How long a released claim or lease is still there to be read.
const RELEASED_TTL: Span = Span::from_secs(1);
/// How long the addresses of a removed namespace are left alone.
const ADDRESSES_TTL: Span = Span::from_secs(3600);
/// How many revisions are written in one batch.
pub(super) const REVISIONS_A_BATCH: usize = 200;
/// The most lifecycle facts in the batch that ends an operation: the store takes 900 writes, two are lease and record.
const FACTS_A_BATCH: usize = 898;

/// A batch that is on its way.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) what: Batch,
    /// The record as this batch writes it (as it stands already, for revisions).
    pub(super) record: OperationRecord,
    /// The lease as this batch writes it, if it takes or rewrites it.
    pub(super) lease: Option<Lease>,
    /// Since when it is tried.
    pub(super) since: Option<Time>,
    /// How often it was found not to have landed.
    pub(super) lost: u32,
}

/// What a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
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

impl Pending {
    pub(super) fn is_commit(&self) -> bool {
        self.what == Batch::Commit
    }
}

impl Operation {
    /// The writes of this batch, as the facts and the record stand now.
    pub(super) fn writes(&self, pending: &Pending) -> Vec<Write> {
        let json =
            |value: &OperationRecord| serde_json::to_value(value).expect("facts are plain JSON");
        let own = self.record.as_ref().expect("batches are of a recorded operation");
        let record_write = Write {
            key: Key::operation(&pending.record.id),
            value: json(&pending.record),
            expect: Some(own.revision),
            ttl: (pending.record.phase.is_final() && !mutant::on(Mutant::RecordsForEver))
                .then_some(RECORD_TTL),
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

    /// The writes of the revisions that are not there yet, from this one on: as many as one batch takes.
    pub(super) fn revision_writes(&self, from: usize) -> Vec<Write> {
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
        let expected = |revision| (!mutant::on(Mutant::HeadWithoutCas)).then_some(revision);
        let claim = |key: &Key, value: &Claim| {
            let there = self.facts.claims.get(key);
            let same = there.is_some_and(|there| there.value == *value);
            // What another namespace took since the plan was made is not written over: the store refuses the batch.
            let ours = there.filter(|there| !is_taken(there, namespace));
            let expect = expected(ours.map_or(Revision::ABSENT, |there| there.revision));
            let ends = value.released && !mutant::on(Mutant::ClaimsForEver);
            let ttl = ends.then_some(RELEASED_TTL);
            let value = serde_json::to_value(value).expect("facts are plain JSON");
            (!same).then(|| Write { key: key.clone(), value, expect, ttl })
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
        let head_before = self.facts.head.as_ref().map_or(Revision::ABSENT, |head| head.revision);
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
            expect: expected(head_before),
            ttl: None,
        };
        let key = Key::allocation(namespace);
        let there = self.facts.allocations.get(namespace);
        let found = there.filter(|_| mutant::on(Mutant::AllocationAsFound));
        let value = found.map_or(&planned.allocation, |there| &there.value);
        // What a removed namespace had is written again also if it was nothing: this time with a life.
        let same = there.is_some_and(|there| there.value == planned.allocation)
            && !planned.removes_namespace;
        let allocation = (!same).then(|| Write {
            key,
            value: serde_json::to_value(value).expect("facts are plain JSON"),
            expect: expected(there.map_or(Revision::ABSENT, |there| there.revision)),
            ttl: planned.removes_namespace.then_some(ADDRESSES_TTL),
        });
        let up_to_head = std::iter::once(commit).chain(claims).chain([head]).collect();
        (up_to_head, released.chain(allocation).collect())
    }

    /// An operation that aborts gives up what it claimed, if a torn batch has kept it. What the head names by now is the head's, though:
    /// another operation may have committed it meanwhile.
    fn given_up(&self) -> Vec<Write> {
        let Scope::Namespace(namespace) = self.scope();
        let gains = self.recorded_plan().commit.gains.iter();
        let gains = gains.filter(|_| !mutant::on(Mutant::AbortKeepsClaims));
        let of_head = if mutant::on(Mutant::AbortTakesClaims) {
            BTreeSet::new()
        } else {
            self.claims_of_head()
        };
        let gains = gains.filter(|key| !of_head.contains(*key));
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

    /// The host names and ports that the head names.
    fn claims_of_head(&self) -> BTreeSet<Key> {
        let removed = self.facts.head.as_ref().is_none_or(|head| head.value.removed);
        let head = self.facts.commits.get(&self.facts.head_number()).filter(|_| !removed);
        let mut claims = BTreeSet::new();
        for service in head.into_iter().flat_map(|commit| commit.services.values()) {
            let hosts = service.routes.iter().flat_map(|route| &route.hostnames);
            claims.extend(hosts.map(Key::host));
            let spec = self.facts.revisions.get(&service.revision);
            for port in spec.into_iter().flat_map(machine_ports) {
                let slots = service.slots.values();
                claims.extend(slots.map(|slot| Key::port(&slot.machine, port)));
            }
        }
        claims
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

    /// How many writes of this batch follow that of the head, if it has one.
    pub(super) fn after_head(&self, pending: &Pending) -> Option<u64> {
        if !pending.is_commit() {
            return None;
        }
        let Scope::Namespace(namespace) = self.scope();
        let key = Key::head(namespace);
        let writes = self.writes(pending);
        writes.iter().rev().position(|write| write.key == key).map(|after| after as u64)
    }
}

/// Whether somebody else than this namespace has the claim.
pub(super) fn is_taken(there: &Versioned<Claim>, namespace: &Namespace) -> bool {
    there.value.namespace != *namespace && !there.value.released
}
