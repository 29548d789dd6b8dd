use std::time::Duration;

use super::given::{Given, apply, deploy, second};
use crate::Outcome;
use crate::api::OperationResult;
use crate::coordination::command::{BusError, StepFailure};
use crate::coordination::record::{OperationRecord, Phase};
use crate::runtime::RuntimeError;
use crate::store::Write;
use crate::time::Time;

pub(super) fn record(writes: &[Write]) -> OperationRecord {
    serde_json::from_value(writes.last().unwrap().value.clone()).unwrap()
}

pub(super) fn other(detail: &str) -> StepFailure {
    StepFailure::Runtime { error: RuntimeError::Other { detail: detail.to_owned() } }
}

#[test]
fn a_deploy_goes_from_read_to_finish_in_one_order() {
    let mut bench = Given::deployed().begin(apply(second("rolling")));
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.read();
    assert_eq!(bench.out(), ["observe m1", "observe m2"]);
    bench.observed();

    // One batch takes the lease and writes the record.
    let take = bench.batch();
    assert_eq!(bench.shape(&take), ["lease.ns.blog 0", "op.ID 0"]);
    let taken = record(&take);
    assert_eq!((taken.phase, taken.attempt, taken.epoch), (Phase::Executing, 1, None));
    bench.accept(100);

    // The barrier, at every machine, before anything else.
    assert_eq!(bench.out(), ["barrier m1 @99", "barrier m2 @99"]);
    bench.ok("barrier m1");
    assert_eq!(bench.out(), ["barrier m2 @99"]);
    bench.ok("barrier m2");
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.read();

    let steps = bench.all_ok();
    assert_eq!(
        steps,
        [
            "start-web-0-new m1 @99",
            "ready-web-0-new m1 @99",
            "start-web-1-new m2 @99",
            "ready-web-1-new m2 @99"
        ]
    );

    let revisions = bench.batch();
    assert_eq!(revisions.len(), 1);
    assert!(bench.shape(&revisions)[0].starts_with("ns.blog.revision."));
    assert_eq!(revisions[0].expect, None, "named by its content");
    bench.accept(110);

    let commit = bench.batch();
    assert_eq!(
        bench.shape(&commit),
        [
            "ns.blog.commit.2 any",
            "host.new_example 0",
            "ns.blog.head 20",
            "host.old_example 19",
            "allocation.blog 21",
            "lease.ns.blog 99",
            "op.ID 100"
        ]
    );
    let committed = record(&commit);
    assert_eq!(committed.phase, Phase::CleanupPending);
    assert_eq!(committed.epoch.map(|epoch| (epoch.incarnation, epoch.revision)), Some((3, 99)));
    bench.accept(120);

    // The head got 116: what comes after the commit names it.
    assert_eq!(bench.out(), ["routes-m1 m1 @99 commit 116", "routes-m2 m2 @99 commit 116"]);
    let cleanup = bench.all_ok();
    assert_eq!(
        cleanup,
        [
            "routes-m1 m1 @99 commit 116",
            "routes-m2 m2 @99 commit 116",
            "drain-web-0-old m1 @99 commit 116",
            "remove-web-0-old m1 @99 commit 116",
            "drain-web-1-old m2 @99 commit 116",
            "remove-web-1-old m2 @99 commit 116"
        ]
    );

    let finish = bench.batch();
    assert_eq!(
        bench.shape(&finish),
        [
            "ns.blog.instance.web-0 any",
            "ns.blog.instance.web-1 any",
            "lease.ns.blog 119",
            "op.ID 120"
        ]
    );
    assert_eq!(finish[2].value["released"], true);
    let last = record(&finish);
    let done = last.done.expect("it committed");
    assert_eq!((done.commit, done.steps.len()), (2, 10), "{done:?}");
    assert!(done.steps[0].starts_with("m1: start web-0-"), "{done:?}");
    assert!(done.steps[9].starts_with("m2: remove web-1-"), "{done:?}");
    assert_eq!((last.phase, last.plan, last.request), (Phase::Committed, None, None));
    assert!(finish[3].ttl.is_some(), "a finished record expires");
    bench.accept(130);
    assert!(matches!(bench.result(), OperationResult::Committed { commit: 2, .. }));
    assert_eq!(bench.out(), [""; 0]);
    let phases =
        bench.said().into_iter().filter(|said| !said.contains("-web-") && !said.contains("routes"));
    let wanted =
        ["observing", "planned", "recorded", "phase cleanup_pending", "phase committed", "exit 0"];
    assert_eq!(phases.collect::<Vec<_>>(), wanted);
}

