use proptest::prelude::*;

use super::*;
use crate::deploy::spec::{
    OnFailure, Placement, Reservation, Rollout, Strategy as RolloutStrategy,
};
use crate::machine::Addressing;
use crate::runtime::{RestartPolicy, Workload};
use crate::span::Span;

const GIB: u64 = 1 << 30;

fn machine(id: &str, az: &str) -> Candidate {
    Candidate {
        record: MachineRecord {
            v: 1,
            id: MachineId::new(id).unwrap(),
            lifecycle: MachineLifecycle::Active,
            region: "eu".into(),
            az: Some(az.into()),
            labels: BTreeMap::new(),
            addressing: Addressing::Loopback { first: 20_000, last: 29_999 },
        },
        region_role: RegionRole::Compute,
        cpu_millis: 8_000,
        memory_bytes: 16 * GIB,
        ports_taken: BTreeSet::new(),
        ports_held: BTreeMap::new(),
        addresses_free: 10_000,
        instances_of_others: 0,
    }
}

fn service(replicas: Replicas) -> ServiceSpec {
    ServiceSpec {
        workload: Workload {
            image: "a:1".into(),
            entrypoint: vec![],
            command: vec![],
            env: BTreeMap::new(),
            user: None,
            cap_add: vec![],
            cap_drop: vec![],
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            restart: RestartPolicy::Always,
            stop_grace_period: Span::from_secs(10),
            labels: BTreeMap::new(),
            publish: BTreeMap::new(),
            network: Network::Overlay,
        },
        placement: Placement { replicas, constraints: vec![], spread: Topology::Machine },
        reservation: Reservation::default(),
        ports: BTreeMap::new(),
        routes: vec![],
        readiness: None,
        rollout: Rollout {
            strategy: RolloutStrategy::Rolling,
            batch: 1,
            drain: Span::from_secs(10),
        },
        on_failure: OnFailure::Abort,
    }
}

type Current = BTreeMap<ServiceName, BTreeMap<u32, MachineId>>;

fn one(name: &str, spec: ServiceSpec) -> BTreeMap<ServiceName, ServiceSpec> {
    BTreeMap::from([(ServiceName::new(name).unwrap(), spec)])
}

fn run(
    services: &BTreeMap<ServiceName, ServiceSpec>,
    candidates: &[Candidate],
    current: &Current,
) -> Result<Assignment, Vec<Refusal>> {
    place(Request {
        services,
        candidates,
        current,
        renewed: &BTreeMap::new(),
        keep_on_draining: false,
    })
}

fn at(assignment: &Assignment, name: &str) -> Vec<String> {
    assignment.slots[name_of(name)].values().map(ToString::to_string).collect()
}

fn name_of(name: &str) -> &'static ServiceName {
    Box::leak(Box::new(ServiceName::new(name).unwrap()))
}

#[test]
fn replicas_spread_over_zones_before_machines() {
    let mut web = service(Replicas::Count(3));
    web.placement.spread = Topology::Az;
    let machines = [machine("m1", "a"), machine("m2", "a"), machine("m3", "a"), machine("m4", "b")];
    let placed = run(&one("web", web), &machines, &Current::new()).unwrap();
    assert_eq!(at(&placed, "web"), ["m1", "m4", "m2"]);
}

#[test]
fn a_new_machine_moves_nothing_and_takes_the_next_instance() {
    let two = [machine("m1", "a"), machine("m2", "a")];
    let three = [machine("m0", "a"), two[0].clone(), two[1].clone()];
    let before = run(&one("web", service(Replicas::Count(4))), &two, &Current::new()).unwrap();
    let same = run(&one("web", service(Replicas::Count(4))), &three, &before.slots).unwrap();
    assert_eq!(same.slots, before.slots);
    let more = run(&one("web", service(Replicas::Count(5))), &three, &before.slots).unwrap();
    assert_eq!(at(&more, "web"), ["m1", "m2", "m1", "m2", "m0"]);
}

