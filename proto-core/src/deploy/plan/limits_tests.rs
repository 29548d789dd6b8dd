//! At each limit a plan is made; beyond it, it is refused before anything changes.

use super::limits::{MAX_RECORD_BYTES, MAX_REPLICAS, MAX_WRITES, OTHER_WRITES};
use super::shared_tests::World;
use crate::api::OperationRequest;
use crate::coordination::plan::Plan;
use crate::deploy::HostName;
use crate::deploy::manifest::{Format, parse};
use crate::deploy::spec::{Manifest, Replicas, Route, ServiceSpec, Strategy};
use crate::deploy::validate::{MAX_COMMIT_BYTES, MAX_SERVICES};
use crate::id::ServiceName;
use crate::machine::Addressing;
use crate::runtime::{Probe, Readiness};
use crate::span::Span;
use crate::store::Key;
use crate::store::facts::Claim;

/// Room for any number of instances.
fn world() -> World {
    let range = Addressing::Loopback { first: 1024, last: 65_535 };
    World::new([range, range])
}

fn base() -> (Manifest, ServiceSpec) {
    let text = "namespace = \"a\"\n[[services]]\nname = \"w\"\nimage = \"app:v1\"";
    let manifest = parse(text, Format::Toml, "test.toml").unwrap();
    let spec = manifest.services.values().next().unwrap().clone();
    (manifest, spec)
}

fn deploy(services: impl IntoIterator<Item = (String, ServiceSpec)>) -> OperationRequest {
    let (mut manifest, _) = base();
    let services = services.into_iter();
    manifest.services = services.map(|(name, s)| (ServiceName::new(name).unwrap(), s)).collect();
    OperationRequest::Deploy { manifest }
}

fn replicas(count: u32) -> ServiceSpec {
    let (_, mut spec) = base();
    spec.placement.replicas = Replicas::Count(count);
    spec
}

fn code(result: Result<Plan, String>) -> String {
    result.err().unwrap_or_else(|| "planned".to_owned())
}

fn bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).unwrap().len()
}

#[test]
fn instances_are_changed_as_many_as_one_batch_can_write() {
    let most = (MAX_WRITES - OTHER_WRITES) as u32;
    world().apply(&deploy([("w".to_owned(), replicas(most))])).unwrap();
    let beyond = world().apply(&deploy([("w".to_owned(), replicas(most + 1))]));
    assert_eq!(code(beyond), "TOO_MANY_WRITES");
    let beyond = world().apply(&deploy([("w".to_owned(), replicas(MAX_REPLICAS + 1))]));
    assert_eq!(code(beyond), "OUT_OF_RANGE");
    // A slot whose instance is replaced is written once.
    let mut world = world();
    let labelled = |text: &str| {
        let mut spec = replicas(most);
        spec.workload.labels.insert("l".to_owned(), text.to_owned());
        deploy([("w".to_owned(), spec)])
    };
    world.apply(&labelled("a")).unwrap();
    world.apply(&labelled("b")).unwrap();
    // What goes counts like what comes.
    let mut world = self::world();
    world.apply(&deploy([("w".to_owned(), replicas(most / 2))])).unwrap();
    world.apply(&deploy([("x".to_owned(), replicas(most / 2))])).unwrap();
    let beyond = world.apply(&deploy([("w".to_owned(), replicas(most / 2 + 2))]));
    assert_eq!(code(beyond), "TOO_MANY_WRITES");
}

#[test]
fn a_service_that_contradicts_itself_is_refused_also_without_a_manifest() {
    let mut beside = replicas(1);
    beside.ports.insert("http".to_owned(), 80);
    beside.workload.publish.insert(8080, "http".to_owned());
    let (manifest, _) = base();
    let service = |name: &str, spec: &ServiceSpec| OperationRequest::DeployService {
        namespace: manifest.namespace.clone(),
        service: ServiceName::new(name).unwrap(),
        spec: Box::new(spec.clone()),
    };
    assert_eq!(beside.rollout.strategy, Strategy::Rolling);
    assert_eq!(code(world().apply(&deploy([("w".to_owned(), beside.clone())]))), "CONTRADICTION");
    assert_eq!(code(world().apply(&service("w", &beside))), "CONTRADICTION");
    beside.rollout.strategy = Strategy::Recreate;
    world().apply(&service("w", &beside)).unwrap();
}

