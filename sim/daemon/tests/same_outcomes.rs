//! The same stories in all tiers: the pure nodes of the engine, and the daemons of ployzd on turmoil and with paused time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sim::story::Story;
use sim_daemon::{Config, Error, Tier, play};

fn stories() -> Vec<(String, Story)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("stories");
    let entries = std::fs::read_dir(&folder).expect("the folder is in the repository");
    let mut stories: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("it can be listed").path();
            let text = std::fs::read_to_string(&path).expect("it can be read");
            let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
            (name, Story::read(&text).expect("a story"))
        })
        .collect();
    stories.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(!stories.is_empty(), "no story in {}", folder.display());
    stories
}

/// A tick of a millisecond; a quarter of a minute is rest enough where every lease is given back.
const FINE: Config =
    Config { tier: Tier::Turmoil, tick: Duration::from_millis(1), rest: Duration::from_secs(15) };

#[test]
fn a_story_ends_the_same_in_both_tiers() {
    for (name, story) in stories() {
        let engine = sim::play::play(&story, false);
        let daemons = play(&story, FINE).expect("it can be played");
        assert_eq!(engine.violations, [], "{name} in the engine tier");
        assert_eq!(daemons.violations, [], "{name} in the daemon tier");
        assert_eq!(daemons.ended, engine.ended, "{name}: how its operations ended");
        assert_eq!(daemons.content, engine.content, "{name}: what is committed at the end");
    }
}

#[test]
fn a_story_without_network_faults_ends_the_same_with_paused_time() {
    let mut crashes = 0;
    for (name, story) in stories() {
        let daemons = match play(&story, Config { tier: Tier::Paused, ..FINE }) {
            Err(Error::NotPlayed(_)) => continue,
            daemons => daemons.expect("it can be played"),
        };
        let engine = sim::play::play(&story, false);
        assert_eq!(daemons.violations, [], "{name}");
        assert_eq!(daemons.ended, engine.ended, "{name}: how its operations ended");
        assert_eq!(daemons.content, engine.content, "{name}: what is committed at the end");
        crashes += daemons.crashes;
    }
    assert!(crashes > 0, "no story in which a daemon dies was played");
}

#[test]
fn a_story_with_more_servers_than_the_tier_has_is_refused() {
    let (_, mut story) = stories().swap_remove(0);
    story.servers = 3;
    for tier in [Tier::Turmoil, Tier::Paused] {
        let refused = play(&story, Config { tier, ..FINE }).expect_err("it has one server");
        let why = "the daemon tier's store has one server, the story's has 3";
        assert_eq!(refused.to_string(), why);
    }
}

#[test]
fn a_story_played_twice_is_the_same() {
    let name = "coordinator-dies-and-is-resumed";
    let stories: BTreeMap<_, _> = stories().into_iter().collect();
    let story = &stories[name];
    for tier in [Tier::Turmoil, Tier::Paused] {
        let runs = [0, 1].map(|_| play(story, Config { tier, ..FINE }).expect("it can be played"));
        assert_eq!(runs[0].hash, runs[1].hash, "{name}, {}", tier.name());
    }
}
