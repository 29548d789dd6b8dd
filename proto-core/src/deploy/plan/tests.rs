use std::collections::BTreeMap;

use super::{Planned, no_namespace, plan};
use crate::api::OperationRequest;
use crate::coordination::command::{MachineObservation, Uses};
use crate::coordination::plan::{Action, Plan};
use crate::deploy::manifest::{Format, parse};
use crate::deploy::spec::Manifest;
use crate::id::{MachineId, Namespace, ServiceName};
use crate::machine::{Addressing, MachineLifecycle, MachineRecord};
use crate::runtime::{InstanceState, ObservedInstance, RuntimeFacts};
use crate::store::facts::{Head, VERSION};
use crate::store::{Facts, Revision, Versioned};

/// A cluster of one, with what its operator did to it so far.
struct Cluster {
    facts: Facts,
    seen: BTreeMap<MachineId, MachineObservation>,
}

fn machine() -> MachineId {
    MachineId::new("m1").unwrap()
}

impl Cluster {
    fn new() -> Self {
        let record = MachineRecord {
            v: VERSION,
            id: machine(),
            lifecycle: MachineLifecycle::Active,
            region: "local".to_owned(),
            az: None,
            labels: BTreeMap::new(),
            addressing: Addressing::Subnet([10, 101, 0, 0].into()),
        };
        let facts = RuntimeFacts {
            images_present: vec!["app:v1".to_owned(), "app:v2".to_owned()],
            ports_taken: Vec::new(),
            ports_listening: Vec::new(),
            cpu_total_millis: 2000,
            memory_total_bytes: 1 << 34,
            disk_free_bytes: 1 << 40,
        };
        let seen = MachineObservation {
            machine: machine(),
            instances: Vec::new(),
            facts,
            runtime: "docker".to_owned(),
            uses: Uses::default(),
        };
        Self {
            facts: Facts { machines: [(machine(), record)].into(), ..Facts::default() },
            seen: [(machine(), seen)].into(),
        }
    }

    fn plan(&self, request: &OperationRequest) -> Planned {
        plan(request, &self.facts, &self.seen, &[])
    }

    fn expect_plan(&self, request: &OperationRequest) -> Plan {
        match self.plan(request) {
            Planned::Plan(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self, request: &OperationRequest) -> String {
        match self.plan(request) {
            Planned::Refused(error) => error.code,
            other => panic!("{other:?}"),
        }
    }

    /// Does what the engine and the machine would do.
    fn apply(&mut self, request: &OperationRequest) -> Plan {
        let plan = self.expect_plan(request);
        let instances = &mut self.seen.get_mut(&machine()).unwrap().instances;
        for step in plan.steps.iter().chain(&plan.cleanup) {
            match &step.action {
                Action::Ensure { spec } => instances.push(ObservedInstance {
                    spec: (**spec).clone(),
                    state: InstanceState::Running,
                    started_at: None,
                    pid: Some(1),
                    restarts: 0,
                    last_exit: None,
                }),
                Action::Remove { instance, .. } => instances.retain(|i| i.spec.name != *instance),
                _ => {}
            }
        }
        let commit = plan.commit.commit.clone();
        let head =
            Head { v: VERSION, commit: commit.number, removed: plan.commit.removes_namespace };
        self.facts.head = Some(Versioned { revision: Revision(commit.number), value: head });
        self.facts.revisions.extend(plan.commit.revisions.clone());
        let allocation =
            Versioned { revision: Revision(commit.number), value: plan.commit.allocation.clone() };
        self.facts.allocations.insert(commit.namespace.clone(), allocation);
        self.facts.commits.insert(commit.number, commit);
        plan
    }
}

fn manifest(text: &str) -> Manifest {
    parse(text, Format::Toml, "test.toml").unwrap()
}

fn deploy(image: &str, strategy: &str) -> OperationRequest {
    let text = format!(
        r#"
namespace = "blog"
[[services]]
name = "web"
image = "{image}"
placement = {{ replicas = 2 }}
ports = {{ http = 8080 }}
routes = [{{ hostnames = ["blog.example"], port = "http" }}]
readiness = {{ http = {{ path = "/", port = "http" }} }}
rollout = {{ strategy = "{strategy}" }}
"#
    );
    OperationRequest::Deploy { manifest: manifest(&text) }
}

fn position(plan: &Plan, step: &str) -> usize {
    let all = plan.steps.iter().chain(&plan.cleanup);
    all.map(|s| s.id.as_str())
        .position(|id| id.starts_with(step))
        .unwrap_or_else(|| panic!("no {step}"))
}

fn after(plan: &Plan, step: &str) -> Vec<String> {
    let all = plan.steps.iter().chain(&plan.cleanup);
    let found = all.into_iter().find(|s| s.id.as_str().starts_with(step)).unwrap();
    found.after.iter().map(ToString::to_string).collect()
}

fn count(plan: &Plan, verb: &str) -> usize {
    let all = plan.steps.iter().chain(&plan.cleanup);
    all.filter(|step| step.id.as_str().starts_with(verb)).count()
}

#[test]
fn a_first_deploy_starts_and_waits_before_it_commits() {
    let plan = Cluster::new().expect_plan(&deploy("app:v1", "rolling"));
    assert_eq!(
        (count(&plan, "start-"), count(&plan, "ready-"), count(&plan, "remove-")),
        (2, 2, 0)
    );
    assert!(position(&plan, "start-web-0") < position(&plan, "ready-web-0"));
    assert_eq!(plan.commit.commit.number, 1);
    let addresses: Vec<_> = plan.commit.commit.services[&ServiceName::new("web").unwrap()]
        .slots
        .values()
        .map(|i| i.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.101.0.2", "10.101.0.3"]);
}

#[test]
fn rolling_waits_for_each_batch_and_blue_green_does_not() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let rolling = cluster.expect_plan(&deploy("app:v2", "rolling"));
    assert!(after(&rolling, "start-web-1")[0].starts_with("ready-web-0"));
    let blue_green = cluster.expect_plan(&deploy("app:v2", "blue_green"));
    assert!(after(&blue_green, "start-web-1").is_empty());
    for plan in [rolling, blue_green] {
        // Nothing old is touched before the commit, and only what gateways have left is removed after it.
        assert!(
            plan.steps
                .iter()
                .all(|s| matches!(s.action, Action::Ensure { .. } | Action::AwaitReady { .. }))
        );
        assert!(after(&plan, "drain-")[0].starts_with("routes-"));
        assert!(after(&plan, "remove-")[0].starts_with("drain-"));
    }
}

#[test]
fn recreate_stops_the_old_before_the_new_and_says_so() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "recreate"));
    let plan = cluster.expect_plan(&deploy("app:v2", "recreate"));
    assert!(position(&plan, "stop-") < position(&plan, "start-"));
    assert!(after(&plan, "start-web-0").iter().all(|id| id.starts_with("stop-")));
    let stop = &plan.steps[position(&plan, "stop-")];
    assert!(matches!(stop.undo, Some(Action::Start { .. })));
    assert!(plan.notes[0].contains("down"), "{:?}", plan.notes);
    assert_eq!(count(&plan, "drain-"), 0, "what is stopped has no requests");
}

