//! Two unfinished operations of a namespace: the record of one of them landed late, or came back.

use std::time::Duration;

use super::bench::Bench;
use super::course::{other, record};
use super::given::{Given, apply, deploy, key, machine, second};
use crate::Outcome;
use crate::api::Submission;
use crate::coordination::record::{OperationRecord, Phase};
use crate::id::OperationId;
use crate::runtime::{InstanceState, ObservedInstance};
use crate::store::Key;

fn resume(operation: &OperationId) -> Submission {
    Submission::Resume { operation: operation.clone() }
}

/// A small operation on m1 whose record is there beside that of a larger one on both machines, which runs nowhere.
fn beside_another() -> (Given, OperationRecord) {
    let begin = |request| Given::fresh().begin(apply(request));
    let small = record(&begin(deploy("app:v1", "old.example", "rolling", 1)).up_to_take().batch());
    let mut given = begin(deploy("app:v2", "new.example", "rolling", 2)).up_to_steps().given;
    // It landed late, or a store that was killed brought it back; whoever runs the other one sleeps, and its lease is over.
    given.entries.remove(&key("lease.ns.blog"));
    given.put(key(&format!("op.{}", small.id)), 200, &small);
    (given, small)
}

#[test]
fn the_barrier_is_also_where_another_unfinished_operation_of_the_scope_acts() {
    let (given, small) = beside_another();
    let named: Vec<_> = small.plan.unwrap().machines().into_iter().collect();
    assert_eq!(named, [machine("m1")]);
    let mut bench = given.begin(resume(&small.id));
    bench.read();
    bench.read();
    bench.accept(300);
    assert_eq!(bench.out(), ["barrier m1 @299", "barrier m2 @299"]);
}

#[test]
fn of_two_unfinished_ones_of_a_scope_the_first_that_is_resumed_is_undone() {
    let (given, small) = beside_another();
    let mut bench = given.begin(resume(&small.id));
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_ok();
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 299, op.ID 300"], "and no step");
    let undone = record(&bench.batch());
    let error = undone.error.unwrap();
    assert_eq!((undone.phase, error.code.as_str()), (Phase::Aborting, "OPERATION_UNFINISHED"));
    assert!(error.next.unwrap().starts_with("ployzctl op resume "), "the other one");
}

#[test]
fn a_machine_that_has_left_the_cluster_is_not_waited_for() {
    let (mut given, small) = beside_another();
    given.entries.remove(&Key::machine(&machine("m2")));
    let mut bench = given.begin(resume(&small.id));
    bench.read();
    bench.read();
    bench.accept(300);
    assert_eq!(bench.out(), ["barrier m1 @299"]);
}

/// Two that recreate both instances of `web`. The record of `late` landed when `first` had come so far that its own instances run in these
/// slots, and those of commit 1 do not.
struct Two {
    given: Given,
    late: OperationRecord,
    first: OperationRecord,
}

fn two_that_recreate(running: &[u32]) -> Two {
    let late = Given::deployed().begin(apply(second("recreate"))).up_to_take();
    let late = record(&late.batch());
    let first = deploy("app:v2", "third.example", "recreate", 2);
    let bench = Given::deployed().begin(apply(first)).up_to_steps();
    let id = bench.id();
    let mut given = bench.given;
    given.entries.remove(&key("lease.ns.blog"));
    let first: OperationRecord =
        serde_json::from_value((*given.entries[&Key::operation(&id)].value).clone()).unwrap();
    for step in &first.plan.as_ref().unwrap().steps {
        let Some(spec) = step.action.makes().filter(|spec| running.contains(&spec.slot)) else {
            continue;
        };
        let instances = &mut given.seen.get_mut(&step.machine).unwrap().instances;
        let old = instances.iter_mut().find(|there| there.spec.slot == spec.slot).unwrap();
        old.state = InstanceState::Exited { code: 143 };
        let new =
            ObservedInstance { spec: spec.clone(), state: InstanceState::Running, ..old.clone() };
        instances.push(new);
    }
    given.put(key(&format!("op.{}", late.id)), 200, &late);
    Two { given, late, first }
}

/// Up to the barrier of the undo: its lease and record were written at 399 and 400.
fn up_to_barrier(given: Given, submission: Submission) -> Bench {
    let mut bench = given.begin(submission);
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_ok();
    bench.read();
    assert_eq!(record(&bench.batch()).phase, Phase::Aborting);
    bench.accept(400);
    bench
}

const BARRIER: [&str; 2] = ["barrier m1 @399", "barrier m2 @399"];

/// Up to where the machines are asked what runs there.
fn up_to_undo(given: Given, submission: Submission) -> Bench {
    let mut bench = up_to_barrier(given, submission);
    assert_eq!(bench.all_ok(), BARRIER);
    bench
}

fn steps_of_undo(bench: &mut Bench) -> Vec<String> {
    bench.said();
    let mut steps = bench.all_ok();
    assert_eq!(bench.out(), ["write: lease.ns.blog 399, op.ID 400"]);
    bench.accept(500);
    steps.sort();
    steps
}

const REMOVED: [&str; 2] = ["undo-start-web-0-new m1 @399", "undo-start-web-1-new m2 @399"];