#[test]
fn what_is_on_a_draining_machine_stays_only_if_asked() {
    let mut machines = [machine("m1", "a"), machine("m2", "a")];
    let services = one("web", service(Replicas::Count(2)));
    let before = run(&services, &machines, &Current::new()).unwrap();
    machines[0].record.lifecycle = MachineLifecycle::Draining;
    let moved = run(&services, &machines, &before.slots).unwrap();
    assert_eq!(at(&moved, "web"), ["m2", "m2"]);
    let request = Request {
        services: &services,
        candidates: &machines,
        current: &before.slots,
        renewed: &BTreeMap::new(),
        keep_on_draining: true,
    };
    assert_eq!(place(request).unwrap().slots, before.slots);
    let fresh = Current::new();
    let request = Request { current: &fresh, ..request };
    assert_eq!(at(&place(request).unwrap(), "web"), ["m2", "m2"]);
}

#[test]
fn a_global_service_has_one_instance_on_each_allowed_machine_and_keeps_its_slots() {
    let mut agent = service(Replicas::Global);
    agent.placement.constraints.push(Constraint {
        attribute: Topology::Machine,
        equal: false,
        value: "m2".into(),
    });
    let services = one("agent", agent);
    let some = [machine("m2", "a"), machine("m3", "a"), machine("m4", "a")];
    let placed = run(&services, &some, &Current::new()).unwrap();
    assert_eq!(at(&placed, "agent"), ["m3", "m4"]);
    let more = [machine("m1", "a"), some[0].clone(), some[2].clone()];
    let again = run(&services, &more, &placed.slots).unwrap();
    let slots = &again.slots[name_of("agent")];
    assert_eq!(slots[&1].as_str(), "m4", "the slot of m4 is kept");
    assert_eq!(slots[&0].as_str(), "m1", "the slot of the machine that went is taken again");
}

#[test]
fn two_instances_that_publish_the_same_port_never_share_a_machine() {
    let mut web = service(Replicas::Count(3));
    web.ports.insert("http".into(), 80);
    web.workload.publish.insert(8080, "http".into());
    let machines = [machine("m1", "a"), machine("m2", "a")];
    let refusals = run(&one("web", web), &machines, &Current::new()).unwrap_err();
    assert_eq!(
        refusals[0].to_string(),
        "service web: 1 of 3 instances finds no machine; of 2 machines: 2 with its port 8080 taken by an \
         instance already (m1, m2)"
    );
}

#[test]
fn a_refusal_counts_each_machine_once_under_the_first_rule_that_it_fails() {
    let mut db = service(Replicas::Count(2));
    db.reservation.memory_bytes = GIB;
    db.placement.constraints.push(Constraint {
        attribute: Topology::Label("disk".into()),
        equal: true,
        value: "ssd".into(),
    });
    let mut machines: Vec<Candidate> =
        ["m1", "m2", "m3", "m4", "m5"].iter().map(|id| machine(id, "a")).collect();
    for candidate in &mut machines[1..4] {
        candidate.record.labels.insert("disk".into(), "ssd".into());
    }
    machines[1].memory_bytes = GIB + 1;
    machines[2].memory_bytes = GIB - 1;
    machines[3].record.lifecycle = MachineLifecycle::Standby;
    let refusals = run(&one("db", db), &machines, &Current::new()).unwrap_err();
    assert_eq!(
        refusals[0].to_string(),
        "service db: 1 of 2 instances finds no machine; of 5 machines: 2 ruled out by `label.disk == ssd` \
         (m1, m5), 2 without 1GiB of memory left to reserve (m2, m3), 1 standby (m4)"
    );
}

#[test]
fn a_global_service_that_no_machine_allows_is_refused() {
    let mut agent = service(Replicas::Global);
    agent.placement.constraints.push(Constraint {
        attribute: Topology::Region,
        equal: true,
        value: "mars".into(),
    });
    let refusals = run(&one("agent", agent), &[machine("m1", "a")], &Current::new()).unwrap_err();
    assert_eq!(
        refusals[0].to_string(),
        "service agent: no machine is allowed; of 1 machine: 1 ruled out by `region == mars` (m1)"
    );
    let none = run(&one("web", service(Replicas::Count(1))), &[], &Current::new()).unwrap_err();
    assert_eq!(none[0].to_string(), "service web: there is no machine");
}

