use std::time::Duration;

use serde::Deserialize;

use super::bench::Bench;
use super::course::record;
use super::given::{Given, apply, key, second};
use crate::Outcome;
use crate::api::{OperationRequest, OperationResult};
use crate::coordination::record::Phase;
use crate::id::Namespace;
use crate::store::facts::{Claim, Commit, Head, Lease, VERSION};
use crate::store::{Key, Revision, StoreError, StoreReply};

/// The commit batch is out: commit, claim, head, released claim, allocation, lease, record.
fn at_commit() -> Bench {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_commit();
    bench.said();
    bench
}

fn claim_of_shop(bench: &mut Bench) {
    let (namespace, service) = ("shop".parse().unwrap(), "web".parse().unwrap());
    let claim = Claim { v: VERSION, namespace, service, released: false };
    bench.given.put(key("host.new_example"), 121, &claim);
}

#[test]
fn a_lost_commit_that_landed_refuses_the_mark_and_goes_on_to_cleanup() {
    let mut bench = at_commit();
    bench.keep(usize::MAX, 120);
    bench.lose();
    assert_eq!(bench.out(), ["mark: op.ID 100"]);
    bench.conflict();
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.read();
    assert_eq!(bench.said(), ["phase cleanup_pending", "routes-m1 started", "routes-m2 started"]);
    assert_eq!(bench.out(), ["routes-m1 m1 @99 commit 116", "routes-m2 m2 @99 commit 116"]);
}

#[test]
fn a_lost_commit_that_never_landed_is_written_three_times_and_then_undone() {
    let mut bench = at_commit();
    for mark in [130, 140] {
        bench.lose();
        bench.accept(mark);
        assert_eq!(bench.out(), ["read 8 prefixes"], "its first writes may be there");
        bench.read();
        let again = bench.batch();
        let again = bench.shape(&again);
        assert_eq!(again[2], "ns.blog.head 20");
        assert_eq!(again[5..], ["lease.ns.blog 99".to_owned(), format!("op.ID {mark}")]);
    }
    bench.lose();
    bench.accept(150);
    bench.read();
    let abort = bench.batch();
    assert_eq!(bench.shape(&abort), ["lease.ns.blog 99", "op.ID 150"]);
    assert_eq!(record(&abort).phase, Phase::Aborting);
    assert_eq!(record(&abort).error.unwrap().code, "STORE_AWAY");
}

#[test]
fn a_torn_commit_whose_head_is_there_is_completed_after_the_head_and_never_undone() {
    let mut bench = at_commit();
    bench.keep(3, 126);
    bench.lose();
    bench.accept(123);
    bench.read();
    let landed = bench.batch();
    assert_eq!(
        bench.shape(&landed),
        ["host.old_example 19", "allocation.blog 21", "lease.ns.blog 99", "op.ID 123"]
    );
    assert_eq!(record(&landed).phase, Phase::CleanupPending);
    bench.accept(130);
    assert_eq!(bench.out(), ["routes-m1 m1 @99 commit 122", "routes-m2 m2 @99 commit 122"]);
}

#[test]
fn a_torn_commit_whose_lease_ran_out_is_completed_under_a_new_epoch_behind_a_barrier() {
    let mut bench = at_commit();
    bench.keep(3, 126);
    bench.lose();
    bench.accept(123);
    bench.given.entries.remove(&key("lease.ns.blog"));
    bench.read();
    let landed = bench.batch();
    assert_eq!(bench.shape(&landed)[2..], ["lease.ns.blog 0", "op.ID 123"]);
    assert_eq!(record(&landed).epoch, None);
    // It runs out once more before this is written.
    bench.conflict();
    bench.read();
    let again = bench.batch();
    assert_eq!(bench.shape(&again)[2..], ["lease.ns.blog 0", "op.ID 123"]);
    bench.accept(140);
    assert_eq!(bench.out(), ["barrier m1 @139", "barrier m2 @139"]);
    bench.all_barriers();
    assert_eq!(bench.out(), ["routes-m1 m1 @139 commit 122", "routes-m2 m2 @139 commit 122"]);
}

