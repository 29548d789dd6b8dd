use std::collections::BTreeMap;

use crate::api::{OperationRequest, Submission};
use crate::coordination::command::{MachineObservation, Uses};
use crate::coordination::plan::Action;
use crate::deploy::manifest::{Format, parse};
use crate::deploy::plan::{Planned, plan};
use crate::id::{MachineId, OperationId};
use crate::machine::{Addressing, MachineLifecycle, MachineRecord};
use crate::runtime::{InstanceState, ObservedInstance, RuntimeFacts};
use crate::store::facts::{Cluster, Head, ServiceRevision, VERSION};
use crate::store::{Entry, Facts, Key, Revision};
use crate::time::UnixTime;

/// What there is when the operation begins.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) seen: BTreeMap<MachineId, MachineObservation>,
    /// The operation that made what is there: `old` in labels.
    pub(super) old: Option<OperationId>,
}

pub(super) fn machine(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

pub(super) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A deploy of `web` in `blog`.
pub(super) fn deploy(image: &str, host: &str, strategy: &str, replicas: u32) -> OperationRequest {
    let text = format!(
        r#"
namespace = "blog"
[[services]]
name = "web"
image = "{image}"
placement = {{ replicas = {replicas} }}
ports = {{ http = 8080 }}
routes = [{{ hostnames = ["{host}"], port = "http" }}]
readiness = {{ http = {{ path = "/", port = "http" }} }}
rollout = {{ strategy = "{strategy}" }}
"#
    );
    OperationRequest::Deploy { manifest: parse(&text, Format::Toml, "test.toml").unwrap() }
}

/// The second version of `blog`, under another host name than the first: it claims one and releases one.
pub(super) fn second(strategy: &str) -> OperationRequest {
    deploy("app:v2", "new.example", strategy, 2)
}

pub(super) fn apply(request: OperationRequest) -> Submission {
    Submission::Apply { request }
}

impl Given {
    /// Two machines, and nothing on them.
    pub(super) fn fresh() -> Self {
        let mut this = Self { entries: BTreeMap::new(), seen: BTreeMap::new(), old: None };
        let cluster = Cluster {
            v: VERSION,
            name: "test".to_owned(),
            id: "0123456789abcdef".to_owned(),
            incarnation: 3,
            created: UnixTime::from_millis(1),
        };
        this.put(Key::cluster(), 1, &cluster);
        for (name, net) in [("m1", 0), ("m2", 1)] {
            let record = MachineRecord {
                v: VERSION,
                id: machine(name),
                lifecycle: MachineLifecycle::Active,
                region: "local".to_owned(),
                az: None,
                labels: BTreeMap::new(),
                addressing: Addressing::Subnet([10, 101, net, 0].into()),
            };
            this.put(Key::machine(&machine(name)), 2, &record);
            let facts = RuntimeFacts {
                images_present: vec!["app:v1".to_owned(), "app:v2".to_owned()],
                ports_taken: Vec::new(),
                ports_listening: Vec::new(),
                cpu_total_millis: 2000,
                memory_total_bytes: 1 << 34,
                disk_free_bytes: 1 << 40,
            };
            let seen = MachineObservation {
                machine: machine(name),
                instances: Vec::new(),
                facts,
                runtime: "docker".to_owned(),
                uses: Uses::default(),
            };
            this.seen.insert(machine(name), seen);
        }
        this
    }

    /// Commit 1 of `blog` is there and runs: two instances of `app:v1` under `old.example`. Its head was written at 20.
    pub(super) fn deployed() -> Self {
        let mut this = Self::fresh();
        let entries: Vec<_> = this.entries.values().cloned().collect();
        let request = deploy("app:v1", "old.example", "rolling", 2);
        let facts = Facts::parse(&entries).unwrap();
        let Planned::Plan(plan) = plan(&request, &facts, &this.seen, &[]) else {
            panic!("a first deploy has a plan")
        };
        let namespace = "blog".parse().unwrap();
        for step in &plan.steps {
            let Action::Ensure { spec } = &step.action else { continue };
            this.seen.get_mut(&step.machine).unwrap().instances.push(ObservedInstance {
                spec: (**spec).clone(),
                state: InstanceState::Running,
                started_at: None,
                pid: Some(1),
                restarts: 0,
                last_exit: None,
            });
        }
        for (digest, spec) in &plan.commit.revisions {
            let revision = ServiceRevision { v: VERSION, spec: spec.clone() };
            this.put(Key::revision(&namespace, digest), 10, &revision);
        }
        for (key, claim) in &plan.commit.claims {
            this.put(key.clone(), 19, claim);
        }
        this.put(Key::commit(&namespace, 1), 18, &plan.commit.commit);
        this.put(Key::head(&namespace), 20, &Head { v: VERSION, commit: 1, removed: false });
        this.put(Key::allocation(&namespace), 21, &plan.commit.allocation);
        this.old = Some(plan.operation);
        this
    }

    pub(super) fn put(&mut self, key: Key, revision: u64, value: &impl serde::Serialize) {
        let value = serde_json::to_value(value).unwrap();
        self.entries
            .insert(key.clone(), Entry { key, revision: Revision(revision), value: value.into() });
    }
}