#[test]
fn compute_regions_go_first_and_a_fallback_is_told() {
    let mut machines = [machine("m1", "a"), machine("m2", "a"), machine("m3", "a")];
    machines[0].region_role = RegionRole::HomeData;
    machines[2].region_role = RegionRole::Disabled;
    machines[1].memory_bytes = GIB;
    let mut web = service(Replicas::Count(1));
    web.reservation.memory_bytes = GIB;
    let placed = run(&one("web", web.clone()), &machines, &Current::new()).unwrap();
    assert_eq!(at(&placed, "web"), ["m2"]);
    assert!(placed.fallbacks.is_empty());
    web.placement.replicas = Replicas::Count(2);
    let placed = run(&one("web", web), &machines, &Current::new()).unwrap();
    assert_eq!(at(&placed, "web"), ["m2", "m1"]);
    assert_eq!(placed.fallbacks.len(), 1);
}

#[test]
fn what_other_namespaces_run_counts_among_machines_that_are_alike() {
    let mut machines = [machine("m1", "a"), machine("m2", "a"), machine("m3", "a")];
    machines[0].instances_of_others = 2;
    machines[1].instances_of_others = 1;
    let placed = run(&one("web", service(Replicas::Count(4))), &machines, &Current::new());
    assert_eq!(at(&placed.unwrap(), "web"), ["m3", "m2", "m1", "m3"], "its own are spread first");
}

#[test]
fn a_machine_without_an_address_takes_nothing_new_and_keeps_what_is_not_made_anew() {
    let mut machines = [machine("m1", "a"), machine("m2", "a")];
    for machine in &mut machines {
        machine.record.addressing = Addressing::Subnet([10, 101, 0, 0].into());
    }
    machines[0].addresses_free = 1;
    let services = one("web", service(Replicas::Count(3)));
    let there = |machine: &str| MachineId::new(machine).unwrap();
    let slots = BTreeMap::from([(0, there("m1")), (1, there("m1")), (2, there("m1"))]);
    let current = Current::from([(name_of("web").clone(), slots)]);
    let renewed = |slots: &[u32]| {
        let slots = slots.iter().copied().collect();
        let renewed = BTreeMap::from([(name_of("web").clone(), slots)]);
        let keep_on_draining = false;
        let candidates = &machines;
        let current = &current;
        place(Request {
            services: &services,
            candidates,
            current,
            renewed: &renewed,
            keep_on_draining,
        })
    };
    assert_eq!(at(&renewed(&[]).unwrap(), "web"), ["m1", "m1", "m1"]);
    assert_eq!(at(&renewed(&[1]).unwrap(), "web"), ["m1", "m1", "m1"], "one address is left");
    assert_eq!(at(&renewed(&[0, 1, 2]).unwrap(), "web"), ["m1", "m2", "m2"]);

    machines[1].addresses_free = 0;
    machines[1].record.addressing = Addressing::Loopback { first: 20_000, last: 20_009 };
    let mut web = service(Replicas::Count(2));
    web.ports.insert("http".into(), 80);
    let refusals = run(&one("web", web), &machines, &Current::new()).unwrap_err();
    assert_eq!(
        refusals[0].to_string(),
        "service web: 1 of 2 instances finds no machine; of 2 machines: 1 without 1 of its ports 20000 to 20009 \
         left for a new instance (m2), 1 without an address left for a new instance (m1)"
    );

    // What shares the machine's network needs none.
    let mut host = service(Replicas::Count(3));
    host.workload.network = Network::Host;
    let placed = run(&one("agent", host), &machines[..1], &Current::new()).unwrap();
    assert_eq!(at(&placed, "agent"), ["m1", "m1", "m1"]);
}