#[test]
fn a_step_whose_answer_is_lost_is_sent_again_after_the_retry_time_under_the_same_epoch() {
    let mut bench = Given::fresh().begin(apply(deploy("app:v1", "a.example", "rolling", 1)));
    bench = bench.up_to_steps();
    assert_eq!(bench.out(), ["start-web-0-new m1 @99"]);
    bench.said();
    bench.answer("start-web-0", Outcome::Unknown);
    assert_eq!(bench.said(), ["start-web-0-new retrying"]);
    assert_eq!(bench.out(), [""; 0]);
    assert_eq!(bench.op.poll_timeout(), Some(Time::ZERO + Duration::from_millis(500)));
    bench.tick(Duration::from_millis(499));
    assert_eq!(bench.out(), [""; 0]);
    bench.tick(Duration::from_millis(1));
    assert_eq!(bench.out(), ["start-web-0-new m1 @99"]);
    assert_eq!(bench.said(), [""; 0], "it was started once");
    // Nobody listens: not sent, so again.
    bench.answer("start", Outcome::Failed(BusError::Unavailable { detail: "gone".to_owned() }));
    bench.tick(Duration::from_millis(500));
    assert_eq!(bench.out(), ["start-web-0-new m1 @99"]);
}

#[test]
fn a_step_that_stays_without_an_answer_beyond_its_deadline_aborts() {
    let mut bench = Given::fresh().begin(apply(deploy("app:v1", "a.example", "rolling", 1)));
    bench = bench.up_to_steps();
    // 60 s for the start, and 10 s of grace.
    bench.now = Time::ZERO + Duration::from_secs(70);
    bench.answer("start-web-0", Outcome::Unknown);
    let aborting = record(&bench.batch());
    assert_eq!(aborting.phase, Phase::Aborting);
    assert_eq!(aborting.error.unwrap().code, "MACHINE_SILENT");
}

#[test]
fn a_step_that_a_machine_fails_is_not_tried_again_and_aborts_with_the_log_of_the_instance() {
    let mut bench = Given::fresh().begin(apply(deploy("app:v1", "a.example", "rolling", 1)));
    bench = bench.up_to_steps();
    bench.ok("start-web-0");
    let instance = bench.plan().steps[0].action.changes().unwrap().clone();
    let logs = vec!["cannot bind".to_owned(), "bye".to_owned()];
    bench.said();
    let failure = StepFailure::Exited { instance, code: Some(1), restarts: 0, logs: logs.clone() };
    bench.fail("ready-web-0", failure);
    assert_eq!(bench.said(), ["ready-web-0-new failed INSTANCE_EXITED"]);
    let abort = bench.batch();
    assert_eq!(bench.shape(&abort), ["lease.ns.blog 99", "op.ID 100"]);
    let aborting = record(&abort);
    assert_eq!(aborting.phase, Phase::Aborting);
    let error = aborting.error.unwrap();
    assert_eq!((error.code.as_str(), error.logs), ("INSTANCE_EXITED", logs));
    bench.accept(200);
    assert_eq!(bench.out(), ["barrier m1 @199"]);
    bench.all_ok();
    bench.accept(210);
    let OperationResult::Aborted { error, .. } = bench.result() else { panic!("not aborted") };
    assert_eq!(error.code, "INSTANCE_EXITED");
}

