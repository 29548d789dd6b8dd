//! What each key holds: the schema of the `facts` bucket.
//!
//! Values are JSON, so that an operator reads them with any NATS client. Each carries `v`, the version of its shape;
//! a reader takes every version up to its own and ignores fields that it does not know. What is rewritten keeps them
//! ([`merge_unknown`]), so daemons one version apart can share a cluster.
//! `docs/facts.md` lists every key; a test holds that page against a real store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deploy::spec::{Route, ServiceSpec};
use crate::digest::Digest;
use crate::id::{Epoch, InstanceName, MachineId, Namespace, OperationId, ServiceName};
use crate::machine::MachineRecord;
use crate::time::UnixTime;

/// The version that this build writes into `v`.
pub const VERSION: u32 = 1;

/// `cluster`: one per cluster, written when it is founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Shape version.
    pub v: u32,
    /// The name given to `mesh init`.
    pub name: String,
    /// Drawn when the cluster was founded, 16 hexadecimal digits.
    pub id: String,
    /// Rises with every recover or restore of the store, before anything else is written.
    pub incarnation: u64,
    /// When it was founded.
    pub created: UnixTime,
}

/// `machine.<id>`.
pub type Machine = MachineRecord;

/// `ns.<ns>.head`: the compare-and-set on this key is the point of no return of every operation on a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Shape version.
    pub v: u32,
    /// The number of the current commit.
    pub commit: u64,
    /// True once the namespace is removed: no commit of it serves any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// `ns.<ns>.commit.<n>`: immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Shape version.
    pub v: u32,
    /// The namespace.
    pub namespace: Namespace,
    /// 1 for the first.
    pub number: u64,
    /// The operation that made it.
    pub operation: OperationId,
    /// The digest of the request: the same request again, while this is the head, is done already.
    pub request: Digest,
    /// What the operator asked for, for listings: `deploy`, `scale web=3`, ….
    pub summary: String,
    /// When it was committed, by the coordinator's clock.
    pub at: UnixTime,
    /// What it holds.
    pub services: BTreeMap<ServiceName, CommittedService>,
}

/// A service within a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedService {
    /// `ns.<ns>.revision.<digest>` holds its spec.
    pub revision: Digest,
    /// True after `stop`: it keeps its spec and has no instances until it is deployed, scaled or restarted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Its instances by slot.
    #[serde(deserialize_with = "crate::number_keys::deserialize")]
    pub slots: BTreeMap<u32, CommittedInstance>,
    /// How requests reach it (repeated from the spec, so that gateways need nothing but commits).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

/// An instance within a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedInstance {
    /// Where it runs.
    pub machine: MachineId,
    /// Its name there.
    pub instance: InstanceName,
    /// The operation that made it (an operation may keep instances of earlier ones).
    pub operation: OperationId,
    /// The digest of its whole [`crate::runtime::InstanceSpec`].
    pub config_hash: Digest,
    /// The digest of its [`crate::runtime::Workload`] and ports: an equal one can be kept by a later commit.
    pub workload: Digest,
    /// Where it listens.
    pub address: IpAddr,
    /// The port behind each port name, as others reach it at `address`.
    pub ports: BTreeMap<String, u16>,
}

/// `ns.<ns>.revision.<digest>`: immutable. The digest is that of the spec alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRevision {
    /// Shape version.
    pub v: u32,
    /// The fields of the spec, beside `v`.
    #[serde(flatten)]
    pub spec: ServiceSpec,
}

/// `ns.<ns>.instance.<service>-<slot>`: the last thing that an operation did to a slot. Never says that it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFact {
    /// Shape version.
    pub v: u32,
    /// What was done.
    pub lifecycle: InstanceLifecycle,
    /// Where.
    pub machine: MachineId,
    /// The instance.
    pub instance: InstanceName,
    /// By which operation.
    pub operation: OperationId,
    /// When, by the coordinator's clock.
    pub at: UnixTime,
}

/// What an operation did to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceLifecycle {
    /// It was started and became ready.
    Started,
    /// It was stopped and removed, and nothing took its place.
    Removed,
}

/// `allocation.<ns>`: what the head of a namespace takes on each machine, so that the planner of another one sees it without
/// reading every commit. Written in the commit batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Shape version.
    pub v: u32,
    /// By machine; machines without any are left out.
    pub machines: BTreeMap<MachineId, MachineAllocation>,
}

/// What a namespace takes on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MachineAllocation {
    /// Thousandths of a core that are set aside.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Bytes of memory that are set aside.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Where its instances listen: ports by address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// Where instances of the commit before listened that are not in this one: a gateway that is behind, or a resolver that
    /// remembers an answer, may still send there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses_before: BTreeMap<IpAddr, BTreeSet<u16>>,
}

/// `host.<name>` and `port.<machine>.<n>`: who owns a host name or a machine's port. Written in the commit batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Shape version.
    pub v: u32,
    /// The namespace that owns it.
    pub namespace: Namespace,
    /// The service that owns it.
    pub service: ServiceName,
    /// Given up: nobody owns it, and the key expires.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// `lease.<scope>`: who may change the scope. Lives 30 s unless renewed; released by a rewrite that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Shape version.
    pub v: u32,
    /// The operation that holds it.
    pub operation: OperationId,
    /// The machine whose daemon runs the operation.
    pub holder: MachineId,
    /// Tells this take from every other.
    pub nonce: String,
    /// The epoch; `None` in the first take, whose own revision it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Since when, by the holder's clock.
    pub since: UnixTime,
    /// Released: nobody holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// Puts the fields of `old` that `new` does not have into `new`, at every level that both have: what a newer daemon wrote
/// survives a rewrite by an older one.
#[must_use]
pub fn merge_unknown(old: &Value, mut new: Value, known: &[&str]) -> Value {
    if let (Value::Object(old), Value::Object(new)) = (old, &mut new) {
        for (key, value) in old {
            if !known.contains(&key.as_str()) && !new.contains_key(key) {
                new.insert(key.clone(), value.clone());
            }
        }
    }
    new
}
