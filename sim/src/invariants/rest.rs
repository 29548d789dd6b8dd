//! What must hold when everything has come to rest: L1 every operation is finished, L2 what runs is what is committed, L3
//! nothing else is left.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::coordination::{OperationRecord, Phase};
use proto_core::deploy::spec::Replicas;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, MachineId, Namespace, OperationId, ServiceName};
use proto_core::store::Key;
use proto_core::store::facts::{Claim, Commit, CommittedService, Head, Lease, ServiceRevision};
use serde::Deserialize;
use serde_json::Value;

use crate::world::World;

/// L1.
pub const FINISHED: &str = "L1 every operation is finished once it was resumed or aborted";
/// L2.
pub const RUNS: &str = "L2 what runs is what is committed";
/// L3.
pub const NOTHING_LEFT: &str = "L3 nothing is left over";

/// A service's part of a commit, without what differs between two runs of the same: names and operation ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceContent {
    pub(crate) revision: Digest,
    pub(crate) stopped: bool,
    pub(crate) slots: BTreeMap<u32, (MachineId, Digest)>,
}

impl ServiceContent {
    /// The machine of each slot.
    pub fn machines(&self) -> impl Iterator<Item = &MachineId> {
        self.slots.values().map(|(machine, _)| machine)
    }
}

/// What the heads say, without names and ids.
pub type Content = BTreeMap<Namespace, BTreeMap<ServiceName, ServiceContent>>;

/// Every head commit.
#[must_use]
pub fn heads(world: &World) -> BTreeMap<Namespace, Commit> {
    let mut heads = BTreeMap::new();
    for (key, value) in world.kv.under(&Key::namespaces()) {
        let tokens: Vec<_> = key.as_str().split('.').collect();
        if let ["ns", namespace, "head"] = tokens[..]
            && let Ok(namespace) = Namespace::new(namespace)
            && let Ok(head) = Head::deserialize(&**value)
            && !head.removed
            && let Some(commit) = world.kv.get(&Key::commit(&namespace, head.commit))
        {
            heads.insert(namespace, commit);
        }
    }
    heads
}

/// What the heads say, without names and ids.
#[must_use]
pub fn content(world: &World) -> Content {
    let service = |commit: Commit| {
        let services = commit.services.into_iter().map(|(name, service)| {
            let slots = service.slots.into_iter();
            let slots = slots.map(|(n, slot)| (n, (slot.machine, slot.workload))).collect();
            let content =
                ServiceContent { revision: service.revision, stopped: service.stopped, slots };
            (name, content)
        });
        services.collect()
    };
    heads(world).into_iter().map(|(namespace, commit)| (namespace, service(commit))).collect()
}

/// Everything that shall stay as it is once the world rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    heads: BTreeMap<Namespace, Commit>,
    running: BTreeMap<MachineId, BTreeSet<InstanceName>>,
    changes: Vec<u64>,
    unfinished: usize,
}

impl Snapshot {
    /// The world as it is.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let names = |at: usize| world.runtimes[at].instances().keys().cloned().collect();
        let machines = world.machines.iter().enumerate();
        Self {
            heads: heads(world),
            running: machines.map(|(at, machine)| (machine.clone(), names(at))).collect(),
            changes: world.runtimes.iter().map(|runtime| runtime.changes).collect(),
            unfinished: unfinished(world).len(),
        }
    }
}

/// The records of operations that are not finished.
#[must_use]
pub fn unfinished(world: &World) -> Vec<OperationRecord> {
    let prefix = Key::operations();
    let records = world.kv.under(&prefix).filter(|(_, record)| is_unfinished(record));
    records.filter_map(|(_, record)| OperationRecord::deserialize(&**record).ok()).collect()
}

/// The first of those operations.
#[must_use]
pub fn first_unfinished(world: &World) -> Option<OperationId> {
    let prefix = Key::operations();
    let (_, first) = world.kv.under(&prefix).find(|(_, record)| is_unfinished(record))?;
    first.get("id").and_then(|id| OperationId::deserialize(id).ok())
}

fn is_unfinished(record: &Value) -> bool {
    let phase = record.get("phase").and_then(|phase| Phase::deserialize(phase).ok());
    phase.is_some_and(|phase| !phase.is_final())
}

