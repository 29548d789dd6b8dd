//! What the daemon answers to questions: listings, status, logs, events.

use serde::{Deserialize, Serialize};

use super::OperationResult;
use crate::deploy::spec::Manifest;
use crate::id::{InstanceName, MachineId, Namespace, ServiceName};
use crate::runtime::ObservedInstance;
use crate::store::Key;
use crate::store::facts::{Commit, Lease};
use crate::time::UnixTime;

/// `GET /v1/status`: the daemon that answers, its machine, its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The machine that answers.
    pub machine: MachineId,
    /// Its runtime: `docker` or `process`.
    pub runtime: String,
    /// The daemon's process.
    pub pid: u32,
    /// How long the daemon runs, in milliseconds.
    pub uptime_ms: u64,
    /// Whether the store answers.
    pub store: StoreView,
    /// The processes that outlive the daemon.
    pub components: Vec<ComponentView>,
    /// Every namespace; empty while the store is away.
    pub namespaces: Vec<NamespaceView>,
}

/// Whether the store answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreView {
    /// It answered just now.
    pub reachable: bool,
    /// Why not, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A process that outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentView {
    /// `nats`, `gateway` or `dns`.
    pub name: String,
    /// Its process, if it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `running` or `down`.
    pub state: String,
    /// The position of the store that it serves; gateway and DNS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// It serves its last good state, as the store is away from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Where it listens, or why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A namespace in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceView {
    /// Its name.
    pub namespace: Namespace,
    /// The number of its head commit.
    pub commit: u64,
    /// How many services it has.
    pub services: usize,
    /// How many instances it has by its head commit.
    pub instances: usize,
    /// How many of them run; `None` if a machine did not say so in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<usize>,
}

/// `GET /v1/namespaces/{ns}/commits/{n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitView {
    /// The commit.
    pub commit: Commit,
    /// It is the head.
    pub head: bool,
    /// What would have to be deployed to get it.
    pub manifest: Manifest,
}

/// `GET /v1/instances`: what runs, asked of the machines just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancesView {
    /// The machines that answered.
    pub answered: Vec<MachineId>,
    /// Those that did not, and why.
    pub silent: Vec<SilentMachine>,
    /// What was seen.
    pub rows: Vec<InstanceRow>,
}

/// A machine that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentMachine {
    /// Which.
    pub machine: MachineId,
    /// What was tried.
    pub reason: String,
}

/// An instance that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// Where.
    pub machine: MachineId,
    /// What was seen.
    pub instance: ObservedInstance,
    /// It belongs to the head commit of its namespace.
    pub committed: bool,
}

/// A row of `GET /v1/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The key.
    pub key: Key,
    /// Who holds it.
    pub lease: Lease,
}

/// A line of `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Who wrote it.
    pub instance: InstanceName,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line without its end.
    pub text: String,
}

/// `POST /v1/exec`: what is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Where.
    pub instance: InstanceName,
    /// The command and its arguments.
    pub command: Vec<String>,
}

/// A line of the answer to `POST /v1/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ExecEvent {
    /// It wrote something.
    Output {
        /// `stdout` or `stderr`.
        stream: String,
        /// What; bytes that are no UTF-8 are replaced.
        text: String,
    },
    /// It ended. The last event.
    Exited {
        /// Its exit code, 128 + n for signal n.
        code: i32,
    },
}

/// A line of `GET /v1/events`: something that the daemon did or found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonEvent {
    /// When.
    pub at: UnixTime,
    /// Stable, in capitals: `SIDECAR_ADOPTED`.
    pub code: String,
    /// What it is about: `nats`, `gateway`, `dns`, `daemon`, `operation`.
    pub component: String,
    /// For people.
    pub message: String,
    /// How the operation ended; `OPERATION_ENDED` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OperationResult>,
}

/// A row of `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorCheck {
    /// What was looked at.
    pub check: String,
    /// It is well.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The next command to type, if it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /v1/shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// End nats-server, gateway and DNS too.
    pub data_plane: bool,
    /// What becomes of the cluster's instances on this machine.
    pub workloads: Workloads,
}

/// What becomes of a machine's instances when its daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workloads {
    /// They run on.
    #[default]
    Keep,
    /// They are stopped; `POST /v1/instances/start` starts those that ran.
    Stop,
    /// They are removed.
    Remove,
}

/// `POST /v1/instances/start`: what was done about the instances that a shutdown had stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StartedView {
    /// Those that were started.
    pub started: Vec<InstanceLabel>,
    /// Those that could not be, and why.
    pub failed: Vec<StartFailure>,
}

/// An instance and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLabel {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service.
    pub service: ServiceName,
    /// Its index within the service.
    pub slot: u32,
    /// Its name.
    pub instance: InstanceName,
}

/// An instance that was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// Which.
    pub instance: InstanceLabel,
    /// Why.
    pub reason: String,
}
