//! Two namespaces that are planned at the same time, with room for one of them, or with the same addresses.

use std::collections::BTreeSet;

use super::bench::Bench;
use super::course::record;
use super::given::{Given, apply, deploy, key, machine};
use crate::Outcome;
use crate::api::{OperationRequest, OperationResult, Submission};
use crate::coordination::command::{CommandReply, Uses};
use crate::coordination::record::Phase;
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
    recorded(given, MORE_THAN_HALF)
}

fn recorded(given: Given, cpu_millis: u32) -> Bench {
    let mut bench = given.begin(apply(reserving("blog", "app:v2", cpu_millis))).up_to_take();
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
    let mut bench = behind_the_barrier(Given::fresh());
    // It came second, so its addresses are not what counts.
    put_rival(&mut bench, MORE_THAN_HALF, 105);
    bench.read();
    is_given_up_for_room(&bench);
}

/// The deploy of `shop` was planned when there was as little as for `blog`; its record was written at this revision.
fn put_rival(bench: &mut Bench, cpu_millis: u32, revision: u64) {
    let rival = Given::fresh().begin(apply(reserving("shop", "app:v1", cpu_millis)));
    let rival = record(&rival.up_to_take().batch());
    bench.given.put(key(&format!("op.{}", rival.id)), revision, &rival);
}