#[test]
fn claims_are_changed_as_many_as_one_batch_can_write() {
    let with_hosts = |count: usize| {
        let mut spec = replicas(1);
        spec.ports.insert("http".to_owned(), 8080);
        let hostnames = (0..count).map(|n| HostName::new(format!("h{n}.example")).unwrap());
        spec.routes = vec![Route {
            hostnames: hostnames.collect(),
            path_prefix: "/".to_owned(),
            port: "http".to_owned(),
        }];
        deploy([("w".to_owned(), spec)])
    };
    let mut world = world();
    let most = MAX_WRITES - OTHER_WRITES;
    world.apply(&with_hosts(most)).unwrap();
    // What is held already is not written again; what is given up is.
    world.apply(&with_hosts(most / 2)).unwrap();
    world.apply(&with_hosts(most)).unwrap();
    assert_eq!(code(self::world().apply(&with_hosts(most + 1))), "TOO_MANY_WRITES");
    // Beyond what one deploy can take, two can.
    world.apply(&with_hosts(most + 1)).unwrap();
}

#[test]
fn services_are_as_many_as_a_manifest_may_have_also_without_one() {
    let many = |count: usize| deploy((0..count).map(|n| (format!("s{n}"), replicas(0))));
    world().apply(&many(MAX_SERVICES)).unwrap();
    assert_eq!(code(world().apply(&many(MAX_SERVICES + 1))), "TOO_MANY");
}

#[test]
fn a_service_that_no_revision_could_hold_is_refused() {
    let sized = |size: usize| {
        let mut spec = replicas(1);
        spec.workload.env.insert("BLOB".to_owned(), "x".repeat(size));
        deploy([("w".to_owned(), spec)])
    };
    let overhead = MAX_COMMIT_BYTES - bytes(&replicas(1)) - 64;
    let plan = world().apply(&sized(overhead)).unwrap();
    // What a machine is told of it fits into a command.
    assert!(plan.steps.iter().all(|step| bytes(step) < 1000 * 1024));
    assert_eq!(code(world().apply(&sized(MAX_COMMIT_BYTES))), "TOO_LARGE");
}

#[test]
fn a_commit_and_a_record_are_no_larger_than_the_store_takes() {
    let request = |services: u32, count: u32, blob: usize| {
        deploy((0..services).map(|n| {
            let mut spec = replicas(count);
            spec.workload.env.insert("BLOB".to_owned(), "x".repeat(blob));
            let ports = (0..8).map(|n| (format!("a-port-with-a-long-name-{n}"), 8000 + n));
            spec.ports = if blob == 0 { ports.collect() } else { Default::default() };
            (format!("a-service-with-a-rather-long-name-{n}"), spec)
        }))
    };
    let largest = request(1, 890, 0);
    let plan = world().apply(&largest).unwrap();
    assert!(bytes(&plan.commit.commit) <= MAX_COMMIT_BYTES);
    assert!(bytes(&plan) + bytes(&largest) <= MAX_RECORD_BYTES);
    // The same environment is in the plan once for each instance.
    world().apply(&request(1, 10, 100 * 1024)).unwrap();
    assert_eq!(code(world().apply(&request(1, 20, 100 * 1024))), "OPERATION_TOO_LARGE");
    // What stays is in the commit and in no step.
    let mut world = world();
    world.apply(&deploy([("w".to_owned(), replicas(890))])).unwrap();
    let beyond = world.apply(&deploy([
        ("w".to_owned(), replicas(890)),
        (
            "a-service-with-a-name-of-the-length-that-hardly-anybody-writes".to_owned(),
            replicas(890),
        ),
    ]));
    assert_eq!(code(beyond), "COMMIT_TOO_LARGE");
}