#[test]
fn a_torn_commit_whose_lease_another_operation_has_stands_still() {
    let mut bench = at_commit();
    bench.keep(3, 126);
    let mut theirs: Lease =
        serde_json::from_value(bench.given.entries[&key("lease.ns.blog")].value.as_ref().clone())
            .unwrap();
    theirs.nonce = "theirs".to_owned();
    bench.lose();
    bench.accept(123);
    bench.given.put(key("lease.ns.blog"), 130, &theirs);
    bench.read();
    let OperationResult::Interrupted { error, .. } = bench.result() else { panic!("goes on") };
    assert_eq!(error.code, "LEASE_LOST");
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn a_mark_whose_own_answer_is_lost_is_known_again_by_its_nonce() {
    let mut bench = at_commit();
    bench.lose();
    bench.keep(1, 125);
    bench.lose();
    assert_eq!(bench.out(), [""; 0]);
    bench.tick(Duration::from_millis(500));
    assert_eq!(bench.out(), ["mark: op.ID 100"]);
    bench.conflict();
    bench.read();
    assert_eq!(bench.out(), ["read 8 prefixes"], "the mark is there: did the first writes land?");
    bench.read();
    let again = bench.batch();
    assert_eq!(bench.shape(&again).last().unwrap(), "op.ID 125");
}

#[test]
fn a_commit_whose_fate_the_store_does_not_tell_within_a_minute_is_unknown() {
    let mut bench = at_commit();
    bench.lose();
    for _ in 0..120 {
        assert_eq!(bench.out(), ["mark: op.ID 100"]);
        bench.lose();
        bench.tick(Duration::from_millis(500));
    }
    let OperationResult::Unknown { error, .. } = bench.result() else { panic!("not unknown") };
    assert_eq!(error.code, "COMMIT_UNKNOWN");
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn a_lost_commit_of_an_operation_that_was_adopted_meanwhile_ends_here() {
    let mut bench = at_commit();
    bench.lose();
    let mut theirs = record(&bench.batch());
    theirs.coordinator = super::given::machine("m2");
    theirs.nonce = "theirs".to_owned();
    let op = format!("op.{}", bench.id());
    bench.given.put(key(&op), 125, &theirs);
    bench.conflict();
    bench.read();
    let OperationResult::Interrupted { error, .. } = bench.result() else { panic!("goes on") };
    assert_eq!(error.code, "ADOPTED_ELSEWHERE");
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn an_abort_gives_up_the_claim_that_a_torn_commit_left() {
    let mut bench = at_commit();
    bench.keep(2, 126);
    bench.lose();
    bench.accept(123);
    bench.read();
    bench.stored(Outcome::Failed(StoreError::Refused("no".to_owned())));
    bench.accept(200);
    bench.all_ok();
    let finish = bench.batch();
    assert_eq!(bench.shape(&finish), ["host.new_example 121", "lease.ns.blog 199", "op.ID 200"]);
    assert_eq!(finish[0].value["released"], true);
    assert_eq!(record(&finish).phase, Phase::Aborted);
}

#[test]
fn a_claim_that_had_been_given_up_may_run_out_before_the_commit() {
    let mut given = Given::deployed();
    let (namespace, service) = ("blog".parse().unwrap(), "web".parse().unwrap());
    let released = Claim { v: VERSION, namespace, service, released: true };
    given.put(key("host.new_example"), 15, &released);
    let mut bench = given.begin(apply(second("rolling"))).up_to_commit();
    assert_eq!(bench.shape(&bench.batch())[1], "host.new_example 15");
    bench.given.entries.remove(&key("host.new_example"));
    bench.conflict();
    bench.read();
    assert_eq!(bench.shape(&bench.batch())[1], "host.new_example 0");
    bench.accept(120);
    assert_eq!(bench.out(), ["routes-m1 m1 @99 commit 116", "routes-m2 m2 @99 commit 116"]);
}

#[test]
fn a_batch_that_is_refused_for_no_reason_that_shows_is_written_four_times() {
    let mut bench = at_commit();
    for _ in 0..4 {
        assert_eq!(bench.shape(&bench.batch())[2], "ns.blog.head 20");
        bench.conflict();
        bench.read();
    }
    assert_eq!(record(&bench.batch()).error.unwrap().code, "CONTENDED");
}

#[test]
fn a_claim_that_another_namespace_took_is_neither_written_over_nor_given_up() {
    let mut bench = at_commit();
    bench.lose();
    bench.accept(123);
    claim_of_shop(&mut bench);
    bench.read();
    let again = bench.batch();
    assert_eq!(bench.shape(&again)[1], "host.new_example 0", "which the store refuses");
    bench.conflict();
    bench.read();
    assert_eq!(record(&bench.batch()).error.unwrap().code, "CLAIM_TAKEN");
    bench.accept(200);
    bench.all_ok();
    let finish = bench.batch();
    assert_eq!(bench.shape(&finish), ["lease.ns.blog 199", "op.ID 200"]);
}

#[test]
fn a_claim_that_another_namespace_took_since_the_plan_ends_it_before_its_first_step() {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    claim_of_shop(&mut bench);
    bench.read();
    let abort = bench.batch();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    assert_eq!(record(&abort).error.unwrap().code, "CLAIM_TAKEN");
}

#[test]
fn a_head_that_moved_while_the_lease_was_taken_ends_it_before_its_first_step() {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    let head = Head { v: VERSION, commit: 2, removed: false };
    bench.given.put(key("ns.blog.head"), 95, &head);
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    assert_eq!(record(&bench.batch()).error.unwrap().code, "PLAN_DRIFTED");
}

#[test]
fn an_operation_that_came_second_leaves_the_claims_to_the_head() {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_take();
    bench.accept(100);
    bench.all_ok();
    // Another operation of the namespace wanted the same host name, and has committed.
    let head = Head { v: VERSION, commit: 2, removed: false };
    bench.given.put(key("ns.blog.head"), 95, &head);
    let mut commit = bench.plan().commit.commit;
    commit.operation = bench.given.old.clone().unwrap();
    bench.given.put(Key::commit(&commit.namespace, 2), 93, &commit);
    let (namespace, service) = ("blog".parse().unwrap(), "web".parse().unwrap());
    let claim = Claim { v: VERSION, namespace, service, released: false };
    bench.given.put(key("host.new_example"), 94, &claim);
    bench.read();
    bench.accept(200);
    bench.all_ok();
    let finish = bench.batch();
    assert_eq!(bench.shape(&finish), ["lease.ns.blog 199", "op.ID 200"]);
    assert_eq!(record(&finish).phase, Phase::Aborted);
}

#[test]
fn a_lease_that_expired_before_the_commit_aborts_under_a_fresh_one() {
    let mut bench = at_commit();
    bench.given.entries.remove(&key("lease.ns.blog"));
    bench.conflict();
    bench.read();
    let abort = bench.batch();
    assert_eq!(bench.shape(&abort), ["lease.ns.blog 0", "op.ID 100"]);
    assert_eq!(record(&abort).error.unwrap().code, "LEASE_LOST");
    bench.accept(200);
    assert_eq!(bench.out(), ["barrier m1 @199", "barrier m2 @199"]);
}

#[test]
fn a_renewed_lease_is_expected_where_it_was_renewed_and_keeps_its_epoch() {
    let mut bench = Given::deployed().begin(apply(second("rolling"))).up_to_steps();
    bench.tick(Duration::from_secs(10));
    assert_eq!(bench.out(), ["start-web-0-new m1 @99", "renew: lease.ns.blog 99"]);
    bench.stored(Outcome::Ok(StoreReply::Committed(Revision(105))));
    let steps = bench.all_ok();
    assert!(steps.iter().all(|step| step.ends_with("@99")), "{steps:?}");
    bench.accept(110);
    let commit = bench.batch();
    assert_eq!(bench.shape(&commit)[5], "lease.ns.blog 105");
    assert_eq!(commit[5].value["epoch"]["revision"], 99);
}

#[test]
fn what_a_torn_commit_left_above_the_head_is_nothing_to_roll_back_to() {
    let mut given = Given::deployed();
    let namespace: Namespace = "blog".parse().unwrap();
    let mut torn: Commit =
        Commit::deserialize(&*given.entries[&Key::commit(&namespace, 1)].value).unwrap();
    torn.number = 2;
    given.put(Key::commit(&namespace, 2), 22, &torn);
    let rollback = OperationRequest::Rollback { namespace, to: Some(2) };
    let bench = given.begin(apply(rollback)).up_to_take();
    let OperationResult::Refused { error } = bench.result() else { panic!("{:?}", bench.out()) };
    assert_eq!(error.code, "NO_SUCH_COMMIT");
}

#[test]
fn what_a_torn_commit_of_the_same_number_had_kept_is_removed_after_the_commit() {
    let mut given = Given::deployed();
    let namespace = "blog".parse().unwrap();
    let mut torn: Commit =
        Commit::deserialize(&*given.entries[&Key::commit(&namespace, 1)].value).unwrap();
    torn.number = 2;
    given.put(Key::commit(&namespace, 2), 22, &torn);
    let mut bench = given.begin(apply(second("blue_green"))).up_to_cleanup();
    let cleanup = bench.all_ok();
    for old in ["remove-web-0-old m1 @99 commit 116", "remove-web-1-old m2 @99 commit 116"] {
        assert!(cleanup.iter().any(|step| step == old), "{cleanup:?}");
    }
}