#[test]
fn zero_replicas_need_no_machine() {
    let placed = run(&one("web", service(Replicas::Count(0))), &[], &Current::new()).unwrap();
    assert!(at(&placed, "web").is_empty());
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let counts = (0..4_000_u32, 0..4_u64, 0..12_u32, 0..3_u32);
    let one = (0..3_u8, 0..3_u8, any::<bool>(), counts, 0..6_u8, 0..5_u8);
    prop::collection::vec(one, 0..12).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(n, (region, az, ssd, (cpu_millis, memory, free, others), lifecycle, role))| {
                let mut candidate = machine(&format!("m{n:02}"), &format!("z{az}"));
                let record = &mut candidate.record;
                record.region = format!("r{region}");
                record.az = (az > 0).then(|| format!("z{az}"));
                if ssd {
                    record.labels.insert("disk".into(), "ssd".into());
                }
                record.lifecycle = match lifecycle {
                    0 => MachineLifecycle::Standby,
                    1 => MachineLifecycle::Draining,
                    _ => MachineLifecycle::Active,
                };
                candidate.region_role = match role {
                    0 => RegionRole::Draining,
                    1 => RegionRole::HomeData,
                    _ => RegionRole::Compute,
                };
                candidate.cpu_millis = cpu_millis;
                candidate.memory_bytes = memory * GIB;
                if free % 2 == 0 {
                    candidate.record.addressing = Addressing::Subnet([10, 101, 0, 0].into());
                }
                candidate.addresses_free = free;
                candidate.instances_of_others = others;
                candidate
            })
            .collect()
    })
}

fn services() -> impl Strategy<Value = BTreeMap<ServiceName, ServiceSpec>> {
    let constraint = prop_oneof![
        (0..3_u8, any::<bool>()).prop_map(|(n, equal)| Constraint {
            attribute: Topology::Region,
            equal,
            value: format!("r{n}"),
        }),
        any::<bool>().prop_map(|equal| Constraint {
            attribute: Topology::Label("disk".into()),
            equal,
            value: "ssd".into(),
        }),
    ];
    let replicas = prop_oneof![Just(Replicas::Global), (0..8_u32).prop_map(Replicas::Count)];
    let spread = prop_oneof![Just(Topology::Machine), Just(Topology::Az), Just(Topology::Region)];
    let one = (
        replicas,
        prop::collection::vec(constraint, 0..2),
        spread,
        0..1_000_u32,
        0..2_u64,
        prop::option::of(8080..8082_u16),
    );
    prop::collection::vec(one, 0..6).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(n, (replicas, constraints, spread, cpu_millis, memory, publish))| {
                let mut spec = service(replicas);
                spec.placement = Placement { replicas, constraints, spread };
                spec.reservation = Reservation { cpu_millis, memory_bytes: memory * GIB };
                spec.workload.publish.extend(publish.map(|port| (port, "http".into())));
                spec.ports.extend(publish.map(|_| ("http".into(), 80)));
                (ServiceName::new(format!("s{n}")).unwrap(), spec)
            })
            .collect()
    })
}

