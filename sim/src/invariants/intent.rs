//! S11: intent (heads, commits, revisions, claims, allocations) is what a recorded plan says, never what was observed; commits and revisions
//! are written once.

use std::collections::BTreeMap;

use proto_core::coordination::OperationRecord;
use proto_core::coordination::plan::PlannedCommit;
use proto_core::id::{Namespace, OperationId};
use proto_core::store::facts::{Allocation, Claim, Commit, Head};
use proto_core::store::{Key, Write};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct IntentIsPlanned {
    once: BTreeMap<Key, Value>,
    /// The number of each head, as it was before the batch.
    heads: BTreeMap<Namespace, u64>,
    /// What each unfinished operation has planned to commit.
    planned: BTreeMap<OperationId, PlannedCommit>,
    seen: u64,
}

impl Invariant for IntentIsPlanned {
    fn name(&self) -> &'static str {
        "S11 intent is what was planned, and is written once"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let (writes, records, operation) = match seen {
            Seen::Stored { writes, records, operation } => (writes, records, operation),
            Seen::CameBack { entry } => {
                self.learn(&Vec::from_iter(super::record(entry)));
                return Ok(());
            }
            _ => return Ok(()),
        };
        for write in *writes {
            let tokens: Vec<_> = write.key.as_str().split('.').collect();
            match tokens[..] {
                ["ns", _, "commit", _] => {
                    self.seen += 1;
                    let commit: Commit = Commit::deserialize(&write.value)
                        .map_err(|error| format!("{}: {error}", write.key))?;
                    self.decided_once(write, &commit)?;
                    if Some(&commit.operation) != *operation {
                        return Err(format!(
                            "{} of {operation:?} says {}",
                            write.key, commit.operation
                        ));
                    }
                    let planned = self.planned.get(&commit.operation).map(|plan| &plan.commit);
                    let same = planned.is_some_and(|planned| {
                        planned.services == commit.services && planned.number == commit.number
                    });
                    if !same {
                        return Err(format!("{} is not what was planned", write.key));
                    }
                }
                ["ns", _, "revision", _] => {
                    self.seen += 1;
                    self.once(write)?;
                }
                // A head that moves brings its commit with it.
                ["ns", namespace, "head"] => {
                    self.seen += 1;
                    let prefix = format!("ns.{namespace}.commit.");
                    if !writes.iter().any(|other| other.key.as_str().starts_with(&prefix)) {
                        return Err(format!("{} moves without a commit", write.key));
                    }
                }
                ["host", ..] | ["port", ..] | ["allocation", _] => {
                    self.seen += 1;
                    let planned = operation.and_then(|operation| self.planned.get(operation));
                    if !planned.is_some_and(|planned| is_planned(planned, write)) {
                        return Err(format!("{} is not as it was planned", write.key));
                    }
                }
                ["cluster"] | ["machine", _] if operation.is_some() => {
                    return Err(format!(
                        "{} is rewritten by an operation on a namespace",
                        write.key
                    ));
                }
                _ => {}
            }
        }
        for namespace in super::serving::heads_written(writes) {
            if let Some(head) = world.kv.get::<Head>(&Key::head(&namespace)) {
                self.heads.insert(namespace, head.commit);
            }
        }
        // Only now: what a batch commits was planned before it.
        self.learn(records);
        Ok(())
    }
}

/// Whether a claim is one of the plan, or given up by it, and an allocation is the plan's.
fn is_planned(planned: &PlannedCommit, write: &Write) -> bool {
    let Ok(claim) = Claim::deserialize(&write.value) else {
        let allocation = Allocation::deserialize(&write.value);
        return allocation.is_ok_and(|allocation| allocation == planned.allocation);
    };
    if claim.released {
        return planned.releases.contains(&write.key) || planned.gains.contains(&write.key);
    }
    planned.claims.get(&write.key) == Some(&claim)
}

impl IntentIsPlanned {
    fn learn(&mut self, records: &[OperationRecord]) {
        for record in records {
            match &record.plan {
                Some(plan) => self.planned.insert(record.id.clone(), plan.commit.clone()),
                None => self.planned.remove(&record.id),
            };
        }
    }

    /// A commit that no head names yet is what a batch left that was stored in part: it may be written again.
    fn decided_once(&mut self, write: &Write, commit: &Commit) -> Result<(), String> {
        let head = self.heads.get(&commit.namespace).copied().unwrap_or(0);
        if commit.number <= head {
            return Err(format!("{} is written, and the head is {head} already", write.key));
        }
        Ok(())
    }

    fn once(&mut self, write: &Write) -> Result<(), String> {
        match self.once.insert(write.key.clone(), write.value.clone()) {
            Some(before) if before != write.value => Err(format!("{} is rewritten", write.key)),
            _ => Ok(()),
        }
    }
}
