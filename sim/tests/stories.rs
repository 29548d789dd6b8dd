//! Stories that once broke something, and a short sweep of fresh ones; `ployz-sim sweep` plays the long ones.

use std::path::PathBuf;

use proto_core::time::Time;
use sim::choice::Choices;
use sim::play::{play, survived};
use sim::story::{Profile, Shape, Story, draw};

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
        let story: Story = serde_json::from_str(&text).expect("a story");
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
        let saved: Story = serde_json::from_str(&text).expect("its own writing");
        assert_eq!(saved, story);
        assert_eq!(play(&saved, false).trace_hash, first.trace_hash, "seed {seed}");
    }
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