#[test]
fn what_leaves_room_for_it_holds_up_nothing() {
    let mut bench = behind_the_barrier(Given::fresh());
    bench.given.put(key("allocation.shop"), 95, &set_aside(800));
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

/// `blog` has more than half of each machine.
fn with_more_than_half() -> Given {
    let mut given = Given::fresh();
    let machines = ["m1", "m2"].map(|name| {
        let cpu_millis = MORE_THAN_HALF.into();
        (machine(name), MachineAllocation { cpu_millis, ..MachineAllocation::default() })
    });
    given.put(key("allocation.blog"), 21, &Allocation { v: VERSION, machines: machines.into() });
    given
}

#[test]
fn a_deploy_that_sets_aside_no_more_than_before_goes_on_in_a_crowd() {
    let mut bench = behind_the_barrier(with_more_than_half());
    bench.given.put(key("allocation.shop"), 95, &set_aside(1900));
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

#[test]
fn what_a_namespace_has_on_a_machine_stays_its_own_whatever_others_have_planned_there() {
    let mut given = with_more_than_half();
    given.put(key("allocation.shop"), 22, &set_aside(1900));
    let more = reserving("blog", "app:v2", MORE_THAN_HALF + 1);
    let mut refused = given.clone().begin(apply(more));
    refused.read();
    refused.observed();
    assert_eq!(refused.result().error().unwrap().code, "NO_PLACE");

    let mut bench = behind_the_barrier(given);
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

fn addresses(bench: &Bench) -> Vec<String> {
    let plan = bench.plan();
    plan.steps
        .iter()
        .filter_map(|step| step.action.makes())
        .map(|i| i.address.to_string())
        .collect()
}

#[test]
fn whoever_was_recorded_second_with_the_same_address_is_planned_anew() {
    let mut bench = recorded(Given::fresh(), 0);
    assert_eq!(addresses(&bench), ["10.101.0.2", "10.101.1.2"]);
    put_rival(&mut bench, 0, 95);
    bench.read();
    let end = bench.batch();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    assert_eq!(record(&end).phase, Phase::Aborted);
    assert_eq!(record(&end).error.unwrap().code, "ADDRESS_TAKEN");
    bench.said();
    bench.accept(200);
    let said = bench.said();
    assert_eq!(said.len(), 1, "no phase, as it is not over: {said:?}");
    assert!(said[0].contains("planned anew"), "{said:?}");
    let mut bench = bench.up_to_take();
    assert_eq!(addresses(&bench), ["10.101.0.3", "10.101.1.3"]);
    assert_eq!(record(&bench.batch()).attempt, 2);
    bench.accept(300);
    bench.all_ok();
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

#[test]
fn whoever_was_recorded_first_goes_on() {
    let mut bench = recorded(Given::fresh(), 0);
    put_rival(&mut bench, 0, 105);
    bench.read();
    assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
}

#[test]
fn an_address_that_another_namespace_committed_since_the_plan_is_drawn_anew() {
    let mut bench = recorded(Given::fresh(), 0);
    let here = MachineAllocation {
        addresses: [("10.101.1.2".parse().unwrap(), BTreeSet::from([8080]))].into(),
        ..MachineAllocation::default()
    };
    let allocation = Allocation { v: VERSION, machines: [(machine("m2"), here)].into() };
    bench.given.put(key("allocation.shop"), 95, &allocation);
    bench.said();
    bench.read();
    bench.accept(200);
    let bench = bench.up_to_take();
    assert_eq!(addresses(&bench), ["10.101.0.2", "10.101.1.3"]);
}

#[test]
fn one_that_is_cancelled_meanwhile_is_not_planned_anew() {
    let mut bench = recorded(Given::fresh(), 0);
    put_rival(&mut bench, 0, 95);
    bench.read();
    bench.cancel();
    bench.accept(200);
    assert!(matches!(bench.result(), OperationResult::Aborted { .. }));
}

/// So many uses, and when each place was used last.
fn uses<const N: usize>(count: u64, places: [(u16, u64); N]) -> Uses {
    Uses { count, forgotten: 0, places: places.into() }
}

/// Machine m1 acknowledges the barrier and says which of its addresses others have used.
fn with_m1_used(given: Given, submission: Submission, uses: Uses) -> Bench {
    let mut bench = given.begin(submission).up_to_take();
    bench.accept(100);
    let used_by_others = Some(uses);
    bench.answer("barrier m1", Outcome::Ok(CommandReply::Done { note: None, used_by_others }));
    bench.all_ok();
    bench.read();
    bench
}

/// Another namespace had the address meanwhile, and has given it up again: nothing shows that but the machine's own memory.
#[test]
fn an_address_that_has_been_used_since_the_plan_is_drawn_anew() {
    let mut given = Given::fresh();
    given.seen.get_mut(&machine("m1")).unwrap().uses = uses(3, [(2, 1), (3, 2), (4, 3)]);
    let blog = || apply(reserving("blog", "app:v2", 0));

    // What it had used before, and what it has used beside it since.
    for fine in [uses(3, [(2, 1), (3, 2), (4, 3)]), uses(5, [(5, 2), (6, 4), (7, 5)])] {
        let bench = with_m1_used(given.clone(), blog(), fine);
        assert_eq!(addresses(&bench), ["10.101.0.5", "10.101.1.2"]);
        assert!(bench.out()[0].starts_with("start-web-0"), "nobody had it: {:?}", bench.out());
    }
    let forgetful = Uses { forgotten: 4, ..uses(300, [(9, 300)]) };
    for (used, next) in [
        (uses(4, [(2, 1), (3, 2), (4, 3), (5, 4)]), 6),
        (uses(9, [(5, 4), (3, 9)]), 4),
        (forgetful, 10),
    ] {
        let mut bench = with_m1_used(given.clone(), blog(), used.clone());
        assert_eq!(record(&bench.batch()).error.unwrap().code, "ADDRESS_TAKEN", "{used:?}");
        bench.given.seen.get_mut(&machine("m1")).unwrap().uses = used;
        bench.said();
        bench.accept(200);
        let bench = bench.up_to_take();
        assert_eq!(addresses(&bench), [format!("10.101.0.{next}"), "10.101.1.2".to_owned()]);
    }
}

fn prepared_for_m1_and_m2() -> Submission {
    let request = reserving("blog", "app:v2", 0);
    let prepared = Given::fresh().begin(Submission::Preview { request: request.clone() });
    let OperationResult::Previewed { plan, .. } = prepared.up_to_take().result().clone() else {
        panic!("it is a preview")
    };
    Submission::ApplyPrepared { request, plan }
}

#[test]
fn a_prepared_plan_whose_address_has_been_used_since_is_refused_and_nothing_is_recorded() {
    let mut given = Given::fresh();
    given.seen.get_mut(&machine("m1")).unwrap().uses = uses(1, [(2, 1)]);
    let bench = given.begin(prepared_for_m1_and_m2()).up_to_take();
    assert!(matches!(bench.result(), OperationResult::Refused { .. }), "{:?}", bench.result());
    let error = bench.result().error().unwrap();
    assert_eq!(
        (&*error.code, error.next.as_deref()),
        ("PLAN_DRIFTED", Some("ployzctl deploy prepare"))
    );
    assert!(error.message.contains("10.101.0.2 on machine m1 has been used since"), "{error:?}");
}

#[test]
fn a_prepared_plan_whose_address_is_used_while_its_lease_is_taken_ends_before_its_first_step() {
    let mut bench = with_m1_used(Given::fresh(), prepared_for_m1_and_m2(), uses(1, [(2, 1)]));
    assert_eq!(record(&bench.batch()).phase, Phase::Aborted);
    bench.accept(200);
    let error = bench.result().error().unwrap();
    assert_eq!(
        (&*error.code, error.next.as_deref()),
        ("ADDRESS_TAKEN", Some("ployzctl deploy prepare"))
    );
    assert!(error.message.contains("10.101.0.2 on machine m1 has been used since"), "{error:?}");
}

/// An operation that was recorded and never begun is adopted, and m1 says which of its addresses others have used since.
fn adopted(submission: impl Fn(&Bench) -> Submission, uses: Uses) -> Bench {
    let left = recorded(Given::fresh(), 0);
    let submission = submission(&left);
    let resumes = matches!(submission, Submission::Resume { .. });
    let mut given = left.given;
    given.entries.remove(&key("lease.ns.blog"));
    let mut bench = given.begin(submission);
    if resumes {
        bench.read();
    }
    bench.read();
    bench.accept(300);
    let reply = CommandReply::Done { note: None, used_by_others: Some(uses) };
    bench.answer("barrier m1", Outcome::Ok(reply));
    bench.all_ok();
    bench.read();
    bench
}

/// Its record landed long after it was written, or came back: another namespace had the address, and has given it up again.
#[test]
fn an_adopted_one_does_not_go_on_with_an_address_that_others_have_used() {
    let resume = |left: &Bench| Submission::Resume { operation: left.id() };
    // It has used 2 itself; or 2 is set aside for it, and another namespace was given 3.
    for used in [uses(1, []), uses(1, [(3, 1)])] {
        let bench = adopted(resume, used);
        assert!(bench.out()[0].starts_with("start-web-0"), "{:?}", bench.out());
    }
    let forgetful = Uses { forgotten: 1, ..uses(300, []) };
    for used in [uses(1, [(2, 1)]), uses(2, [(2, 1), (9, 2)]), forgetful] {
        let mut bench = adopted(resume, used);
        assert_eq!(record(&bench.batch()).error.unwrap().code, "ADDRESS_TAKEN");
        bench.accept(400);
        bench.all_ok();
        bench.accept(500);
        let OperationResult::Aborted { error, .. } = bench.result() else {
            panic!("{:?}", bench.result())
        };
        assert_eq!(error.code, "ADDRESS_TAKEN");
    }
}

#[test]
fn whoever_asks_for_it_again_gets_another_address() {
    let blog = |_: &Bench| apply(reserving("blog", "app:v2", 0));
    let mut bench = adopted(blog, uses(1, [(2, 1)]));
    bench.given.seen.get_mut(&machine("m1")).unwrap().uses = uses(1, [(2, 1)]);
    bench.accept(400);
    bench.all_ok();
    bench.said();
    bench.accept(500);
    let bench = bench.up_to_take();
    assert_eq!(addresses(&bench), ["10.101.0.3", "10.101.1.2"]);
    assert_eq!(record(&bench.batch()).attempt, 2);
}
