use serde::Deserialize;

use super::bench::Bench;
use super::course::record;
use super::given::{Given, apply, deploy, key, second};
use crate::api::{OperationResult, Submission};
use crate::coordination::record::{Done, OperationRecord, Phase};
use crate::id::OperationId;
use crate::store::Key;
use crate::store::facts::{Head, VERSION};

fn resume(operation: &OperationId) -> Submission {
    Submission::Resume { operation: operation.clone() }
}

fn abort(operation: &OperationId) -> Submission {
    Submission::Abort { operation: operation.clone() }
}

/// An operation of m1 with its first step under way, whose daemon died: lease at 99, record at 100.
fn left() -> Bench {
    Given::deployed().begin(apply(second("rolling"))).up_to_steps()
}

#[test]
fn a_resumed_operation_takes_lease_and_record_as_they_are_and_puts_up_the_barrier_first() {
    let left = left();
    let id = left.id();
    let mut bench = left.given.begin(resume(&id));
    assert_eq!(bench.out(), ["read 1 prefixes"], "which scope is it?");
    bench.read();
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    let taken = record(&bench.batch());
    assert_eq!((&taken.id, taken.phase, taken.attempt), (&id, Phase::Executing, 1));
    bench.accept(300);
    assert_eq!(bench.said(), ["observing", "adopted"]);
    assert_eq!(bench.out(), ["barrier m1 @299", "barrier m2 @299"]);
    bench.ok("barrier m2");
    assert_eq!(bench.out(), ["barrier m1 @299"]);
    bench.ok("barrier m1");
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.read();
    assert_eq!(bench.out(), ["start-web-0-new m1 @299"]);
}

#[test]
fn one_that_cannot_look_for_others_after_its_take_ends_without_touching_a_machine() {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    bench.lose_read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    let end = record(&bench.batch());
    assert_eq!((end.phase, end.error.unwrap().code.as_str()), (Phase::Aborted, "STORE_AWAY"));
}

#[test]
fn another_machine_adopts_it_once_the_lease_expired_and_not_before() {
    let mut left = left();
    let id = left.id();
    let mut early = left.given.clone().begin_on("m2", resume(&id));
    early.read();
    early.read();
    assert_eq!(early.result().exit_code(), 8);
    left.given.entries.remove(&key("lease.ns.blog"));
    let mut bench = left.given.begin_on("m2", resume(&id));
    bench.read();
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 0, op.ID 100"]);
    assert_eq!(record(&bench.batch()).coordinator.as_str(), "m2");
}

#[test]
fn a_lease_of_this_machine_is_not_up_for_adoption_while_its_operation_runs_here() {
    let left = left();
    let id = left.id();
    let mut bench = left.given.begin(resume(&id));
    bench.op.set_running_here([id].into());
    bench.read();
    bench.read();
    assert_eq!(bench.result().error().unwrap().code, "LEASE_HELD");
}

#[test]
fn the_same_request_again_adopts_and_another_one_is_refused() {
    let left = left();
    let id = left.id();
    let mut same = left.given.clone().begin(apply(second("rolling")));
    same.read();
    assert_eq!(record(&same.batch()).id, id);
    same.accept(300);
    assert_eq!(same.said(), ["observing", "adopted"]);

    let mut other = left.given.begin(apply(deploy("app:v2", "third.example", "rolling", 1)));
    other.read();
    let error = other.result().error().unwrap();
    assert_eq!(error.code, "OPERATION_UNFINISHED");
    let next = format!("ployzctl op resume {id}, or ployzctl op abort {id}");
    assert_eq!(error.next.as_ref(), Some(&next));
}

#[test]
fn an_abort_of_what_was_left_executing_undoes_it_under_an_epoch_of_its_own() {
    let left = left();
    let id = left.id();
    let mut bench = left.given.begin(abort(&id));
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_ok();
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 299, op.ID 300"]);
    assert_eq!(record(&bench.batch()).phase, Phase::Aborting);
    bench.accept(310);
    bench.all_barriers();
    assert_eq!(bench.all_ok(), ["undo-start-web-1-new m2 @309", "undo-start-web-0-new m1 @309"]);
}

