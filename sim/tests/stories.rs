//! Stories that once broke something, and a short sweep of fresh ones; `ployz-sim sweep` plays the long ones.

use std::path::PathBuf;

use proto_core::deploy::spec::Strategy;
use proto_core::time::Time;
use sim::choice::Choices;
use sim::play::{play, survived};
use sim::story::{
    Action, Asked, Fault, Pinned, Profile, Service, Shape, Story, Then, VERSION, What, draw,
};

fn shape(nodes: usize) -> Shape {
    Shape { nodes, operations: 20, length: 120_000, profile: Profile::Swarm }
}

#[test]
fn stories_that_broke_something_once_break_nothing() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("stories");
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is in the repository") {
        let path = entry.expect("it can be listed").path();
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let story = Story::read(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let report = play(&story, false);
        assert!(report.violations.is_empty(), "{}: {}", path.display(), report.violations[0]);
        played += 1;
    }
    assert!(played > 0, "no story in {}", folder.display());
}

#[test]
fn fresh_stories_break_nothing() {
    for seed in 0..60 {
        let nodes = 3 + usize::try_from(seed % 8).expect("small");
        let story = draw(&mut Choices::seeded(seed), seed, shape(nodes));
        let report = play(&story, false);
        if let Some(violation) = report.violations.first() {
            panic!("seed {seed} with {nodes} machines: {violation}");
        }
    }
}

#[test]
fn a_story_played_twice_is_the_same_and_so_is_one_that_was_saved() {
    for seed in 0..10 {
        let story = draw(&mut Choices::seeded(seed), seed, shape(5));
        let first = play(&story, false);
        let read = play(&story, true);
        assert_eq!(first.trace_hash, read.trace_hash, "seed {seed}: whether lines are kept");
        let text = serde_json::to_string(&story).expect("stories are plain JSON");
        let saved = Story::read(&text).expect("its own writing");
        assert_eq!(saved, story);
        assert_eq!(play(&saved, false).trace_hash, first.trace_hash, "seed {seed}");
    }
}

/// A deploy of a service on the first of three machines and of one on the second, and these faults.
fn small(faults: Vec<Fault>) -> Story {
    let deploy = |ns: u32| {
        let on = Some(Pinned::To(ns as usize));
        let service = Service::new(0, "ready-300-v1".to_owned(), 1, Strategy::Rolling);
        let action = Action::Deploy { ns, services: vec![Service { pinned: on, ..service }] };
        let (at, machine, then_on) = (1000, 0, 0);
        Asked { at, machine, action, cancel_after: None, then: Then::Leave, then_on }
    };
    Story {
        v: VERSION,
        seed: 1,
        nodes: 3,
        servers: 1,
        length: 60_000,
        request_every: 0,
        used: 0,
        operations: vec![deploy(0), deploy(1)],
        faults,
        away: None,
        broke: None,
    }
}

#[test]
fn a_fault_has_struck_where_it_came_to_matter() {
    let fault = |at, what| Fault { at, lasts: 20_000, what };
    let in_vain = vec![
        fault(500, What::SlowRuntime { machine: 2, times: 1 }),
        fault(500, What::FailingRuntime { machine: 2 }),
        fault(30_000, What::DiskFull { machine: 2 }),
        fault(500, What::Partition { groups: vec![0, 0, 0] }),
        fault(30_000, What::SlowRuntime { machine: 0, times: 5 }),
        fault(30_000, What::InstanceExit { machine: 2, nth: 0 }),
    ];
    let report = play(&small(in_vain), false);
    assert_eq!(report.faults.keys().count(), 0, "{:?}", report.faults);
    let struck = vec![
        fault(500, What::SlowRuntime { machine: 0, times: 5 }),
        fault(30_000, What::Partition { groups: vec![0, 0, 1] }),
        fault(30_000, What::DaemonCrash { machine: 2 }),
        // It is down already.
        fault(30_500, What::DaemonCrash { machine: 2 }),
        fault(40_000, What::InstanceExit { machine: 1, nth: 0 }),
    ];
    let report = play(&small(struck), false);
    let counted: Vec<_> = report.faults.iter().map(|(class, n)| (*class, *n)).collect();
    let once = ["daemon_crash", "instance_exit", "partition", "slow_runtime"];
    assert_eq!(counted, once.map(|class| (class, 1)));
    assert_eq!(report.struck_open.iter().copied().collect::<Vec<_>>(), ["slow_runtime"]);
}

#[test]
fn while_a_machine_is_away_what_needs_it_says_so_and_the_rest_goes_on() {
    let report = play(&Story { away: Some(1), ..small(Vec::new()) }, true);
    assert_eq!(report.violations, []);
    assert_eq!(report.premises["L1 whatever is asked for is answered"], 4);
    assert_eq!(report.premises["L1 what cannot go on without a machine says so"], 3);
    assert_eq!(report.premises["L1 what can do without a machine comes to its end"], 1);
    let named = "an operation could not go on without a machine, and said so";
    assert_eq!(report.marks.0.get(named), Some(&3));
    let said = |text: &str| report.lines.iter().filter(|line| line.text.contains(text)).count();
    assert_eq!(said("ends: refused MACHINE_SILENT"), 3, "ns1 is on the machine that is away");
    // Two deploys, the restart of ns0, and what is new at the end.
    assert_eq!(said("ends: committed"), 4);
}

#[test]
fn another_seed_is_another_run() {
    let story = draw(&mut Choices::seeded(1), 1, shape(5));
    let other = Story { seed: 2, ..story.clone() };
    assert_ne!(play(&story, false).trace_hash, play(&other, false).trace_hash);
}

#[test]
fn where_something_panics_that_is_what_broke_and_what_came_before_it_is_told() {
    let mut story = draw(&mut Choices::seeded(1), 1, shape(5));
    let fine = play(&story, true);
    // Nobody could load such a story: there is no such machine.
    story.operations.iter_mut().max_by_key(|asked| asked.at).expect("one of them").machine = 99;
    let report = survived(&story, true);
    let last = report.violations.last().expect("it panics");
    assert_eq!(last.invariant, "panic");
    assert!(last.what.contains("99"), "{last}");
    assert!(last.at > Time::ZERO && report.events > 100 && report.events < fine.events);
    let before = report.lines.iter().filter(|line| line.at < last.at.as_nanos() / 1000);
    let before: Vec<_> = before.map(|line| (line.at, &line.text)).collect();
    let all = fine.lines.iter().map(|line| (line.at, &line.text));
    assert!(before.len() > 100 && all.take(before.len()).eq(before));
}

#[test]
fn the_hash_sees_what_was_asked_for_and_not_only_when() {
    let story = small(Vec::new());
    let mut other = story.clone();
    let Action::Deploy { services, .. } = &mut other.operations[0].action else {
        panic!("a deploy")
    };
    services[0].image = "ready-300-v2".to_owned();
    assert_ne!(play(&story, false).trace_hash, play(&other, false).trace_hash);
}