/// How much each of them is about in this world: recorded operations; committed instances; instances, backends, leases and claims.
#[must_use]
pub fn premises(world: &World) -> [(&'static str, u64); 3] {
    let below = |prefix: Key| world.kv.under(&prefix).count();
    let heads = heads(world);
    let services = heads.values().flat_map(|commit| commit.services.values());
    let committed = services.map(|service| service.slots.len()).sum::<usize>();
    let running = world.runtimes.iter().map(|runtime| runtime.instances().len()).sum::<usize>();
    let backends = world.gateways.iter().map(|gateway| gateway.backends().count()).sum::<usize>();
    let held = below(Key::leases()) + below(Key::hosts()) + below(Key::ports());
    [
        (FINISHED, below(Key::operations()) as u64),
        (RUNS, committed as u64),
        (NOTHING_LEFT, (running + backends + held) as u64),
    ]
}

/// Whether a service of this commit has one instance on each machine: that is on each that answers, so there may be more by now.
#[must_use]
pub fn has_one_on_each(world: &World, commit: &Commit) -> bool {
    let revision = |service: &CommittedService| -> Option<ServiceRevision> {
        world.kv.get(&Key::revision(&commit.namespace, &service.revision))
    };
    let mut revisions = commit.services.values().filter_map(revision);
    revisions.any(|there| there.spec.placement.replicas == Replicas::Global)
}

/// What does not hold, with the name of the invariant.
#[must_use]
pub fn check(world: &World) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    for record in unfinished(world) {
        broken.push((FINISHED, format!("{} ({}) is {}", record.id, record.summary, record.phase)));
    }
    let heads = heads(world);
    let mut wanted = BTreeMap::new();
    for service in heads.values().flat_map(|commit| commit.services.values()) {
        for slot in service.slots.values() {
            wanted.insert((slot.machine.clone(), slot.instance.clone()), slot);
        }
    }
    for ((machine, name), slot) in &wanted {
        let at = world.machines.iter().position(|other| other == machine);
        let there = at.and_then(|at| world.runtimes[at].instances().get(name));
        match there {
            None => broken.push((RUNS, format!("{name} is committed and not on {machine}"))),
            Some(there) if !there.serves(world.now) => {
                broken.push((RUNS, format!("{name} is committed and does not serve on {machine}")));
            }
            Some(there) if there.spec.config_hash() != slot.config_hash => {
                broken.push((RUNS, format!("{name} on {machine} is not what is committed")));
            }
            Some(_) => {}
        }
    }
    for (at, machine) in world.machines.iter().enumerate() {
        for name in world.runtimes[at].instances().keys() {
            if !wanted.contains_key(&(machine.clone(), name.clone())) {
                broken.push((NOTHING_LEFT, format!("instance {name} on {machine}")));
            }
        }
        for (to, name) in world.gateways[at].backends() {
            let backend = (to.clone(), name.clone());
            if wanted.contains_key(&backend) {
                continue;
            }
            broken.push((NOTHING_LEFT, format!("the gateway of {machine} sends to {backend:?}")));
        }
    }
    for (key, value) in world.kv.under(&Key::leases()) {
        let lease: Result<Lease, _> = Lease::deserialize(&**value);
        if !lease.is_ok_and(|lease| lease.released) {
            broken.push((NOTHING_LEFT, format!("{key} is held")));
        }
    }
    for key in world.kv.lasting().filter(|key| !lasts(key, world, &heads)) {
        broken.push((NOTHING_LEFT, format!("{key} will never end")));
    }
    for prefix in [Key::hosts(), Key::ports()] {
        for (key, value) in world.kv.under(&prefix) {
            let claim: Result<Claim, _> = Claim::deserialize(&**value);
            let owned = |claim: &Claim| {
                let commit = heads.get(&claim.namespace);
                commit.is_some_and(|commit| {
                    let is_host = prefix == Key::hosts();
                    if is_host {
                        super::claims::routed(commit).contains(key)
                    } else {
                        commit.services.contains_key(&claim.service)
                    }
                })
            };
            let excused = world.kv.is_brought_back(key);
            if !excused && !claim.is_ok_and(|claim| claim.released || owned(&claim)) {
                broken.push((NOTHING_LEFT, format!("{key} is claimed by nobody")));
            }
        }
    }
    broken
}

/// Whether a key may be there for as long as nobody asks for anything.
fn lasts(key: &Key, world: &World, heads: &BTreeMap<Namespace, Commit>) -> bool {
    let tokens: Vec<_> = key.as_str().split('.').collect();
    match tokens[..] {
        ["op" | "lease", ..] => false,
        ["host" | "port", ..] => world.kv.get(key).is_some_and(|claim: Claim| !claim.released),
        ["allocation", namespace] => heads.keys().any(|there| there.as_str() == namespace),
        _ => true,
    }
}
