use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::json;

use super::facts::{Allocation, Claim, Cluster, Commit, Head, Lease, ServiceRevision};
use super::{Entry, Key, Revision, Scope};
use crate::coordination::OperationRecord;
use crate::deploy::spec::ServiceSpec;
use crate::digest::Digest;
use crate::id::{MachineId, Namespace, OperationId};
use crate::machine::MachineRecord;

/// A fact with the revision that a conditional write must expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Where it was written.
    pub revision: Revision,
    /// What it says.
    pub value: T,
}

/// The facts that an operation on a namespace is decided from, as one read of the store gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `cluster`.
    pub cluster: Option<Versioned<Cluster>>,
    /// `machine.*`.
    pub machines: BTreeMap<MachineId, MachineRecord>,
    /// `ns.<ns>.head` of the namespace.
    pub head: Option<Versioned<Head>>,
    /// `ns.<ns>.commit.*` of the namespace up to its head, by number.
    pub commits: BTreeMap<u64, Commit>,
    /// `ns.<ns>.revision.*` of the namespace.
    pub revisions: BTreeMap<Digest, ServiceSpec>,
    /// `allocation.*`, by namespace.
    pub allocations: BTreeMap<Namespace, Versioned<Allocation>>,
    /// `host.*` and `port.*`, released ones too.
    pub claims: BTreeMap<Key, Versioned<Claim>>,
    /// `op.*`, without the steps of what is done: they are for people, and the finished operations of a week are many.
    pub operations: BTreeMap<OperationId, Versioned<OperationRecord>>,
    /// `lease.*` of the scope, if the key exists, also if it says that it was released.
    pub lease: Option<Versioned<Lease>>,
}

/// A fact that this build cannot read. Nothing is decided from half the facts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fact {key} cannot be read: {detail}")]
pub struct FactError {
    /// Which.
    pub key: Key,
    /// Why.
    pub detail: String,
}

impl<T: DeserializeOwned> Versioned<T> {
    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// If it is not what [`super::facts`] says.
    pub fn read(entry: &Entry) -> Result<Self, FactError> {
        versioned(entry, T::deserialize(&*entry.value))
    }
}

fn read_operation(entry: &Entry) -> Result<Versioned<OperationRecord>, FactError> {
    let done = entry.value.get("done").filter(|done| done.is_object());
    let (Some(record), Some(done)) = (entry.value.as_object(), done) else {
        return Versioned::read(entry);
    };
    let without_steps = json!({ "commit": done.get("commit"), "steps": [] });
    let fields = record.iter().map(|(name, value)| {
        let value = if name == "done" { &without_steps } else { value };
        (name.as_str(), value)
    });
    versioned(entry, OperationRecord::deserialize(MapDeserializer::new(fields)))
}

fn versioned<T>(
    entry: &Entry,
    read: Result<T, serde_json::Error>,
) -> Result<Versioned<T>, FactError> {
    read.map(|value| Versioned { revision: entry.revision, value })
        .map_err(|error| FactError { key: entry.key.clone(), detail: error.to_string() })
}

impl Facts {
    /// What must be read for an operation on a namespace.
    #[must_use]
    pub fn prefixes(namespace: &Namespace) -> Vec<Key> {
        vec![
            Key::cluster(),
            Key::machines(),
            Key::namespace(namespace),
            Key::allocations(),
            Key::hosts(),
            Key::ports(),
            Key::operations(),
            Key::lease(&Scope::Namespace(namespace.clone())),
        ]
    }

