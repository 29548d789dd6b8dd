//! Several namespaces on the same machines: what one has, the others cannot have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Planned, plan};
use crate::api::OperationRequest;
use crate::coordination::command::{MachineObservation, Uses};
use crate::coordination::plan::{Action, Plan};
use crate::coordination::record::{OperationRecord, Phase};
use crate::deploy::manifest::{Format, parse};
use crate::id::{MachineId, Namespace};
use crate::machine::{Addressing, MachineLifecycle, MachineRecord};
use crate::runtime::{InstanceState, ObservedInstance, RuntimeFacts};
use crate::store::facts::{Allocation, Claim, Commit, Head, MachineAllocation, VERSION};
use crate::store::{Facts, Key, Revision, Versioned};
use crate::time::UnixTime;

const GIB: u64 = 1 << 30;
const MACHINES: [&str; 2] = ["m1", "m2"];

/// Two machines of two cores and 4 GiB, and what each namespace has there.
#[derive(Default)]
pub(super) struct World {
    /// Without what belongs to one namespace alone.
    shared: Facts,
    pub(super) own: BTreeMap<Namespace, Facts>,
    pub(super) seen: BTreeMap<MachineId, MachineObservation>,
}

fn id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn versioned<T>(value: T) -> Versioned<T> {
    Versioned { revision: Revision(1), value }
}

impl World {
    pub(super) fn new(addressing: [Addressing; 2]) -> Self {
        let mut world = Self::default();
        for (name, addressing) in MACHINES.into_iter().zip(addressing) {
            let record = MachineRecord {
                v: VERSION,
                id: id(name),
                lifecycle: MachineLifecycle::Active,
                region: "local".to_owned(),
                az: None,
                labels: BTreeMap::new(),
                addressing,
            };
            world.shared.machines.insert(id(name), record);
            let facts = RuntimeFacts {
                images_present: vec!["app:v1".to_owned(), "app:v2".to_owned()],
                ports_taken: Vec::new(),
                ports_listening: Vec::new(),
                cpu_total_millis: 2000,
                memory_total_bytes: 4 * GIB,
                disk_free_bytes: 1 << 40,
            };
            let seen = MachineObservation {
                machine: id(name),
                instances: Vec::new(),
                facts,
                runtime: "docker".to_owned(),
                uses: Uses::default(),
            };
            world.seen.insert(id(name), seen);
        }
        world
    }

    fn subnets() -> Self {
        Self::new([
            Addressing::Subnet([10, 101, 0, 0].into()),
            Addressing::Subnet([10, 101, 1, 0].into()),
        ])
    }

    fn plan(&self, request: &OperationRequest) -> Planned {
        let own = self.own.get(request.namespace()).cloned().unwrap_or_default();
        let facts = Facts {
            head: own.head,
            commits: own.commits,
            revisions: own.revisions,
            ..self.shared.clone()
        };
        plan(request, &facts, &self.seen, &[])
    }

