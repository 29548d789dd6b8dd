//! One machine's gateway: follows the heads and commits of the store, each some time after it was written, and serves what
//! it has applied. It outlives the daemon.

use std::collections::BTreeMap;

use proto_core::id::{InstanceName, MachineId, Namespace};
use proto_core::store::facts::{Commit, Head};
use proto_core::store::{Key, Revision};

use super::kv::Kv;

/// Where a gateway sends requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gateway {
    /// What it has applied.
    pub applied: Revision,
    /// The instances that it sends requests to.
    pub backends: BTreeMap<Namespace, Vec<(MachineId, InstanceName)>>,
}

/// What a gateway will serve once it has applied a change of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The position in the store.
    pub revision: Revision,
    /// The namespace.
    pub namespace: Namespace,
    /// Its instances.
    pub backends: Vec<(MachineId, InstanceName)>,
}

impl Change {
    /// What follows from the head of a namespace as it is in the store now.
    #[must_use]
    pub fn of_head(kv: &Kv, namespace: &Namespace) -> Option<Self> {
        let head: Head = kv.get(&Key::head(namespace))?;
        let commit: Option<Commit> = kv.get(&Key::commit(namespace, head.commit));
        let services = commit.filter(|_| !head.removed).map(|commit| commit.services);
        let slots = services.into_iter().flatten().flat_map(|(_, service)| service.slots);
        let backends = slots.map(|(_, slot)| (slot.machine, slot.instance)).collect();
        Some(Self { revision: kv.last(), namespace: namespace.clone(), backends })
    }
}

impl Gateway {
    /// Applies a change; an older one than it has is ignored.
    pub fn apply(&mut self, change: Change) {
        if change.revision > self.applied {
            self.applied = change.revision;
            self.backends.insert(change.namespace, change.backends);
        }
    }
}
