//! The short enumeration that every `cargo test` runs; `ployz-sim enumerate` runs the long ones.

use std::time::Duration;

use sim::enumerate::{Found, Settings, enumerate};
use sim::fate::Budget;
use sim::run::Prepared;
use sim::scenario;

fn all_runs(name: &str, budget: Budget) -> Found {
    let scenario = scenario::by_name(name).expect("a scenario of this name");
    let prepared = Prepared::new(scenario).unwrap_or_else(|report| {
        panic!("{name}, with nothing going wrong: {:?}", report.violations)
    });
    let settings = Settings {
        budget,
        threads: 2,
        within: Duration::from_secs(120),
        stop_at_first: false,
        merge: true,
        planted: Vec::new(),
        looking_for: None,
    };
    let found = enumerate(&prepared, &settings);
    if let Some(report) = found.examples.values().next() {
        panic!("{name} '{}': {}", report.schedule(), report.violations[0]);
    }
    assert!(found.complete, "{name} did not end in time");
    found
}

#[test]
fn one_crash_anywhere_in_any_operation_on_one_machine_breaks_nothing() {
    let names = [
        "first",
        "recreate",
        "blue-green",
        "never-ready-recreate",
        "scale-down",
        "restart",
        "remove",
    ];
    for name in names {
        let found = all_runs(name, Budget::new(1, 0, &[2]));
        assert!(found.schedules > 50, "{name}: {} schedules", found.schedules);
    }
}

#[test]
fn a_cancel_anywhere_in_any_kind_of_operation_leaves_it_done_or_undone() {
    for scenario in sim::scenario::pairs() {
        let found = all_runs(scenario.name, Budget { cancels: 1, ..Budget::none() });
        assert!(found.schedules > 10, "{}: {} schedules", scenario.name, found.schedules);
    }
}

#[test]
fn a_second_operator_at_any_effect_of_any_kind_of_operation_takes_nothing_from_the_first() {
    for scenario in sim::scenario::pairs() {
        let found = all_runs(scenario.name, Budget { rivals: 1, ..Budget::none() });
        assert!(found.schedules > 40, "{}: {} schedules", scenario.name, found.schedules);
        let wanted = if scenario.fails { "aborted" } else { "committed" };
        assert_eq!(found.ends.keys().collect::<Vec<_>>(), [&wanted], "{}", scenario.name);
    }
}

#[test]
fn two_who_adopt_the_same_operation_at_once_end_it_once() {
    let budget = Budget { rivals: 1, ..Budget::new(1, 0, &[]) };
    let found = all_runs("pair-stop", budget);
    assert!(found.schedules > 10_000, "{} schedules", found.schedules);
}

#[test]
fn one_lost_answer_anywhere_breaks_nothing() {
    for name in ["recreate", "never-ready", "two-machines"] {
        let found = all_runs(name, Budget::new(0, 1, &[2]));
        assert!(found.schedules > 50, "{name}: {} schedules", found.schedules);
    }
}

#[test]
fn one_machine_of_two_dies_or_stands_still_and_nothing_breaks() {
    let found = all_runs("two-machines-recreate", Budget::new(1, 0, &[2]));
    assert!(found.schedules > 500, "{} schedules", found.schedules);
}

#[test]
fn the_same_choices_give_the_same_run() {
    let scenario = scenario::by_name("two-machines").expect("a scenario of this name");
    let prepared = Prepared::new(scenario).expect("nothing goes wrong");
    for seed in 0..20 {
        let run = || {
            let mut choices = sim::choice::Choices::seeded(seed);
            prepared.run(&mut choices, Budget::new(2, 2, &[1, 3]), true)
        };
        let (first, second) = (run(), run());
        assert_eq!(first.trace, second.trace, "seed {seed}");
        let answers = sim::choice::parse(&first.schedule()).expect("its own writing");
        let mut choices = sim::choice::Choices::recorded(answers);
        let replayed = prepared.run(&mut choices, Budget::new(2, 2, &[1, 3]), true);
        assert_eq!(first.trace, replayed.trace, "seed {seed}");
    }
}