    /// Does what the engine and the machines would do; the code if it is refused.
    pub(super) fn apply(&mut self, request: &OperationRequest) -> Result<Plan, String> {
        let plan = match self.plan(request) {
            Planned::Plan(plan) => *plan,
            Planned::AlreadyDone { .. } => return Err("ALREADY_DONE".to_owned()),
            Planned::Refused(error) => {
                assert!(error.next.is_some(), "a refusal names the next command: {error:?}");
                return Err(error.code);
            }
        };
        for step in plan.steps.iter().chain(&plan.cleanup) {
            let instances = &mut self.seen.get_mut(&step.machine).unwrap().instances;
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
        let planned = plan.commit.clone();
        let own = self.own.entry(planned.commit.namespace.clone()).or_default();
        let head =
            Head { v: VERSION, commit: planned.commit.number, removed: planned.removes_namespace };
        own.head = Some(versioned(head));
        own.revisions.extend(planned.revisions);
        self.shared
            .allocations
            .insert(planned.commit.namespace.clone(), versioned(planned.allocation));
        self.shared
            .claims
            .extend(planned.claims.into_iter().map(|(key, claim)| (key, versioned(claim))));
        for key in planned.releases {
            self.shared.claims.get_mut(&key).unwrap().value.released = true;
        }
        own.commits.insert(planned.commit.number, planned.commit);
        Ok(plan)
    }

    fn reserve(&mut self, owner: &str, machine: &str, cpu_millis: u64, memory_bytes: u64) {
        let there = MachineAllocation { cpu_millis, memory_bytes, ..MachineAllocation::default() };
        let allocation = self.shared.allocations.entry(namespace(owner));
        let empty = || versioned(Allocation { v: VERSION, machines: BTreeMap::new() });
        allocation.or_insert_with(empty).value.machines.insert(id(machine), there);
    }

    fn claim_port(&mut self, owner: &str, machine: &str, port: u16) {
        let service = crate::id::ServiceName::new("web").unwrap();
        let claim = Claim { v: VERSION, namespace: namespace(owner), service, released: false };
        self.shared.claims.insert(Key::port(&id(machine), port), versioned(claim));
    }
}

fn deploy(namespace: &str, image: &str, replicas: u32, lines: &str) -> OperationRequest {
    let text = format!(
        "namespace = \"{namespace}\"\n[[services]]\nname = \"web\"\nimage = \"{image}\"\n\
         placement = {{ replicas = {replicas} }}\nports = {{ http = 8080 }}\n{lines}"
    );
    OperationRequest::Deploy { manifest: parse(&text, Format::Toml, "test.toml").unwrap() }
}

fn reserving(cpu: f64, memory: &str) -> String {
    format!("resources = {{ reservations = {{ cpu = {cpu}, memory = \"{memory}\" }} }}")
}

fn machines(plan: &Plan) -> Vec<&str> {
    let services = plan.commit.commit.services.values();
    services.flat_map(|service| service.slots.values()).map(|i| i.machine.as_str()).collect()
}

fn endpoints(commit: &Commit) -> BTreeSet<(MachineId, IpAddr, Option<u16>)> {
    let all = commit.services.values().flat_map(|service| service.slots.values());
    // On loopback the port tells instances apart, elsewhere the address does.
    all.map(|i| {
        let port = i.address.is_loopback().then(|| i.ports["http"]);
        (i.machine.clone(), i.address, port)
    })
    .collect()
}

#[test]
fn what_another_namespace_sets_aside_is_not_there_to_be_had() {
    let mut world = World::subnets();
    world.reserve("other", "m1", 1500, GIB);
    world.reserve("other", "m2", 0, 3 * GIB);
    let cpu = world.apply(&deploy("a", "app:v1", 1, &reserving(1.0, "64MiB"))).unwrap();
    assert_eq!(machines(&cpu), ["m2"], "m1 has half a core left");
    let memory = world.apply(&deploy("b", "app:v1", 1, &reserving(0.1, "2GiB"))).unwrap();
    assert_eq!(machines(&memory), ["m1"], "m2 has less than 1 GiB left");
    assert_eq!(
        world.apply(&deploy("c", "app:v1", 1, &reserving(0.1, "3GiB"))).unwrap_err(),
        "NO_PLACE"
    );
}

#[test]
fn what_a_namespace_has_itself_is_not_in_its_way() {
    let mut world = World::subnets();
    let lines = reserving(2.0, "4GiB");
    world.apply(&deploy("a", "app:v1", 2, &lines)).unwrap();
    world.apply(&deploy("a", "app:v2", 2, &lines)).unwrap();
    assert_eq!(
        world.apply(&deploy("b", "app:v1", 1, &reserving(0.1, "64MiB"))).unwrap_err(),
        "NO_PLACE"
    );
    world.apply(&OperationRequest::RemoveNamespace { namespace: namespace("a") }).unwrap();
    world.apply(&deploy("b", "app:v1", 2, &lines)).unwrap();
}

#[test]
fn what_an_operation_under_way_will_set_aside_is_not_there_either() {
    let mut world = World::subnets();
    let request = deploy("a", "app:v1", 2, &reserving(2.0, "4GiB"));
    let Planned::Plan(plan) = world.plan(&request) else { panic!("a plan") };
    let record = OperationRecord {
        done: None,
        v: VERSION,
        id: plan.operation.clone(),
        scope: plan.scope.clone(),
        summary: request.summary(),
        request_digest: request.digest(),
        request: Some(request),
        plan: Some(*plan),
        phase: Phase::Executing,
        attempt: 1,
        epoch: None,
        coordinator: id("m1"),
        nonce: String::new(),
        started: UnixTime::default(),
        updated: UnixTime::default(),
        error: None,
        notes: Vec::new(),
    };
    let other = deploy("b", "app:v1", 1, &reserving(0.1, "64MiB"));
    assert!(matches!(world.plan(&other), Planned::Plan(_)));
    world.shared.operations.insert(record.id.clone(), versioned(record));
    assert_eq!(world.apply(&other).unwrap_err(), "NO_PLACE");
}

#[test]
fn an_instance_goes_where_its_port_is_free_and_a_refusal_names_the_owner() {
    let mut world = World::subnets();
    let publishing = deploy("a", "app:v1", 1, "publish = [{ machine_port = 8080 }]");
    world.claim_port("other", "m1", 8080);
    let plan = world.apply(&publishing).unwrap();
    assert_eq!(machines(&plan), ["m2"]);

    let mut world = World::subnets();
    world.seen.get_mut(&id("m1")).unwrap().facts.ports_taken.push(8080);
    assert_eq!(machines(&world.apply(&publishing).unwrap()), ["m2"], "a stranger listens on m1");
    world.seen.get_mut(&id("m2")).unwrap().facts.ports_taken.push(8080);
    let again = deploy("a", "app:v2", 1, "publish = [{ machine_port = 8080 }]");
    assert_eq!(machines(&world.apply(&again).unwrap()), ["m2"], "its own port is not in its way");

    let mut world = World::subnets();
    MACHINES.iter().for_each(|machine| world.claim_port("other", machine, 8080));
    for listens in [false, true] {
        for machine in MACHINES.iter().filter(|_| listens) {
            world.seen.get_mut(&id(machine)).unwrap().facts.ports_taken.push(8080);
        }
        let Planned::Refused(error) = world.plan(&publishing) else { panic!("a refusal") };
        assert_eq!(error.code, "PORT_CONFLICT", "the owner's instance listens: {listens}");
        assert!(error.message.contains("other/web"), "{}", error.message);
    }
}

#[test]
fn an_instance_does_not_go_where_another_service_has_its_port_until_the_commit() {
    let publish = "publish = [{ machine_port = 9000 }]";
    let handed_over = format!(
        "[[services]]\nname = \"api\"\nimage = \"app:v1\"\nports = {{ http = 8080 }}\n{publish}"
    );
    let mut world = World::subnets();
    let first = world.apply(&deploy("a", "app:v1", 1, publish)).unwrap();
    assert_eq!(machines(&first), ["m1"]);
    let again = world.apply(&deploy("a", "app:v2", 1, publish)).unwrap();
    assert_eq!(machines(&again), ["m1"], "it stops its own first");
    let plan = world.apply(&deploy("a", "app:v2", 1, &handed_over)).unwrap();
    assert_eq!(machines(&plan), ["m2", "m1"], "api, web");

    let mut world = World::subnets();
    world.apply(&deploy("a", "app:v1", 2, publish)).unwrap();
    let Planned::Refused(error) = world.plan(&deploy("a", "app:v1", 2, &handed_over)) else {
        panic!("web has the port on both machines")
    };
    assert_eq!(error.code, "NO_PLACE");
    let why = "2 with its port 9000 held by web until the commit (m1, m2)";
    assert!(error.message.contains(why), "{}", error.message);
    // Once what holds it has ended, it is free.
    for seen in world.seen.values_mut() {
        seen.instances.iter_mut().for_each(|i| i.state = InstanceState::Exited { code: 0 });
    }
    assert!(matches!(world.plan(&deploy("a", "app:v1", 2, &handed_over)), Planned::Plan(_)));
}

#[test]
fn a_port_that_a_stranger_listens_on_everywhere_is_refused_with_the_next_command() {
    let mut world = World::subnets();
    for machine in MACHINES {
        world.seen.get_mut(&id(machine)).unwrap().facts.ports_taken.push(8080);
    }
    for wanted in ["publish = [{ machine_port = 8080 }]", "network = \"host\""] {
        let Planned::Refused(error) = world.plan(&deploy("a", "app:v1", 1, wanted)) else {
            panic!("{wanted} is planned")
        };
        assert_eq!(error.code, "PORT_IN_USE", "{wanted}");
        assert!(error.message.contains("port 8080"), "{}", error.message);
        assert!(error.next.is_some_and(|next| next.contains(":8080")), "{wanted}");
    }
}

#[test]
fn the_gateway_of_a_machine_that_is_silent_is_waited_for_and_its_barrier_is_not() {
    let mut world = World::subnets();
    let first = world.apply(&deploy("a", "app:v1", 1, "")).unwrap();
    let [placed] = machines(&first)[..] else { panic!("one replica") };
    let other = MACHINES.into_iter().find(|machine| *machine != placed).unwrap();
    world.seen.remove(&id(other));
    let Planned::Plan(plan) = world.plan(&deploy("a", "app:v2", 1, "")) else {
        panic!("a machine is left")
    };
    let waits: Vec<_> = plan
        .cleanup
        .iter()
        .filter(|step| step.action == Action::AwaitRoutes)
        .map(|step| step.machine.as_str())
        .collect();
    assert_eq!(waits, MACHINES);
    let goes = plan.cleanup.iter().find(|step| matches!(step.action, Action::Drain { .. }));
    assert_eq!(goes.expect("v1 goes").after.len(), 2);
    assert_eq!(plan.machines(), [id(placed)].into());
}

#[test]
fn a_machine_whose_disk_is_full_gets_no_instance_and_still_gives_up_what_it_has() {
    let mut world = World::subnets();
    world.apply(&deploy("a", "app:v1", 2, "")).unwrap();
    for seen in world.seen.values_mut() {
        seen.facts.disk_free_bytes = super::MIN_DISK_FREE - 1;
    }
    let Planned::Refused(error) = world.plan(&deploy("a", "app:v2", 2, "")) else {
        panic!("a refusal")
    };
    assert_eq!(error.code, "DISK_FULL");
    assert!(error.message.contains("32767 KiB left") && error.message.contains("32MiB"), "{error}");
    assert!(error.next.is_some_and(|next| next.contains("df -h")));
    assert!(world.apply(&deploy("a", "app:v1", 1, "")).is_ok(), "fewer instances make room");
}

#[test]
fn an_address_that_was_left_is_not_taken_by_another_namespace_at_once() {
    let mut world = World::subnets();
    let first = world.apply(&deploy("a", "app:v1", 2, "")).unwrap();
    let left = endpoints(&first.commit.commit);
    world.apply(&OperationRequest::RemoveNamespace { namespace: namespace("a") }).unwrap();
    let other = world.apply(&deploy("b", "app:v1", 2, "")).unwrap();
    assert!(endpoints(&other.commit.commit).is_disjoint(&left));
    // Two commits later nobody can have them in mind any more.
    world.apply(&deploy("a", "app:v1", 2, "")).unwrap();
    let third = world.apply(&deploy("c", "app:v1", 2, "")).unwrap();
    assert_eq!(endpoints(&third.commit.commit), left);
}

#[test]
fn an_address_that_was_left_is_better_than_none() {
    let range = |first| Addressing::Loopback { first, last: first + 1 };
    let mut world = World::new([range(20_000), range(21_000)]);
    let first = world.apply(&deploy("a", "app:v1", 4, "")).unwrap();
    world.apply(&OperationRequest::RemoveNamespace { namespace: namespace("a") }).unwrap();
    let again = world.apply(&deploy("b", "app:v1", 4, "")).unwrap();
    assert_eq!(endpoints(&first.commit.commit), endpoints(&again.commit.commit));
    assert_eq!(world.apply(&deploy("c", "app:v1", 1, "")).unwrap_err(), "NO_PLACE");
}

#[test]
fn a_port_that_a_stranger_listens_on_is_not_drawn() {
    let range = |first| Addressing::Loopback { first, last: first + 3 };
    let mut world = World::new([range(20_000), range(21_000)]);
    for (machine, strangers) in [("m1", vec![20_000, 20_002]), ("m2", vec![80, 21_001, 21_003])] {
        world.seen.get_mut(&id(machine)).unwrap().facts.ports_listening = strangers;
    }
    let plan = world.apply(&deploy("a", "app:v1", 4, "")).unwrap();
    let drawn = endpoints(&plan.commit.commit);
    let ports: Vec<_> = drawn.into_iter().filter_map(|(_, _, port)| port).collect();
    assert_eq!(ports, [20_001, 20_003, 21_000, 21_002]);
    assert_eq!(world.apply(&deploy("b", "app:v1", 1, "")).unwrap_err(), "NO_PLACE");
}

#[test]
fn small_namespaces_spread_over_the_machines_until_their_addresses_are_used_up() {
    let mut world = World::subnets();
    let mut per_machine = BTreeMap::new();
    for n in 0..506 {
        let plan = world.apply(&deploy(&format!("ns{n}"), "app:v1", 1, "")).unwrap();
        *per_machine.entry(machines(&plan)[0].to_owned()).or_insert(0) += 1;
        let (m1, m2) = (per_machine.get("m1").unwrap_or(&0), per_machine.get("m2").unwrap_or(&0));
        assert!(m1 - m2 == (n + 1) % 2, "{m1} and {m2}");
    }
    assert_eq!(world.apply(&deploy("more", "app:v1", 1, "")).unwrap_err(), "NO_PLACE");
}

#[test]
fn what_finds_no_second_address_on_its_machine_is_made_anew_on_another() {
    let mut world = World::subnets();
    world.shared.machines.get_mut(&id("m2")).unwrap().lifecycle = MachineLifecycle::Standby;
    world.apply(&deploy("a", "app:v1", 200, "")).unwrap();
    let update = deploy("a", "app:v2", 200, "");
    assert_eq!(world.apply(&update).unwrap_err(), "NO_PLACE", "200 and 200 are more than 253");
    world.shared.machines.get_mut(&id("m2")).unwrap().lifecycle = MachineLifecycle::Active;
    let plan = world.apply(&update).unwrap();
    assert_eq!(machines(&plan).iter().filter(|machine| **machine == "m1").count(), 53);
}

#[derive(Debug, Clone)]
struct Change {
    namespace: usize,
    /// `None` removes the namespace.
    deploy: Option<(bool, u32, u32, u64)>,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let deploy = prop::option::weighted(0.8, (any::<bool>(), 0..4_u32, 0..8_u32, 0..5_u64));
    let one = (0..3_usize, deploy).prop_map(|(namespace, deploy)| Change { namespace, deploy });
    prop::collection::vec(one, 1..14)
}

proptest! {
    #[test]
    fn no_machine_is_promised_twice_and_no_address_is_another_ones_that_was_just_left(changes in changes(), loopback in any::<bool>()) {
        let mut world = if loopback {
            let range = Addressing::Loopback { first: 20_000, last: 20_099 };
            World::new([range, range])
        } else {
            World::subnets()
        };
        let names = ["a", "b", "c"];
        for change in changes {
            let name = names[change.namespace];
            let request = match change.deploy {
                Some((newer, replicas, cpu, memory)) => {
                    let lines = reserving(f64::from(cpu.max(1)) * 0.25, &format!("{}MiB", (memory * 512).max(6)));
                    deploy(name, if newer { "app:v2" } else { "app:v1" }, replicas, &lines)
                }
                None => OperationRequest::RemoveNamespace { namespace: namespace(name) },
            };
            // What every namespace has and had, before the change.
            let mut foreign = BTreeSet::new();
            for (other, own) in &world.own {
                let head = own.head.as_ref().unwrap().value.commit;
                for (number, commit) in own.commits.iter().filter(|(number, _)| **number + 1 >= head) {
                    if other.as_str() != name || *number + 1 == head {
                        foreign.extend(endpoints(commit));
                    }
                }
            }
            let kept: BTreeSet<_> = world.own.get(&namespace(name)).and_then(|own| {
                Some(endpoints(own.commits.get(&own.head.as_ref()?.value.commit)?))
            }).unwrap_or_default();
            let Ok(plan) = world.apply(&request) else { continue };
            for endpoint in endpoints(&plan.commit.commit).difference(&kept) {
                prop_assert!(!foreign.contains(endpoint), "{endpoint:?} was drawn at once");
            }

            // The sums of what the heads reserve, counted from commits and specs.
            let mut sums: BTreeMap<MachineId, (u64, u64)> = BTreeMap::new();
            for own in world.own.values() {
                let commit = &own.commits[&own.head.as_ref().unwrap().value.commit];
                for service in commit.services.values() {
                    let reserved = own.revisions[&service.revision].reservation;
                    for instance in service.slots.values() {
                        let sum = sums.entry(instance.machine.clone()).or_default();
                        sum.0 += u64::from(reserved.cpu_millis);
                        sum.1 += reserved.memory_bytes;
                    }
                }
            }
            for (machine, (cpu, memory)) in sums {
                prop_assert!(cpu <= 2000 && memory <= 4 * GIB, "{machine} is promised {cpu}m and {memory} bytes");
            }
        }
    }
}
