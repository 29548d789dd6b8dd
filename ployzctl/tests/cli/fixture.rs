//! Values that the tests show.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::api::views::{InstanceRow, InstancesView, SilentMachine};
use proto_core::api::{ErrorBody, OperationEvent, OperationResult, StepStatus};
use proto_core::coordination::plan::{Action, Baseline, Plan, PlannedCommit, Step};
use proto_core::deploy::manifest::{Format, parse};
use proto_core::deploy::spec::Manifest;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, MachineId, OperationId};
use proto_core::runtime::{InstanceSpec, InstanceState, ObservedInstance};
use proto_core::span::Span;
use proto_core::store::Scope;
use proto_core::store::facts::{Allocation, Commit, CommittedInstance, CommittedService};
use proto_core::time::UnixTime;

pub(crate) const OPERATION: &str = "0123456789abcdef";

pub(crate) const MANIFEST: &str = r#"namespace = "blog"

[[services]]
name = "web"
image = "example/web:2"
ports = { http = 8080 }

[[services.routes]]
hostnames = ["blog.example.org"]
port = "http"
"#;

pub(crate) fn manifest() -> Manifest {
    parse(MANIFEST, Format::Toml, "ployz.toml").unwrap()
}

pub(crate) fn operation() -> OperationId {
    OPERATION.parse().unwrap()
}

pub(crate) fn machine() -> MachineId {
    MachineId::new("m1").unwrap()
}

pub(crate) fn instance(slot: u32) -> InstanceSpec {
    let manifest = manifest();
    let (service, spec) = manifest.services.iter().next().unwrap();
    InstanceSpec {
        name: InstanceName::new(format!("web-{slot}-01234567")).unwrap(),
        namespace: manifest.namespace.clone(),
        service: service.clone(),
        slot,
        operation: operation(),
        workload: spec.workload.clone(),
        address: format!("10.101.0.{}", slot + 2).parse().unwrap(),
        ports: spec.ports.clone(),
    }
}

pub(crate) fn commit(number: u64) -> Commit {
    let manifest = manifest();
    let (service, spec) = manifest.services.iter().next().unwrap();
    let made = instance(0);
    let slot = CommittedInstance {
        machine: machine(),
        instance: made.name.clone(),
        operation: operation(),
        config_hash: made.config_hash(),
        workload: Digest::of(&made.workload),
        address: made.address,
        ports: made.ports.clone(),
    };
    let committed = CommittedService {
        revision: spec.revision(),
        stopped: false,
        slots: BTreeMap::from([(0, slot)]),
        routes: spec.routes.clone(),
    };
    Commit {
        v: 1,
        namespace: manifest.namespace.clone(),
        number,
        operation: operation(),
        request: manifest.digest(),
        summary: "deploy blog".to_owned(),
        at: UnixTime::from_millis(1_795_176_001_999),
        services: BTreeMap::from([(service.clone(), committed)]),
    }
}

pub(crate) fn plan() -> Plan {
    let step = |id: &str, action, after: &[&str]| Step {
        id: id.parse().unwrap(),
        machine: machine(),
        action,
        undo: None,
        after: after.iter().map(|id| id.parse().unwrap()).collect(),
        deadline: Span::from_secs(60),
    };
    let made = instance(0);
    let ready = Action::AwaitReady {
        instance: made.name.clone(),
        address: made.address,
        port: 8080,
        readiness: None,
    };
    let old = InstanceName::new("web-0-fedcba98").unwrap();
    Plan {
        operation: operation(),
        scope: Scope::Namespace(manifest().namespace),
        baseline: Baseline { head: 1, instances: BTreeMap::new() },
        notes: vec!["db is removed: the manifest does not have it".to_owned()],
        steps: vec![
            step("start-web-0", Action::Ensure { spec: Box::new(made) }, &[]),
            step("ready-web-0", ready, &["start-web-0"]),
        ],
        commit: PlannedCommit {
            commit: commit(2),
            removes_namespace: false,
            revisions: BTreeMap::new(),
            allocation: Allocation { v: 1, machines: BTreeMap::new() },
            claims: BTreeMap::new(),
            gains: BTreeSet::new(),
            releases: BTreeSet::new(),
        },
        cleanup: vec![step(
            "remove-web-0",
            Action::Remove { instance: old, grace: Span::from_secs(10) },
            &[],
        )],
        left_to_others: BTreeMap::new(),
        uses: BTreeMap::new(),
    }
}

pub(crate) fn row(slot: u32, committed: bool, state: InstanceState) -> InstanceRow {
    let instance = ObservedInstance {
        spec: instance(slot),
        state,
        started_at: None,
        pid: Some(42),
        restarts: 1,
        last_exit: None,
    };
    InstanceRow { machine: machine(), instance, committed }
}

/// Slot 1 runs and belongs to the head; slot 0 does not; machine m2 is silent.
pub(crate) fn instances() -> InstancesView {
    InstancesView {
        answered: vec![machine()],
        silent: vec![SilentMachine {
            machine: MachineId::new("m2").unwrap(),
            reason: "no answer within 1 s".to_owned(),
        }],
        rows: vec![
            row(1, true, InstanceState::Running),
            row(0, false, InstanceState::Exited { code: 3 }),
        ],
    }
}

pub(crate) fn error(code: &str) -> ErrorBody {
    ErrorBody::new(code, "it is so").next("ployzctl op ls")
}

pub(crate) fn finished(result: OperationResult) -> OperationEvent {
    OperationEvent::Finished { result }
}

pub(crate) fn recorded() -> OperationEvent {
    OperationEvent::Recorded { operation: operation(), adopted: false }
}

pub(crate) fn committed() -> OperationResult {
    OperationResult::Committed { operation: operation(), commit: 2, notes: Vec::new() }
}

/// All that a deploy says when all is well.
pub(crate) fn deploy_events() -> Vec<OperationEvent> {
    let plan = plan();
    let steps = plan.steps.iter().flat_map(|step| {
        [StepStatus::Started, StepStatus::Done].map(|status| OperationEvent::Step {
            step: step.id.clone(),
            machine: step.machine.clone(),
            action: step.action.to_string(),
            status,
        })
    });
    let digest = plan.digest();
    let mut events = vec![OperationEvent::Observing];
    events.push(OperationEvent::Planned { plan: Box::new(plan.clone()), digest });
    events.push(recorded());
    events.extend(steps);
    events.push(finished(committed()));
    events
}
