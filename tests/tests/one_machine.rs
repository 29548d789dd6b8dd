//! The lab's scenarios in their short form.

use tests::lab::{Extent, Parts, Report, SCENARIOS, run};

/// Runs one and fails with what it printed of its failures.
fn short(name: &str) {
    let parts = match Parts::find() {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return;
        }
    };
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("its name");
    let mut report = Report::default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(scenario, &parts, Extent::Short, &mut report));
    assert!(report.failures().is_empty(), "{}", report.failures().join("\n"));
    assert!(report.passed() > 0, "nothing was checked");
}

#[test]
fn the_daemon_is_killed_under_load_and_nobody_notices() {
    short("kill-under-load");
}

#[test]
fn updates_under_load_lose_no_request() {
    short("updates");
}

#[test]
fn going_back_is_a_commit_and_staying_is_none() {
    short("a-b-a");
}

#[test]
fn a_deploy_that_was_killed_at_an_effect_is_completed_by_the_same_deploy() {
    short("kill-at-every-effect");
}

#[test]
fn a_rolling_update_that_was_killed_at_an_effect_loses_no_request() {
    short("kill-in-rolling");
}

#[test]
fn a_blue_green_update_that_was_killed_at_an_effect_loses_no_request() {
    short("kill-in-blue-green");
}

#[test]
fn a_deploy_that_was_killed_at_some_instant_is_completed_by_the_same_deploy() {
    short("kill-at-random");
}

#[test]
fn requests_are_served_while_the_store_is_away() {
    short("store-away");
}

#[test]
fn a_commit_that_lands_after_its_timeout_is_refused_by_the_abort_mark() {
    short("lost-commit");
}

#[test]
fn a_store_that_stands_still_at_the_commit_is_waited_out() {
    short("store-at-commit");
}

#[test]
fn only_a_changed_sidecar_is_made_anew() {
    short("adoption");
}

#[test]
fn a_deploy_that_cannot_work_is_undone_and_says_why() {
    short("faults");
}

#[test]
fn what_an_operator_does_wrong_is_told_with_the_next_command_and_changes_nothing() {
    short("bad-input");
}

#[test]
fn a_full_disk_is_told_and_room_is_all_the_help_it_needs() {
    short("full-disk");
}

#[test]
fn a_malformed_configuration_is_refused_with_its_line() {
    short("configuration");
}
