use std::ops::ControlFlow;
use std::time::Duration;

use super::explore::{Made, explore};
use super::*;
use crate::scenario;

fn prepared(name: &str) -> Prepared {
    let scenario = scenario::by_name(name).expect("a scenario of this name");
    Prepared::new(scenario).expect("nothing goes wrong")
}

fn settings(budget: &Budget, merge: bool) -> Settings {
    Settings {
        budget: budget.clone(),
        threads: 2,
        within: Duration::from_secs(120),
        stop_at_first: false,
        merge,
        looking_for: None,
        planted: Vec::new(),
    }
}

fn all_runs(name: &str, budget: &Budget, merge: bool) -> Found {
    enumerate(&prepared(name), &settings(budget, merge))
}

#[test]
fn a_run_that_goes_on_from_where_another_was_kept_is_the_run_from_the_beginning() {
    for (name, budget) in
        [("recreate", Budget::new(1, 0, &[2])), ("pair-stop", Budget::new(1, 1, &[1]))]
    {
        let prepared = prepared(name);
        let mut runs = 0;
        let _ = explore(&prepared, Vec::new(), &budget, None, |made| {
            let Made::Ended(kept) = made else { unreachable!("nothing is merged") };
            runs += 1;
            if runs % 7 == 0 {
                let answers = kept.taken.iter().map(|choice| choice.value).collect();
                let replayed = prepared.run(&mut Choices::recorded(answers), budget.clone(), false);
                assert_eq!(replayed.hash, kept.hash, "{name} {}", kept.schedule());
            }
            if runs == 700 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(runs > 50, "{name}: {runs}");
    }
}

#[test]
fn runs_that_meet_are_as_many_as_if_each_had_been_made() {
    for (name, budget) in [
        ("recreate", Budget::new(1, 0, &[2])),
        ("pair-stop", Budget::new(1, 0, &[2])),
        ("pair-stop", Budget { cancels: 1, ..Budget::none() }),
        ("pair-stop", Budget { rivals: 1, ..Budget::none() }),
    ] {
        let (merged, each) = (all_runs(name, &budget, true), all_runs(name, &budget, false));
        assert_eq!(merged.schedules, each.schedules, "{name}");
        assert!(merged.ended < each.ended, "{name}: {} of {}", merged.ended, each.ended);
        assert_eq!((merged.broken, each.broken), (0, 0), "{name}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_planted_bug_is_seen_by_the_same_invariants_whether_runs_meet_or_not() {
    let planted =
        [Mutant::NoFence, Mutant::NoBarrier, Mutant::LeaseNotInCommit, Mutant::JournalNotSettled];
    for mutant in planted {
        let prepared = prepared("first");
        let seen = |merge| {
            let settings =
                Settings { planted: vec![mutant], ..settings(&Budget::new(1, 0, &[2]), merge) };
            let found = enumerate(&prepared, &settings);
            assert!(found.complete, "{mutant:?}");
            found.examples.into_keys().collect::<Vec<_>>()
        };
        let each = seen(false);
        assert_eq!(seen(true), each, "{mutant:?}");
        assert!(!each.is_empty(), "{mutant:?}");
    }
}