#[test]
fn what_the_other_one_runs_instead_of_is_not_started_beside_it() {
    for aborts in [false, true] {
        let Two { given, late, first } = two_that_recreate(&[0, 1]);
        let operation = late.id.clone();
        let submission =
            if aborts { Submission::Abort { operation } } else { Submission::Resume { operation } };
        let mut bench = up_to_undo(given, submission);
        assert_eq!(bench.out(), ["observe m1", "observe m2"]);
        bench.said();
        bench.observed();
        let other = first.id.short();
        let said = [0, 1].map(|slot| {
            format!(
                "note: web-{slot}-old is not started again: web-0-{other} of operation {} runs instead",
                first.id
            )
        });
        assert_eq!(bench.said()[..2], said);
        assert_eq!(steps_of_undo(&mut bench), REMOVED);
        let code = if aborts { "CANCELLED" } else { "OPERATION_UNFINISHED" };
        assert_eq!(bench.result().error().unwrap().code, code);
    }
}

#[test]
fn where_the_other_one_runs_nothing_the_old_is_started_again() {
    let Two { given, late, .. } = two_that_recreate(&[]);
    let mut bench = up_to_undo(given, resume(&late.id));
    bench.observed();
    let started = ["undo-stop-web-0-old m1 @399", "undo-stop-web-1-old m2 @399"];
    assert_eq!(steps_of_undo(&mut bench), [REMOVED, started].concat());
}

/// What cannot run twice at once cannot in another slot either.
#[test]
fn one_instance_of_the_other_stands_for_all_that_it_stopped() {
    let Two { given, late, .. } = two_that_recreate(&[1]);
    let mut bench = up_to_undo(given, resume(&late.id));
    bench.observed();
    assert_eq!(steps_of_undo(&mut bench), REMOVED);
}

/// What the other one's cleanup was to remove is there yet, and stopped perhaps.
#[test]
fn what_the_other_one_has_replaced_by_a_commit_is_not_started_again() {
    let late = Given::deployed().begin(apply(second("recreate"))).up_to_take();
    let late = record(&late.batch());
    let first = deploy("app:v2", "third.example", "rolling", 2);
    let mut given = Given::deployed().begin(apply(first)).up_to_cleanup().given;
    given.entries.remove(&key("lease.ns.blog"));
    given.put(key(&format!("op.{}", late.id)), 200, &late);
    let mut bench = up_to_barrier(given, resume(&late.id));
    let steps = bench.all_ok();
    assert_eq!(steps, [BARRIER, REMOVED].concat());
    let said = bench.said();
    for slot in [0, 1] {
        let gone = format!("note: web-{slot}-old is not started again: no commit has it any more");
        assert!(said.contains(&gone), "{said:?}");
    }
}

#[test]
fn nothing_is_undone_until_every_machine_has_said_what_runs_there() {
    let Two { given, late, .. } = two_that_recreate(&[0, 1]);
    let mut bench = up_to_undo(given, resume(&late.id));
    bench.answer("observe m2", Outcome::Unknown);
    assert_eq!(bench.out(), ["observe m1"]);
    bench.tick(Duration::from_millis(500));
    assert_eq!(bench.out(), ["observe m1", "observe m2"], "asked again");
    bench.observed();
    assert_eq!(steps_of_undo(&mut bench), REMOVED);

    let Two { given, late, .. } = two_that_recreate(&[0, 1]);
    let mut bench = up_to_undo(given, resume(&late.id));
    bench.tick(Duration::from_secs(16));
    bench.answer("observe m2", Outcome::Unknown);
    let error = bench.result().error().unwrap();
    assert_eq!(error.code, "MACHINE_SILENT");
    assert!(error.message.ends_with("what runs there: m2"), "{}", error.message);
    assert!(error.next.as_ref().unwrap().contains("op resume"), "{error:?}");
}

#[test]
fn a_machine_that_cannot_say_what_runs_there_says_why() {
    let Two { given, late, .. } = two_that_recreate(&[0, 1]);
    let mut bench = up_to_undo(given, resume(&late.id));
    bench.tick(Duration::from_secs(16));
    bench.fail("observe m2", other("no engine"));
    let message = &bench.result().error().unwrap().message;
    assert!(message.ends_with("what runs there: m2 (no engine)"), "{message}");
}

#[test]
fn an_undo_with_nobody_beside_it_asks_no_machine_what_runs_there() {
    let mut bench = Given::deployed().begin(apply(second("recreate"))).up_to_steps();
    bench.cancel();
    bench.accept(200);
    let order = bench.all_ok();
    assert!(order.contains(&"undo-stop-web-0-old m1 @199".to_owned()), "{order:?}");
    assert!(!order.iter().any(|label| label.starts_with("observe")), "{order:?}");
    assert_eq!(bench.out(), ["write: lease.ns.blog 199, op.ID 200"]);
}

#[test]
fn the_same_request_again_adopts_its_own_of_several_that_are_unfinished() {
    let Two { given, late, first } = two_that_recreate(&[]);
    for record in [late, first] {
        let mut bench = given.clone().begin(apply(record.request.clone().unwrap()));
        bench.read();
        assert_eq!(bench.id(), record.id);
        bench.accept(300);
        assert_eq!(bench.said(), ["observing", "adopted"]);
    }
}
