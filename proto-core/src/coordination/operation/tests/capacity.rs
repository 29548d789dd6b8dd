//! Two namespaces that are planned at the same time, with room for one of them.

use super::bench::Bench;
use super::course::record;
use super::given::{Given, apply, deploy, key, machine};
use crate::api::OperationRequest;
use crate::deploy::spec::Reservation;
use crate::store::facts::{Allocation, MachineAllocation, VERSION};

/// Of the 2000 that a machine has.
const MORE_THAN_HALF: u32 = 1200;

/// Two instances in this namespace, on a machine each, each with so many thousandths of a core set aside.
fn reserving(namespace: &str, image: &str, cpu_millis: u32) -> OperationRequest {
    let host = format!("{namespace}.example");
    let OperationRequest::Deploy { mut manifest } = deploy(image, &host, "rolling", 2) else {
        unreachable!("it is a deploy")
    };
    manifest.namespace = namespace.parse().unwrap();
    for service in manifest.services.values_mut() {
        service.reservation = Reservation { cpu_millis, memory_bytes: 0 };
    }
    OperationRequest::Deploy { manifest }
}

/// The deploy of `blog` has its lease and its record, and every machine has acknowledged the barrier.
fn behind_the_barrier(given: Given) -> Bench {
    let mut bench = given.begin(apply(reserving("blog", "app:v2", MORE_THAN_HALF))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    bench
}

fn is_given_up_for_room(bench: &Bench) {
    let abort = bench.batch();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    let error = record(&abort).error.unwrap();
    assert_eq!(error.code, "CAPACITY_TAKEN");
    assert!(error.message.contains("CPU on machine m1"), "{}", error.message);
}

fn set_aside(cpu_millis: u64) -> Allocation {
    let here = MachineAllocation { cpu_millis, ..MachineAllocation::default() };
    Allocation { v: VERSION, machines: [(machine("m1"), here)].into() }
}

#[test]
fn what_another_namespace_committed_since_the_plan_ends_it_before_its_first_step() {
    let mut bench = behind_the_barrier(Given::fresh());
    bench.given.put(key("allocation.shop"), 95, &set_aside(801));
    bench.read();
    is_given_up_for_room(&bench);
}

#[test]
fn what_another_operation_has_recorded_since_the_plan_ends_it_before_its_first_step() {
    let rival = Given::fresh().begin(apply(reserving("shop", "app:v1", MORE_THAN_HALF)));
    let rival = record(&rival.up_to_take().batch());
    let mut bench = behind_the_barrier(Given::fresh());
    bench.given.put(key(&format!("op.{}", rival.id)), 95, &rival);
    bench.read();
    is_given_up_for_room(&bench);
}

#[test]
fn what_leaves_room_for_it_holds_up_nothing() {
    let mut bench = behind_the_barrier(Given::fresh());
    bench.given.put(key("allocation.shop"), 95, &set_aside(800));
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

#[test]
fn a_deploy_that_sets_aside_no_more_than_before_goes_on_in_a_crowd() {
    let mut given = Given::fresh();
    let machines = ["m1", "m2"].map(|name| {
        let cpu_millis = MORE_THAN_HALF.into();
        (machine(name), MachineAllocation { cpu_millis, ..MachineAllocation::default() })
    });
    given.put(key("allocation.blog"), 21, &Allocation { v: VERSION, machines: machines.into() });
    let mut bench = behind_the_barrier(given);
    bench.given.put(key("allocation.shop"), 95, &set_aside(1900));
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}
