use std::time::Duration;

use super::bench::Bench;
use super::course::record;
use super::given::{Given, apply, key, machine, second};
use crate::Outcome;
use crate::api::{ErrorBody, OperationResult, Submission};
use crate::coordination::command::CommandReply;
use crate::coordination::record::Phase;
use crate::id::{Epoch, OperationId};

fn begin() -> Bench {
    Given::deployed().begin(apply(second("rolling")))
}

/// How it ended: the exit code and the code of the error.
fn end(bench: &Bench) -> (u8, &str) {
    let result = bench.result();
    (result.exit_code(), result.error().map_or("", |error| error.code.as_str()))
}

fn stale() -> Outcome<CommandReply, crate::coordination::command::BusError> {
    Outcome::Ok(CommandReply::Stale { floor: Epoch { incarnation: 3, revision: 500 } })
}

#[test]
fn a_step_that_meets_a_newer_epoch_ends_the_operation_and_nothing_more_is_put_out() {
    let mut bench = begin().up_to_steps();
    bench.answer("start-web-0", stale());
    assert_eq!(end(&bench), (5, "ADOPTED_ELSEWHERE"));
    bench.tick(Duration::from_secs(60));
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn a_barrier_that_meets_a_newer_epoch_ends_the_operation_and_nothing_more_is_put_out() {
    let mut bench = begin().up_to_take();
    bench.accept(100);
    bench.answer("barrier m1", stale());
    assert_eq!(end(&bench), (5, "ADOPTED_ELSEWHERE"));
    bench.ok("barrier m2");
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn a_commit_refused_because_somebody_adopted_the_operation_ends_it_without_an_abort() {
    let mut bench = begin().up_to_commit();
    let mut theirs = record(&bench.batch());
    theirs.coordinator = machine("m2");
    let op = format!("op.{}", bench.id());
    bench.given.put(key(&op), 115, &theirs);
    bench.conflict();
    bench.read();
    assert_eq!(end(&bench), (5, "ADOPTED_ELSEWHERE"));
    assert_eq!(bench.out(), [""; 0]);
}

#[test]
fn without_the_record_of_the_cluster_nothing_is_decided() {
    let mut given = Given::deployed();
    given.entries.remove(&key("cluster"));
    let mut bench = given.begin(apply(second("rolling")));
    bench.read();
    assert_eq!(end(&bench), (3, "FACTS_LOST"));
}

#[test]
fn of_a_store_that_lost_its_facts_no_fate_follows() {
    let mut bench = begin().up_to_commit();
    let commit = bench.out();
    bench.conflict();
    bench.given.entries.clear();
    bench.read();
    assert_eq!(bench.out(), [""; 0], "no undo");
    bench.tick(Duration::from_secs(2));
    assert_eq!(bench.out(), commit, "no end either: it is tried again");

    let mut bench = begin().up_to_take();
    bench.accept(100);
    bench.all_ok();
    bench.given.entries.remove(&key("cluster"));
    bench.read();
    let end = record(&bench.batch());
    assert_eq!((end.phase, end.error.unwrap().code.as_str()), (Phase::Aborted, "FACTS_LOST"));
}

#[test]
fn a_cancel_before_the_record_refuses() {
    let mut bench = begin();
    bench.cancel();
    assert_eq!(end(&bench), (3, "CANCELLED"));
    let mut bench = begin();
    bench.read();
    bench.cancel();
    assert_eq!(end(&bench), (3, "CANCELLED"));
    bench.observed();
    assert_eq!(bench.out(), [""; 0], "late answers are ignored");
}

#[test]
fn a_cancel_while_it_is_being_recorded_is_obeyed_before_the_first_step() {
    let mut bench = begin().up_to_take();
    bench.said();
    bench.cancel();
    assert_eq!(
        bench.said(),
        ["note: a cancel was asked for; it takes effect as soon as it safely can"]
    );
    bench.cancel();
    assert_eq!(bench.said(), [""; 0], "once is enough");
    bench.accept(100);
    bench.all_ok();
    bench.read();
    assert_eq!(bench.out(), ["write: lease.ns.blog 99, op.ID 100"]);
    assert_eq!(record(&bench.batch()).error.unwrap().code, "CANCELLED");
}

#[test]
fn a_cancel_among_the_steps_undoes_them_last_first_behind_a_barrier_of_a_fresh_epoch() {
    let mut bench = begin().up_to_steps();
    bench.ok("start-web-0");
    bench.ok("ready-web-0");
    assert_eq!(bench.out(), ["start-web-1-new m2 @99"]);
    bench.cancel();
    let abort = bench.batch();
    assert_eq!(bench.shape(&abort), ["lease.ns.blog 99", "op.ID 100"]);
    assert_eq!(abort[0].value.get("epoch"), None, "its own revision is the epoch");
    assert_eq!(record(&abort).phase, Phase::Aborting);
    bench.ok("start-web-1");
    assert_eq!(bench.out().len(), 1, "a late answer starts nothing");
    bench.accept(200);
    assert_eq!(bench.out(), ["barrier m1 @199", "barrier m2 @199"]);
    bench.ok("barrier m1");
    assert_eq!(bench.out(), ["barrier m2 @199"]);
    bench.ok("barrier m2");
    assert_eq!(bench.all_ok(), ["undo-start-web-1-new m2 @199", "undo-start-web-0-new m1 @199"]);
    assert_eq!(bench.out(), ["write: lease.ns.blog 199, op.ID 200"]);
    assert_eq!(record(&bench.batch()).phase, Phase::Aborted);
    bench.accept(210);
    assert_eq!(end(&bench), (4, "CANCELLED"));
}

#[test]
fn who_asked_for_an_abort_and_for_nothing_else_got_what_was_asked_for() {
    let mut bench = begin().up_to_steps();
    bench.cancel();
    bench.accept(200);
    bench.all_ok();
    bench.all_ok();
    bench.accept(210);
    let (result, operation) = (bench.result(), bench.id());
    let abort = Submission::Abort { operation: operation.clone() };
    assert_eq!((abort.exit_code(result), abort.error(result)), (0, None));
    let resume = Submission::Resume { operation };
    assert_eq!((resume.exit_code(result), resume.error(result)), (4, result.error()));
    let refused = OperationResult::Refused { error: ErrorBody::new("NO_SUCH_OPERATION", "none") };
    assert_eq!((abort.exit_code(&refused), abort.error(&refused)), (3, refused.error()));
}

/// An operation that is left unfinished among its steps, and somebody who takes it up.
fn left(submission: impl Fn(OperationId) -> Submission) -> Bench {
    let mut bench = begin().up_to_steps();
    let operation = bench.id();
    bench.shutdown();
    bench.given.entries.remove(&key("lease.ns.blog"));
    bench.given.begin(submission(operation))
}

#[test]
fn an_abort_beside_who_only_looks_yet_is_done_and_not_only_said() {
    let resume = |operation| Submission::Resume { operation };
    let abort = |operation| Submission::Abort { operation };
    for mut bench in [left(resume), left(abort)] {
        bench.abort_too();
        bench.read();
        bench.abort_too();
        bench.read();
        bench.accept(300);
        bench.all_ok();
        bench.read();
        assert_eq!(record(&bench.batch()).phase, Phase::Aborting);
        bench.accept(400);
        bench.all_ok();
        bench.all_ok();
        bench.accept(410);
        assert_eq!(end(&bench), (4, "CANCELLED"));
    }
}

#[test]
fn an_abort_of_what_has_committed_beside_who_only_looks_yet_takes_nothing_from_them() {
    let mut bench = begin().up_to_cleanup();
    let operation = bench.id();
    bench.shutdown();
    bench.given.entries.remove(&key("lease.ns.blog"));
    let mut bench = bench.given.begin(Submission::Resume { operation: operation.clone() });
    bench.abort_too();
    assert!(bench.said().last().unwrap().contains("a cancel was asked for"));
    bench.cancel();
    bench.read();
    bench.read();
    bench.accept(300);
    bench.all_ok();
    bench.accept(310);
    let result = bench.result();
    assert!(matches!(result, OperationResult::Committed { commit: 2, .. }), "{result:?}");
    assert_eq!(Submission::Abort { operation: operation.clone() }.exit_code(result), 3);
    assert_eq!(Submission::Resume { operation }.exit_code(result), 0);
}

#[test]
fn a_cancel_after_the_commit_says_that_the_commit_stands_and_it_goes_on() {
    let mut bench = begin().up_to_cleanup();
    bench.said();
    bench.cancel();
    let said = bench.said();
    assert!(said[0].contains("the commit stands") && said.len() == 1, "{said:?}");
    bench.all_ok();
    bench.accept(130);
    assert!(matches!(bench.result(), OperationResult::Committed { commit: 2, .. }));
}

#[test]
fn a_shutdown_before_the_record_refuses() {
    let mut bench = begin();
    bench.shutdown();
    assert_eq!(end(&bench), (3, "DAEMON_STOPPED"));
    let mut bench = begin();
    bench.read();
    bench.shutdown();
    assert_eq!(end(&bench), (3, "DAEMON_STOPPED"));
}

#[test]
fn a_shutdown_after_the_record_interrupts_and_names_both_ways_on() {
    let mut barrier = begin().up_to_take();
    barrier.accept(100);
    let mut aborting = begin().up_to_steps();
    aborting.cancel();
    for mut bench in [barrier, begin().up_to_steps(), aborting] {
        bench.shutdown();
        assert_eq!(end(&bench), (5, "DAEMON_STOPPED"));
        let next = bench.result().error().unwrap().next.clone().unwrap();
        let id = bench.id();
        assert_eq!(next, format!("ployzctl op resume {id}, or ployzctl op abort {id}"));
    }
}

#[test]
fn a_shutdown_with_the_commit_undecided_is_unknown() {
    let written = begin().up_to_commit();
    let mut marked = begin().up_to_commit();
    marked.lose();
    let mut refused = begin().up_to_commit();
    refused.keep(usize::MAX, 120);
    refused.lose();
    refused.conflict();
    let mut torn = begin().up_to_commit();
    torn.lose();
    torn.accept(130);
    for mut bench in [written, marked, refused, torn] {
        bench.shutdown();
        assert_eq!(end(&bench), (6, "COMMIT_UNKNOWN"));
    }
}

#[test]
fn a_shutdown_after_the_commit_leaves_the_cleanup_pending() {
    let mut bench = begin().up_to_cleanup();
    bench.shutdown();
    assert_eq!(end(&bench), (7, "DAEMON_STOPPED"));
    let next = bench.result().error().unwrap().next.clone().unwrap();
    assert_eq!(next, format!("ployzctl op resume {}", bench.id()));
    bench.shutdown();
    bench.cancel();
    assert_eq!(end(&bench), (7, "DAEMON_STOPPED"), "it ended once");
}