#[test]
fn an_abort_of_what_has_committed_is_refused_with_the_way_on() {
    let left = Given::deployed().begin(apply(second("rolling"))).up_to_cleanup();
    let id = left.id();
    let mut bench = left.given.begin(abort(&id));
    bench.read();
    bench.read();
    let error = bench.result().error().unwrap();
    assert_eq!(error.code, "ALREADY_COMMITTED");
    assert_eq!(error.next, Some(format!("ployzctl op resume {id}")));
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn what_was_left_after_its_commit_goes_on_with_the_cleanup_behind_a_barrier() {
    let left = Given::deployed().begin(apply(second("rolling"))).up_to_cleanup();
    let id = left.id();
    let mut bench = left.given.begin(resume(&id));
    bench.read();
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 119, op.ID 120"]);
    assert_eq!(record(&bench.batch()).phase, Phase::CleanupPending);
    bench.accept(300);
    assert_eq!(bench.out(), ["barrier m1 @299", "barrier m2 @299"]);
    bench.all_barriers();
    assert_eq!(bench.out(), ["routes-m1 m1 @299 commit 116", "routes-m2 m2 @299 commit 116"]);
}

#[test]
fn a_torn_commit_that_was_left_is_found_behind_the_barrier_and_completed() {
    let mut left = Given::deployed().begin(apply(second("rolling"))).up_to_commit();
    left.keep(3, 126);
    let id = left.id();
    let mut bench = left.given.begin(resume(&id));
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_ok();
    bench.read();
    let landed = bench.batch();
    assert_eq!(
        bench.shape(&landed),
        ["host.old_example 19", "allocation.blog 21", "lease.ns.blog 299", "op.ID 300"]
    );
    assert_eq!(record(&landed).phase, Phase::CleanupPending);
}

/// What was left has committed since, as that or as something else; its record has come back. `head`: the number of the head.
fn come_back(mut left: Bench, head: u64, other: bool) -> Bench {
    let (id, plan) = (left.id(), left.plan());
    let mut commit = plan.commit.commit;
    if other {
        commit.services.clear();
    }
    let namespace = commit.namespace.clone();
    left.given.put(Key::commit(&namespace, commit.number), 110, &commit);
    commit.number = head;
    commit.operation = if head == 2 { id.clone() } else { left.given.old.clone().unwrap() };
    left.given.put(Key::commit(&namespace, head), 111, &commit);
    let head = Head { v: VERSION, commit: head, removed: false };
    left.given.put(Key::head(&namespace), 112, &head);
    let mut bench = left.given.begin(resume(&id));
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_barriers();
    bench
}

/// Without a step, and says why.
fn ends_as_committed(bench: &Bench) {
    let finish = bench.batch();
    assert_eq!(bench.shape(&finish), ["lease.ns.blog 299", "op.ID 300"]);
    assert_eq!(record(&finish).phase, Phase::Committed);
    assert!(record(&finish).notes[0].contains("had come back"));
}

#[test]
fn a_record_that_came_back_after_newer_commits_is_ended_without_a_step() {
    ends_as_committed(&come_back(left(), 3, false));
}

#[test]
fn a_record_that_came_back_and_is_the_heads_is_completed() {
    let mut bench = come_back(left(), 2, false);
    bench.read();
    assert_eq!(record(&bench.batch()).phase, Phase::CleanupPending);
}

#[test]
fn a_record_that_came_back_of_another_try_than_the_heads_is_undone() {
    let mut bench = come_back(left(), 2, true);
    bench.read();
    let abort = record(&bench.batch());
    assert_eq!(
        (abort.phase, abort.error.unwrap().code.as_str()),
        (Phase::Aborting, "PLAN_DRIFTED")
    );
}

/// Something was left by an abort that was not its end.
fn left_aborting() -> Bench {
    let mut left = left();
    let key = Key::operation(&left.id());
    let mut aborting = record_of(&left, &key);
    aborting.phase = Phase::Aborting;
    left.given.put(key, 101, &aborting);
    left
}

#[test]
fn a_record_that_came_back_from_an_abort_that_the_heads_commit_followed_is_taken_as_committed() {
    let bench = come_back(left_aborting(), 2, false);
    assert_eq!(bench.out(), ["routes-m1 m1 @299 commit 112", "routes-m2 m2 @299 commit 112"]);
}

#[test]
fn a_record_that_came_back_from_an_abort_and_is_history_is_ended_as_committed() {
    ends_as_committed(&come_back(left_aborting(), 3, false));
}

#[test]
fn a_record_that_came_back_from_an_abort_whose_try_never_committed_goes_on_with_it() {
    let mut bench = come_back(left_aborting(), 2, true);
    assert_eq!(bench.all_ok(), ["undo-start-web-1-new m2 @299", "undo-start-web-0-new m1 @299"]);
}

#[test]
fn an_operation_that_was_recorded_while_this_one_was_planned_ends_it_before_its_first_step() {
    let other =
        Given::deployed().begin_on("m2", apply(deploy("app:v2", "old.example", "rolling", 3)));
    let mut other = other.up_to_steps();
    let (id, record_of_other) =
        (other.id(), other.given.entries.remove(&Key::operation(&other.id())));
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    // Its lease ran out again before this one took it.
    let record_of_other = record_of_other.unwrap();
    bench.given.put(Key::operation(&id), 90, &*record_of_other.value);
    bench.read();
    let finish = bench.batch();
    assert_eq!(bench.shape(&finish), ["lease.ns.blog 99", "op.ID 100"]);
    let ended = record(&finish);
    assert_eq!(ended.phase, Phase::Aborted);
    assert_eq!(ended.error.unwrap().code, "OPERATION_UNFINISHED");
    bench.accept(110);
    assert_eq!(bench.out(), [""; 0], "no machine is told anything");
}

#[test]
fn a_resume_of_what_has_committed_names_its_own_commit_and_not_the_head() {
    let mut done = Given::deployed().begin(apply(second("rolling"))).up_to_cleanup();
    let (id, key) = (done.id(), Key::operation(&done.id()));
    let mut record = record_of(&done, &key);
    record.done = Some(Done::of(&done.plan()));
    record.phase = Phase::Committed;
    done.given.put(key, 130, &record);
    let head = Head { v: VERSION, commit: 3, removed: false };
    done.given.put(Key::head(&"blog".parse().unwrap()), 131, &head);
    let mut bench = done.given.begin(resume(&id));
    bench.read();
    bench.read();
    assert_eq!(*bench.result(), OperationResult::AlreadyDone { commit: 2 });
}

fn record_of(bench: &Bench, key: &Key) -> OperationRecord {
    OperationRecord::deserialize(&*bench.given.entries[key].value).unwrap()
}