    /// Reads the entries of these prefixes. Keys that it does not know are left out.
    ///
    /// # Errors
    ///
    /// If an entry that it knows is not what [`super::facts`] says.
    pub fn parse(entries: &[Entry]) -> Result<Self, FactError> {
        let mut facts = Self::default();
        for entry in entries {
            let tokens: Vec<_> = entry.key.as_str().split('.').collect();
            match tokens[..] {
                ["cluster"] => facts.cluster = Some(Versioned::read(entry)?),
                ["machine", _] => {
                    let machine: Versioned<MachineRecord> = Versioned::read(entry)?;
                    facts.machines.insert(machine.value.id.clone(), machine.value);
                }
                ["ns", _, "head"] => facts.head = Some(Versioned::read(entry)?),
                ["ns", _, "commit", _] => {
                    let commit: Versioned<Commit> = Versioned::read(entry)?;
                    facts.commits.insert(commit.value.number, commit.value);
                }
                ["ns", _, "revision", name] => {
                    let revision: Versioned<ServiceRevision> = Versioned::read(entry)?;
                    // By its key: a newer daemon's spec may have fields that this build's digest leaves out.
                    let digest = name.parse::<Digest>().map_err(|error| FactError {
                        key: entry.key.clone(),
                        detail: error.to_string(),
                    })?;
                    facts.revisions.insert(digest, revision.value.spec);
                }
                ["allocation", name] => {
                    let namespace = Namespace::new(name).map_err(|error| FactError {
                        key: entry.key.clone(),
                        detail: error.to_string(),
                    })?;
                    facts.allocations.insert(namespace, Versioned::read(entry)?);
                }
                ["host", _] | ["port", _, _] => {
                    facts.claims.insert(entry.key.clone(), Versioned::read(entry)?);
                }
                ["op", _] => {
                    let record = read_operation(entry)?;
                    facts.operations.insert(record.value.id.clone(), record);
                }
                ["lease", ..] => facts.lease = Some(Versioned::read(entry)?),
                _ => {}
            }
        }
        // What is above the head was never committed: a torn batch left it.
        let head = facts.head_number();
        facts.commits.retain(|number, _| *number <= head);
        Ok(facts)
    }

    /// The head commit; `None` if the namespace has none or was removed.
    #[must_use]
    pub fn head_commit(&self) -> Option<&Commit> {
        let head = &self.head.as_ref()?.value;
        if head.removed { None } else { self.commits.get(&head.commit) }
    }

    /// The number of the head commit, also of a removed namespace; 0 if there never was one.
    #[must_use]
    pub fn head_number(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.value.commit)
    }

    /// The unfinished operations of a scope, by id. There are several where one was recorded while another one was planned, until the second
    /// has looked again, and where a store brought back what had ended.
    pub fn unfinished(&self, scope: &Scope) -> impl Iterator<Item = &Versioned<OperationRecord>> {
        self.operations
            .values()
            .filter(move |op| op.value.scope == *scope && !op.value.phase.is_final())
    }

    /// The lease of the scope, if somebody holds it.
    #[must_use]
    pub fn held_lease(&self) -> Option<&Lease> {
        self.lease.as_ref().map(|lease| &lease.value).filter(|lease| !lease.released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished() -> Entry {
        let id = OperationId::from_digest(&Digest::of_bytes(b"x"));
        let value = json!({
            "v": 1, "id": id, "scope": { "namespace": "blog" }, "summary": "deploy", "phase": "committed", "attempt": 1,
            "request_digest": Digest::of_bytes(b"x"), "coordinator": "m1", "nonce": "n", "started": 1,
            "updated": 2, "done": { "commit": 3, "steps": ["m1: start web-0"] }
        });
        Entry { key: Key::operation(&id), revision: Revision(7), value: value.into() }
    }

    #[test]
    fn what_an_operation_did_is_read_for_people_and_left_out_where_it_is_decided() {
        let entry = finished();
        let whole = Versioned::<OperationRecord>::read(&entry).unwrap().value;
        assert_eq!(whole.done.as_ref().unwrap().steps.len(), 1);
        let facts = Facts::parse(&[entry]).unwrap();
        let mut expected = whole.clone();
        expected.done.as_mut().unwrap().steps.clear();
        assert_eq!(
            facts.operations[&whole.id],
            Versioned { revision: Revision(7), value: expected }
        );
    }
}
