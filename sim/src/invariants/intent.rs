//! S11: intent (heads, commits, revisions, claims) is what a recorded plan says, never what was observed; commits and revisions
//! are written once.

use std::collections::BTreeMap;

use proto_core::coordination::OperationRecord;
use proto_core::id::Namespace;
use proto_core::store::facts::{Commit, Head};
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
        let Seen::Stored { writes, operation, .. } = seen else { return Ok(()) };
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
                    let record: Option<OperationRecord> =
                        world.kv.get(&Key::operation(&commit.operation));
                    let planned =
                        record.and_then(|record| record.plan).map(|plan| plan.commit.commit);
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
        Ok(())
    }
}

impl IntentIsPlanned {
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