#[test]
fn a_service_that_wants_the_route_of_another_one_of_its_namespace_is_refused() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let OperationRequest::Deploy { manifest } = deploy("app:v1", "rolling") else { panic!() };
    let spec = manifest.services.into_values().next().unwrap();
    let api = OperationRequest::DeployService {
        namespace: Namespace::new("blog").unwrap(),
        service: ServiceName::new("api").unwrap(),
        spec: Box::new(spec),
    };
    let Planned::Refused(error) = cluster.plan(&api) else { panic!("one of them is never served") };
    assert_eq!(error.code, "ROUTE_CONFLICT");
    assert!(error.message.contains("blog.example/ is routed by service api"), "{error}");
}

#[test]
fn what_a_recreate_gives_up_without_a_successor_is_drained() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "recreate"));
    let namespace = Namespace::new("blog").unwrap();
    let service = ServiceName::new("web").unwrap();
    let replicas = [(service.clone(), 1)].into();
    let requests = [
        (OperationRequest::Scale { namespace: namespace.clone(), replicas }, 1),
        (OperationRequest::Stop { namespace, service }, 2),
    ];
    for (request, gone) in requests {
        let plan = cluster.expect_plan(&request);
        assert_eq!((count(&plan, "stop-"), count(&plan, "drain-")), (0, gone), "{request:?}");
        assert!(after(&plan, "remove-")[0].starts_with("drain-"));
    }
}

#[test]
fn the_same_again_is_done_already_and_an_older_one_is_a_new_commit() {
    let mut cluster = Cluster::new();
    let (v1, v2) = (deploy("app:v1", "rolling"), deploy("app:v2", "rolling"));
    let first = cluster.apply(&v1);
    assert_eq!(cluster.plan(&v1), Planned::AlreadyDone { commit: 1 });
    cluster.apply(&v2);
    let third = cluster.apply(&v1);
    assert_eq!(third.commit.commit.number, 3);
    assert_ne!(first.operation, third.operation);
    assert_eq!(cluster.plan(&v1), Planned::AlreadyDone { commit: 3 });
}

