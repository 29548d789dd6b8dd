//! A cluster that nobody asks for anything; `ployz-sim idle` plays the long ones.

use std::time::Duration;

use sim::play::idle;
use sim::story::{Action, Asked, DEPLOYED_WITHIN, idle as drawn};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_idle_hour_with_crashes_and_partitions_writes_nothing_and_commands_nobody() {
    for seed in 0..4 {
        let story = drawn(seed, 5, HOUR);
        let (report, quiet) = idle(&story, DEPLOYED_WITHIN);
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(quiet.is_quiet(), "seed {seed}: {quiet:?}");
        assert_eq!(quiet.seconds, 3600);
        for class in ["daemon_crash", "reboot", "partition"] {
            assert!(report.faults.get(class).is_some_and(|struck| *struck > 0), "no {class}");
        }
    }
}

#[test]
fn a_removal_in_the_quiet_time_is_counted() {
    let mut story = drawn(1, 5, HOUR);
    story.faults.clear();
    let removal = Action::Remove { ns: 0 };
    let asked = story.operations[0].clone();
    story.operations.push(Asked { at: 1_800_000, action: removal, ..asked });
    let (report, quiet) = idle(&story, DEPLOYED_WITHIN);
    assert!(quiet.writes > 0 && quiet.commands > 0 && quiet.changes > 0, "{quiet:?}");
    assert!(report.violations.iter().any(|violation| violation.invariant.starts_with("S10")));
}