/// Every rule that must hold of an assignment, told in other words than the code uses.
fn check(
    services: &BTreeMap<ServiceName, ServiceSpec>,
    candidates: &[Candidate],
    before: &Current,
    assignment: &Assignment,
) {
    let mut addresses: BTreeMap<&MachineId, u32> = BTreeMap::new();
    let mut cpu: BTreeMap<&MachineId, u64> = BTreeMap::new();
    let mut memory: BTreeMap<&MachineId, u64> = BTreeMap::new();
    let mut ports = BTreeSet::new();
    for (name, spec) in services {
        let slots = &assignment.slots[name];
        if let Replicas::Count(count) = spec.placement.replicas {
            assert!(slots.keys().copied().eq(0..count), "{name} has the slots 0..{count}");
        } else {
            let distinct: BTreeSet<_> = slots.values().collect();
            assert_eq!(distinct.len(), slots.len(), "{name} is once on a machine");
        }
        for (slot, id) in slots {
            let candidate = candidates.iter().find(|c| c.record.id == *id).unwrap();
            assert_eq!(candidate.record.lifecycle, MachineLifecycle::Active);
            assert_ne!(candidate.region_role, RegionRole::Draining);
            assert!(spec.placement.constraints.iter().all(|c| holds(c, &candidate.record)));
            *cpu.entry(id).or_default() += u64::from(spec.reservation.cpu_millis);
            *memory.entry(id).or_default() += spec.reservation.memory_bytes;
            for port in spec.workload.publish.keys() {
                assert!(ports.insert((id, *port)), "port {port} of {id} is taken once");
            }
            if before.get(name).and_then(|slots| slots.get(slot)) != Some(id) {
                *addresses.entry(id).or_default() += match candidate.record.addressing {
                    Addressing::Subnet(_) => 1,
                    Addressing::Loopback { .. } => spec.ports.len() as u32,
                };
            }
        }
    }
    for candidate in candidates {
        let id = &candidate.record.id;
        assert!(cpu.get(id).copied().unwrap_or(0) <= u64::from(candidate.cpu_millis));
        assert!(memory.get(id).copied().unwrap_or(0) <= candidate.memory_bytes);
        assert!(addresses.get(id).copied().unwrap_or(0) <= candidate.addresses_free);
    }
}

proptest! {
    #[test]
    fn an_assignment_keeps_every_rule_whatever_was_there_before(
        services in services(),
        later in services(),
        candidates in candidates(),
        reversed in any::<bool>(),
    ) {
        let before = run(&services, &candidates, &Current::new());
        let mut shuffled = candidates.clone();
        if reversed { shuffled.reverse() } else { shuffled.rotate_left(candidates.len() / 2) }
        prop_assert_eq!(&run(&services, &shuffled, &Current::new()), &before);
        let Ok(before) = before else { return Ok(()) };
        check(&services, &candidates, &Current::new(), &before);

        // Asked again, nothing moves.
        let again = run(&services, &candidates, &before.slots).unwrap();
        prop_assert_eq!(&again.slots, &before.slots);

        // Asked for something else, the rules hold still, and the answer is as stable.
        if let Ok(after) = run(&later, &candidates, &before.slots) {
            check(&later, &candidates, &before.slots, &after);
            prop_assert_eq!(run(&later, &candidates, &after.slots).unwrap().slots, after.slots);
        }
    }

    #[test]
    fn unconstrained_replicas_are_balanced_within_one(machines in 1..10_usize, counts in prop::collection::vec(0..30_u32, 1..4)) {
        let candidates: Vec<Candidate> = (0..machines).map(|n| machine(&format!("m{n}"), "a")).collect();
        let services: BTreeMap<_, _> = counts
            .iter()
            .enumerate()
            .map(|(n, count)| (ServiceName::new(format!("s{n}")).unwrap(), service(Replicas::Count(*count))))
            .collect();
        let placed = run(&services, &candidates, &Current::new()).unwrap();
        let spread = |slots: Vec<&MachineId>| {
            let per = |c: &Candidate| slots.iter().filter(|id| ***id == c.record.id).count();
            let counts: Vec<usize> = candidates.iter().map(per).collect();
            counts.iter().max().unwrap() - counts.iter().min().unwrap()
        };
        for slots in placed.slots.values() {
            prop_assert!(spread(slots.values().collect()) <= 1);
        }
        prop_assert!(spread(placed.slots.values().flat_map(BTreeMap::values).collect()) <= 1);
    }

    #[test]
    fn growing_leaves_what_is_there(candidates in candidates(), few in 0..4_u32, more in 0..4_u32) {
        let small = one("web", service(Replicas::Count(few)));
        let large = one("web", service(Replicas::Count(few + more)));
        let Ok(before) = run(&small, &candidates, &Current::new()) else { return Ok(()) };
        let Ok(after) = run(&large, &candidates, &before.slots) else { return Ok(()) };
        let web = name_of("web");
        for (slot, id) in &before.slots[web] {
            prop_assert_eq!(&after.slots[web][slot], id);
        }
    }
}