#[test]
fn an_instance_that_is_gone_is_made_anew() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    cluster.seen.get_mut(&machine()).unwrap().instances.remove(0);
    let plan = cluster.expect_plan(&deploy("app:v1", "rolling"));
    assert_eq!((count(&plan, "start-web-0"), count(&plan, "start-web-1")), (1, 0));
}

#[test]
fn scale_keeps_the_slots_that_stay() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let scale = |n| OperationRequest::Scale {
        namespace: Namespace::new("blog").unwrap(),
        replicas: [(ServiceName::new("web").unwrap(), n)].into(),
    };
    let up = cluster.apply(&scale(3));
    assert_eq!((count(&up, "start-web-2"), count(&up, "start-"), count(&up, "remove-")), (1, 1, 0));
    assert_eq!(cluster.plan(&scale(3)), Planned::AlreadyDone { commit: 2 });
    let down = cluster.apply(&scale(1));
    assert_eq!((count(&down, "start-"), count(&down, "remove-")), (0, 2));
    assert_eq!(cluster.apply(&scale(3)).commit.commit.number, 4);
}

#[test]
fn what_is_scaled_to_0_cannot_be_restarted() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let (namespace, service) = (Namespace::new("blog").unwrap(), ServiceName::new("web").unwrap());
    let replicas = [(service.clone(), 0)].into();
    cluster.apply(&OperationRequest::Scale { namespace: namespace.clone(), replicas });
    let Planned::Refused(error) = cluster.plan(&OperationRequest::Restart { namespace, service })
    else {
        panic!("there is nothing to restart")
    };
    let next = Some("ployzctl scale blog/web=1");
    assert_eq!((&*error.code, error.next.as_deref()), ("NOTHING_TO_RESTART", next));
}

#[test]
fn restart_makes_every_instance_anew_each_time() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let restart = OperationRequest::Restart {
        namespace: Namespace::new("blog").unwrap(),
        service: ServiceName::new("web").unwrap(),
    };
    let (first, second) = (cluster.apply(&restart), cluster.apply(&restart));
    assert_ne!(first.operation, second.operation);
    assert_eq!((count(&second, "start-"), count(&second, "remove-")), (2, 2));
}

#[test]
fn rollback_restores_the_services_of_an_earlier_commit() {
    let mut cluster = Cluster::new();
    let first = cluster.apply(&deploy("app:v1", "rolling"));
    let namespace = Namespace::new("blog").unwrap();
    let rollback = |to| OperationRequest::Rollback { namespace: namespace.clone(), to };
    let Planned::Refused(none) = cluster.plan(&rollback(None)) else { panic!("planned") };
    let said = "namespace blog has no commit before its first";
    assert_eq!((none.code.as_str(), none.message.as_str()), ("NO_SUCH_COMMIT", said));
    cluster.apply(&deploy("app:v2", "rolling"));
    assert_eq!(cluster.refusal(&rollback(Some(7))), "NO_SUCH_COMMIT");
    let back = cluster.apply(&rollback(None));
    let revision = |plan: &Plan| plan.commit.commit.services.values().next().unwrap().revision;
    assert_eq!((back.commit.commit.number, revision(&back)), (3, revision(&first)));
    assert_eq!(back.commit.commit.summary, "rollback blog to 1", "also where nobody typed it");
}

#[test]
fn a_namespace_that_was_removed_says_by_what_and_when() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let namespace = Namespace::new("blog").unwrap();
    let rollback = OperationRequest::Rollback { namespace: namespace.clone(), to: None };
    let gone = cluster.apply(&OperationRequest::RemoveNamespace { namespace: namespace.clone() });
    let Planned::Refused(error) = cluster.plan(&rollback) else { panic!("planned") };
    assert_eq!(error.code, "NO_SUCH_NAMESPACE");
    let by = format!("namespace blog was removed by operation {} at ", gone.operation);
    assert!(error.message.starts_with(&by), "{}", error.message);
    assert_eq!(error.next.as_deref(), Some("ployzctl deploy history blog"));
    let never = Namespace::new("never").unwrap();
    let error = no_namespace(&never, &crate::store::Facts::default());
    assert_eq!(error.message, "there is no namespace never");
}