#[test]
fn a_plan_of_the_longest_readiness_reads_back() {
    let forever = Span::from_millis(u64::MAX);
    let hour = Span::from_secs(3600);
    for (interval, retries) in [(hour, 1000), (forever, u32::MAX)] {
        let mut spec = replicas(1);
        let mut readiness = Readiness::new(Probe::Exec { command: vec!["true".to_owned()] });
        (readiness.interval, readiness.retries) = (interval, retries);
        readiness.start_period = interval;
        spec.readiness = Some(readiness);
        spec.workload.stop_grace_period = interval;
        let plan = world().apply(&deploy([("w".to_owned(), spec)])).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}

#[test]
fn after_the_last_number_there_is_no_commit() {
    let mut world = world();
    world.apply(&deploy([("w".to_owned(), replicas(1))])).unwrap();
    let own = world.own.values_mut().next().unwrap();
    own.head.as_mut().unwrap().value.commit = u64::MAX;
    assert_eq!(code(world.apply(&deploy([("w".to_owned(), replicas(2))]))), "FACT_UNREADABLE");
}

#[test]
fn a_plan_that_no_planner_made_is_told_from_one_that_it_made() {
    let plan = world().apply(&deploy([("w".to_owned(), replicas(2))])).unwrap();
    assert_eq!(plan.flaw(), None);
    type Change = fn(&mut Plan);
    let flawed: [(&str, Change); 8] = [
        ("of namespace b", |plan| plan.commit.commit.namespace = "b".parse().unwrap()),
        ("of operation", |plan| plan.operation = "0123456789abcdef".parse().unwrap()),
        ("number 5 after 0", |plan| plan.commit.commit.number = 5),
        ("after 18446744073709551615", |plan| plan.baseline.head = u64::MAX),
        ("claims cluster", |plan| {
            plan.commit.releases.insert(Key::cluster());
        }),
        ("for namespace b", |plan| {
            let (namespace, service) = ("b".parse().unwrap(), "w".parse().unwrap());
            let claim = Claim { v: 1, namespace, service, released: false };
            plan.commit.claims.insert("host.b_test".parse().unwrap(), claim);
        }),
        ("twice", |plan| plan.steps.push(plan.steps[0].clone())),
        ("never comes", |plan| plan.steps[0].after = vec!["nobody".parse().unwrap()]),
    ];
    for (words, change) in flawed {
        let mut changed = plan.clone();
        change(&mut changed);
        let flaw = changed.flaw().unwrap_or_default();
        assert!(flaw.contains(words), "{words}: {flaw:?}");
    }
    let mut circle = plan.clone();
    let last = circle.steps.last().unwrap().id.clone();
    circle.steps[0].after = vec![last];
    assert!(circle.flaw().unwrap_or_default().contains("never comes"));
}

/// Five hundred services as people write them: an image, a little environment, a route, a readiness check.
#[test]
fn every_service_of_the_largest_manifest_can_be_changed_at_once() {
    let all = |version: &str| {
        let services = (0..MAX_SERVICES).map(|n| {
            let text = format!(
                r#"
                namespace = "a"
                [[services]]
                name = "service-{n}"
                image = "app:{version}"
                env = {{ DATABASE_URL = "postgres://app@db.example/app-{n}", LOG = "info" }}
                ports = {{ http = 8080 }}
                routes = [{{ hostnames = ["service-{n}.example"] }}]
                readiness = {{ http = {{ path = "/health", port = "http" }} }}
                "#
            );
            let manifest = parse(&text, Format::Toml, "test.toml").unwrap();
            let (name, spec) = manifest.services.into_iter().next().unwrap();
            (name.to_string(), spec)
        });
        deploy(services)
    };
    let mut world = world();
    world.apply(&all("v1")).unwrap();
    let plan = world.apply(&all("v2")).unwrap();
    assert!(bytes(&plan) + bytes(&all("v2")) <= MAX_RECORD_BYTES);
}