#[test]
fn with_all_places_taken_there_is_nothing_to_wake_for_until_an_answer_comes() {
    let request = deploy("app:v1", "a.example", "blue_green", 17);
    let mut bench = Given::fresh().begin(apply(request)).up_to_steps();
    assert_eq!(bench.out().len(), 16, "no more than sixteen at once");
    let first = bench.out().remove(0);
    let renew = bench.op.poll_timeout().expect("the lease is renewed");
    bench.answer(&first, Outcome::Unknown);
    // Its place is free, and it is not due yet: the seventeenth is sent with the next answer or wake-up.
    let again = bench.op.poll_timeout().expect("one is to be sent again");
    assert_eq!(again, Time::ZERO + Duration::from_millis(500));
    let second = bench.out().remove(0);
    bench.ok(&second);
    assert_eq!(bench.out().len(), 16);
    assert_eq!(bench.op.poll_timeout(), Some(renew), "all places are taken");
    bench.tick(Duration::from_millis(500));
    assert_eq!((bench.out().len(), bench.op.poll_timeout()), (16, Some(renew)));
    assert!(!bench.out().contains(&first));
    // The answer of a third leaves a place, and only the first is due by now.
    let third = bench.out().remove(0);
    bench.answer(&third, Outcome::Unknown);
    assert_eq!(bench.op.poll_timeout(), Some(again));
    bench.tick(Duration::ZERO);
    assert_eq!((bench.out().len(), bench.out().last()), (16, Some(&first)));
}

#[test]
fn an_undo_that_would_start_what_is_gone_is_done_with_a_note() {
    let mut bench = Given::deployed().begin(apply(second("recreate"))).up_to_steps();
    assert_eq!(bench.out(), ["stop-web-0-old m1 @99", "stop-web-1-old m2 @99"]);
    bench.ok("stop-web-0");
    bench.cancel();
    bench.accept(200);
    bench.ok("barrier m1");
    bench.ok("barrier m2");
    // What was started is removed before what was stopped starts again.
    bench.ok("undo-start-web-0");
    bench.ok("undo-start-web-1");
    let undo = "undo-stop-web-0-old m1 @199";
    assert!(bench.out().contains(&undo.to_owned()), "{:?}", bench.out());
    bench.said();
    let instance = bench.given.seen[&super::given::machine("m1")].instances[0].spec.name.clone();
    let gone = StepFailure::Runtime { error: RuntimeError::NoSuchInstance { instance } };
    bench.fail(undo, gone);
    let said = bench.said();
    assert_eq!(said[0], "undo-stop-web-0-old done");
    assert!(said[1].contains("would have been started again is gone"), "{said:?}");
    assert!(!bench.out().contains(&undo.to_owned()));
}

#[test]
fn an_undo_that_fails_otherwise_is_tried_four_times_and_then_stands_still() {
    let mut bench = Given::fresh().begin(apply(deploy("app:v1", "a.example", "rolling", 1)));
    bench = bench.up_to_steps();
    bench.cancel();
    bench.accept(200);
    bench.all_barriers();
    bench.ok("start-web-0");
    for _ in 0..3 {
        bench.fail("undo-start-web-0-new m1 @199", other("no"));
        assert_eq!(bench.out(), [""; 0]);
        bench.tick(Duration::from_millis(500));
    }
    bench.fail("undo-start-web-0-new m1 @199", other("no"));
    let OperationResult::Interrupted { error, .. } = bench.result() else {
        panic!("{:?}", bench.said())
    };
    assert_eq!(error.code, "RUNTIME_ERROR");
    assert!(error.next.as_ref().unwrap().contains("op resume"));
}

#[test]
fn who_joins_is_not_told_what_was_read_before_they_asked() {
    let same = || deploy("app:v1", "old.example", "rolling", 2);
    let mut bench = Given::deployed().begin(apply(same()));
    bench.read();
    bench.op.join();
    bench.observed();
    assert_eq!(bench.out(), ["read 8 prefixes"], "what there is is read once more");
    bench.read();
    bench.observed();
    assert_eq!(*bench.result(), OperationResult::AlreadyDone { commit: 1 });

    let mut bench = Given::deployed().begin(apply(same()));
    bench.op.join();
    bench.lose_read();
    assert_eq!(bench.out(), ["read 8 prefixes"]);
    bench.lose_read();
    assert_eq!(bench.result().error().unwrap().code, "STORE_AWAY");
}

#[test]
fn a_cancel_ends_a_look_also_for_those_who_joined() {
    let mut bench = Given::deployed().begin(apply(second("rolling")));
    bench.op.join();
    bench.cancel();
    assert_eq!(bench.result().error().unwrap().code, "CANCELLED");
}