#[test]
fn preconditions_are_refused_before_anything_changes() {
    let cluster = Cluster::new();
    assert_eq!(cluster.refusal(&deploy("app:v9", "rolling")), "IMAGE_MISSING");
    let nobody = Cluster { facts: cluster.facts.clone(), seen: BTreeMap::new() };
    assert_eq!(nobody.refusal(&deploy("app:v1", "rolling")), "MACHINE_SILENT");
    let mut claimed = Cluster::new();
    let host = crate::deploy::HostName::new("blog.example").unwrap();
    let claim = crate::store::facts::Claim {
        v: VERSION,
        namespace: Namespace::new("other").unwrap(),
        service: ServiceName::new("web").unwrap(),
        released: false,
    };
    let key = crate::store::Key::host(&host);
    let owned = Versioned { revision: Revision(3), value: claim.clone() };
    claimed.facts.claims.insert(key.clone(), owned);
    assert_eq!(claimed.refusal(&deploy("app:v1", "rolling")), "ROUTE_CONFLICT");
    let given_up = crate::store::facts::Claim { released: true, ..claim };
    claimed.facts.claims.insert(key, Versioned { revision: Revision(4), value: given_up });
    claimed.expect_plan(&deploy("app:v1", "rolling"));
}

#[test]
fn a_prepared_plan_names_what_moved() {
    let mut cluster = Cluster::new();
    let prepared = cluster.expect_plan(&deploy("app:v1", "rolling"));
    assert_eq!(prepared.baseline.drift(&prepared.baseline), None);
    cluster.apply(&deploy("app:v2", "rolling"));
    let now = cluster.expect_plan(&deploy("app:v1", "rolling"));
    assert!(prepared.baseline.drift(&now.baseline).unwrap().contains("head moved"));
}

#[test]
fn a_stopped_service_keeps_its_spec_and_has_no_instances() {
    let mut cluster = Cluster::new();
    cluster.apply(&deploy("app:v1", "rolling"));
    let namespace = Namespace::new("blog").unwrap();
    let service = ServiceName::new("web").unwrap();
    let stop = OperationRequest::Stop { namespace: namespace.clone(), service: service.clone() };
    let plan = cluster.apply(&stop);
    assert_eq!((count(&plan, "start-"), count(&plan, "remove-")), (0, 2));
    assert_eq!(cluster.plan(&stop), Planned::AlreadyDone { commit: 2 });
    let restart = OperationRequest::Restart { namespace, service };
    assert_eq!(count(&cluster.apply(&restart), "start-"), 2);
}

#[test]
fn what_a_process_cannot_have_is_refused_in_the_plan_by_its_key() {
    let mut cluster = Cluster::new();
    cluster.seen.get_mut(&machine()).unwrap().runtime = "process".to_owned();
    let base = "namespace = \"a\"\n[[services]]\nname = \"w\"\nports = { http = 80 }\n";
    let deploy = |lines: &str| OperationRequest::Deploy {
        manifest: parse(&format!("{base}{lines}"), Format::Toml, "test.toml").unwrap(),
    };
    cluster.expect_plan(&deploy("command = [\"serve\"]"));
    cluster.expect_plan(&deploy(
        "image = \"host\"\ncommand = [\"serve\"]\nuser = \"nobody\"\nnetwork = \"host\"\nrollout = { strategy = \"recreate\" }\nresources = { reservations = { cpu = \"100m\", memory = \"64MiB\" } }",
    ));
    let publish = "publish = [{ port = \"http\", machine_port = 80 }]";
    for (key, line) in [
        ("`image`", "image = \"app:v1\""),
        ("`resources.cpu`", "resources = { cpu = \"500m\" }"),
        ("`resources.memory`", "resources = { memory = \"64MiB\" }"),
        ("`publish`", publish),
        ("`cap_add`", "cap_add = [\"NET_ADMIN\"]"),
        ("`cap_drop`", "cap_drop = [\"ALL\"]"),
    ] {
        let request = deploy(&format!("command = [\"serve\"]\n{line}"));
        let Planned::Refused(error) = cluster.plan(&request) else { panic!("{key} is planned") };
        assert_eq!(error.code, "UNSUPPORTED");
        assert_eq!(error.next.as_deref(), Some("ployzctl deploy preview"));
        for word in ["service w ", "machine m1", key] {
            assert!(error.message.contains(word), "{word}: {}", error.message);
        }
    }
    // No manifest lacks it, but what comes without one may.
    let mut bare = deploy("command = [\"serve\"]");
    let OperationRequest::Deploy { manifest } = &mut bare else { unreachable!() };
    manifest.services.values_mut().for_each(|spec| spec.workload.command.clear());
    assert_eq!(cluster.refusal(&bare), "MISSING_KEY");
    // All of them at once, so that nobody mends them one by one.
    let two = deploy(&format!("command = [\"serve\"]\ncap_drop = [\"ALL\"]\n{publish}"));
    let Planned::Refused(error) = cluster.plan(&two) else { panic!("planned") };
    assert!(error.message.contains("`publish`") && error.message.contains("`cap_drop`"));
    // And the other way round: a container is made from an image.
    let containers = Cluster::new();
    assert_eq!(containers.refusal(&deploy("command = [\"serve\"]")), "UNSUPPORTED");
}
