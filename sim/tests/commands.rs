//! `ployz-sim` as people and programs call it: what it says as JSON, what it exits with, what it saves.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// What every command says of a story.
const OF_A_STORY: [&str; 17] = [
    "seed",
    "nodes",
    "servers",
    "simulated_seconds",
    "seconds",
    "events",
    "effects",
    "operations",
    "answers",
    "faults",
    "marks",
    "requests",
    "premises",
    "trace_hash",
    "peak_memory_bytes",
    "violations",
    "replay",
];

/// What every command says of a run of an enumeration.
const OF_A_SCHEDULE: [&str; 12] = [
    "scenario",
    "nodes",
    "simulated_seconds",
    "events",
    "effects",
    "budget",
    "crashes",
    "ended",
    "choices",
    "trace_hash",
    "violations",
    "replay",
];

/// A folder of a test's own, gone with it. Commands run in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it: what is left is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ployz-sim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the folder for temporary files takes another one");
        Self(folder)
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ployz-sim"))
            .args(arguments.split(' '))
            .current_dir(&self.0)
            .output()
            .expect("it was built for this test")
    }

    /// The lines of JSON that a command says, and what it exits with.
    fn lines(&self, arguments: &str) -> (Vec<Value>, i32) {
        let out = self.run(arguments);
        let text = String::from_utf8(out.stdout).expect("JSON is UTF-8");
        let line = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{arguments}: {why}: {line}"))
        };
        (text.lines().map(line).collect(), out.status.code().expect("it ended by itself"))
    }

    /// The one object that a command says, and what it exits with.
    fn object(&self, arguments: &str) -> (Value, i32) {
        let (mut lines, code) = self.lines(arguments);
        assert_eq!(lines.len(), 1, "{arguments}");
        (lines.remove(0), code)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("it can be written");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("it can be read")
    }
}

/// It has these fields, and those of its own.
fn has(object: &Value, fields: &[&str], own: &[&str]) {
    let mut wanted: Vec<_> = fields.iter().chain(own).copied().collect();
    wanted.sort_unstable();
    let mut there: Vec<_> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    there.sort_unstable();
    assert_eq!(there, wanted);
}

#[test]
fn every_command_says_the_same_of_a_story() {
    let folder = Folder::new("story");
    let (run, code) =
        folder.object("run --seed 3 --nodes 3 --minutes 1 --json --save a-story.json");
    assert_eq!(code, 0);
    has(&run, &OF_A_STORY, &["shrunk"]);
    assert_eq!((&run["violations"], &run["replay"]), (&json!([]), &Value::Null));
    for (command, own) in [
        ("replay", &[] as &[&str]),
        ("explain", &["title", "end", "planned_faults", "spans", "lines"]),
        ("shrink", &["shrunk"]),
    ] {
        let (again, code) = folder.object(&format!("{command} --json a-story.json"));
        assert_eq!(code, 0, "{command}");
        has(&again, &OF_A_STORY, own);
        for field in OF_A_STORY {
            if !["seconds", "peak_memory_bytes"].contains(&field) {
                assert_eq!(again[field], run[field], "{command}: {field}");
            }
        }
    }
    let (idle, code) = folder.object("idle --nodes 2 --hours 1 --json");
    assert_eq!(code, 0);
    has(&idle, &OF_A_STORY, &["quiet"]);
}

#[test]
fn every_command_says_the_same_of_a_run_of_an_enumeration() {
    let folder = Folder::new("schedule");
    let write = |choices: &str| {
        let schedule = json!({
            "v": 2, "scenario": "first", "crashes": 1, "faults": 0, "later": [2], "choices": choices,
        });
        folder.write("choices.json", &schedule.to_string());
    };
    // Choices that nobody asks for would show nothing.
    write("6=4");
    for command in ["replay", "explain"] {
        let out = folder.run(&format!("{command} --json choices.json"));
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(2), b"".as_slice()));
        let why = String::from_utf8_lossy(&out.stderr);
        assert!(why.contains("choice 6 has the answers 0 to 3, not 4"), "{why}");
    }
    write("6=3");
    let (replay, code) = folder.object("replay --json choices.json");
    assert_eq!(code, 0);
    has(&replay, &OF_A_SCHEDULE, &[]);
    assert_eq!((&replay["crashes"], &replay["budget"]["crashes"]), (&json!(1), &json!(1)));
    let (told, code) = folder.object("explain --json choices.json");
    assert_eq!(code, 0);
    has(&told, &OF_A_SCHEDULE, &["title", "end", "planned_faults", "spans", "lines"]);
    assert_eq!(told["trace_hash"], replay["trace_hash"]);
}

#[test]
fn a_sweep_and_an_enumeration_call_things_as_a_run_does() {
    let folder = Folder::new("many");
    let (sweep, code) = folder.object("sweep --seeds 0..4 --nodes 3..4 --json");
    assert_eq!(code, 0);
    let of_one = ["servers", "effects", "seed", "replay"];
    for field in OF_A_STORY.into_iter().filter(|field| !of_one.contains(field)) {
        assert!(sweep.get(field).is_some(), "{field}");
    }
    let (scenarios, code) = folder.lines("enumerate --op first,stop --json");
    assert_eq!((scenarios.len(), code), (2, 0));
    for scenario in &scenarios {
        for field in ["scenario", "nodes", "effects", "budget", "seconds"] {
            assert!(scenario.get(field).is_some(), "{field}");
        }
        assert_eq!((&scenario["broken"], &scenario["violations"]), (&json!(0), &json!([])));
    }
    let (all, _) = folder.lines("scenarios --json");
    assert!(all.iter().all(|one| one["scenario"].is_string() && one["nodes"].is_u64()));
}

#[test]
fn a_sweep_that_is_not_thorough_leaves_the_page_as_it_was() {
    let folder = Folder::new("page");
    folder.write("page.md", "<!-- sweep -->\nas it was\n<!-- /sweep -->\n");
    let out = folder.run("sweep --seeds 0..2 --nodes 3..4 --thorough --write page.md");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(folder.read("page.md"), "<!-- sweep -->\nas it was\n<!-- /sweep -->\n");
    assert!(String::from_utf8_lossy(&out.stderr).contains("page.md is left as it was"));
    let out = folder.run("sweep --seeds 0..2 --nodes 3..4 --write page.md");
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("add --thorough"));
    assert_eq!(folder.read("page.md"), "<!-- sweep -->\nas it was\n<!-- /sweep -->\n");
}

/// What broke, seen where bugs are planted: `cargo test -p sim --features mutants`.
#[cfg(feature = "mutants")]
mod broken {
    use std::collections::BTreeSet;

    use super::*;

    /// Types what the JSON says, and that breaks the same.
    fn typed_again(folder: &Folder, broke: &Value, replay: &Value) {
        let replay = replay.as_str().expect("a command");
        let out = Command::new("sh").args(["-c", replay]).current_dir(&folder.0).output();
        let out = out.expect("there is a shell");
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(1), "{replay}: {said}");
        let broke = broke.as_str().expect("the name of a rule");
        assert!(said.contains(broke), "{replay} does not break {broke:?}: {said}");
    }

    #[test]
    fn a_run_that_breaks_something_is_made_small_and_its_replay_breaks_the_same() {
        let folder = Folder::new("breaks");
        let run = "run --seed 1 --nodes 4 --minutes 2 --plant step_not_idempotent";
        let (object, code) = folder.object(&format!("{run} --json"));
        assert_eq!(code, 1);
        has(&object, &OF_A_STORY, &["shrunk"]);
        has(&object["violations"][0], &["at", "invariant", "what"], &[]);
        let now = &object["shrunk"]["now"];
        let left = |what: &str| now[what].as_u64().expect("a number");
        assert!(left("nodes") <= 2 && left("operations") <= 2 && left("faults") == 0, "{now}");
        typed_again(&folder, &object["violations"][0]["invariant"], &object["replay"]);
        let out = folder.run(run);
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains(object["replay"].as_str().expect("a command")), "{said}");

        let file = object["shrunk"]["file"].as_str().expect("a file");
        for command in ["replay", "shrink", "explain"] {
            let again = format!("{command} --json --plant step_not_idempotent {file}");
            let (again, code) = folder.object(&again);
            assert_eq!(code, 1, "{command}");
            assert_eq!(again["replay"], object["replay"], "{command}");
            assert_eq!(again["violations"][0]["invariant"], object["violations"][0]["invariant"]);
        }
    }

    #[test]
    fn a_sweep_makes_the_first_story_of_each_rule_small_and_says_how_to_see_each_again() {
        let folder = Folder::new("sweep");
        let sweep = "sweep --seeds 0..16 --nodes 3..5 --plant no_fence,undo_skipped --json";
        let (object, code) = folder.object(sweep);
        assert_eq!(code, 1);
        let broken = object["violations"].as_array().expect("all of them");
        let mut rules = BTreeSet::new();
        for broke in broken {
            has(
                broke,
                &["seed", "nodes", "at", "invariant", "what", "file", "replay", "shrunk"],
                &[],
            );
            let first = rules.insert(broke["invariant"].to_string());
            assert_eq!(broke["shrunk"].is_object(), first, "{broke}");
            typed_again(&folder, &broke["invariant"], &broke["replay"]);
        }
        assert!(rules.len() > 1 && rules.len() < broken.len(), "{rules:?}");
    }

    #[test]
    fn what_an_enumeration_broke_is_seen_again() {
        let folder = Folder::new("enumerate");
        let (object, code) =
            folder.object("enumerate --op first --threads 1 --plant no_fence --json");
        assert_eq!((code, &object["broken"]), (1, &json!(1)));
        let broke = &object["violations"][0];
        has(broke, &["at", "invariant", "what", "trace_hash", "file", "replay"], &[]);
        typed_again(&folder, &broke["invariant"], &broke["replay"]);
    }

    #[test]
    fn a_quiet_time_that_breaks_something_is_seen_again_by_the_same_command() {
        let folder = Folder::new("idle");
        let idle = "idle --nodes 2 --hours 1 --seed 1 --plant step_not_idempotent";
        let (object, code) = folder.object(&format!("{idle} --json"));
        assert_eq!(code, 1);
        assert!(object["replay"].as_str().expect("a command").ends_with(idle));
        typed_again(&folder, &object["violations"][0]["invariant"], &object["replay"]);
    }

    #[test]
    fn the_story_that_shows_a_planted_bug_says_what_a_run_says() {
        let folder = Folder::new("mutants");
        let (rows, code) =
            folder.lines("mutants --stories 20 --only no_fence --save planted --json");
        assert_eq!((rows.len(), code), (1, 0));
        let caught = &rows[0]["caught"];
        has(caught, &OF_A_STORY, &["seen_by"]);
        typed_again(&folder, &caught["seen_by"]["invariant"], &caught["replay"]);
        let (rows, code) = folder.lines("mutants --only no_fence --json");
        assert_eq!((rows.len(), code), (1, 0));
        has(&rows[0]["caught"], &OF_A_SCHEDULE, &["seen_by"]);
    }

    #[test]
    fn no_table_of_a_run_that_broke_something_replaces_a_good_one() {
        let folder = Folder::new("pages");
        let planted = "--plant step_not_idempotent";
        for (mark, command) in [
            ("sweep", format!("sweep --seeds 0..1 --nodes 3..4 --thorough {planted}")),
            ("enumerations", format!("enumerate --op stop,first {planted}")),
            ("idle", format!("idle --nodes 2 {planted}")),
            ("mutants-in-stories", "mutants --stories 1".to_owned()),
        ] {
            let page = format!("<!-- {mark} -->\nas it was\n<!-- /{mark} -->\n");
            folder.write("page.md", &page);
            let out = folder.run(&format!("{command} --write page.md"));
            assert_eq!(out.status.code(), Some(1), "{command}");
            assert_eq!(folder.read("page.md"), page, "{command}");
            assert!(String::from_utf8_lossy(&out.stderr).contains("page.md is left as it was"));
        }
        // Nothing broke, but what was measured is another program.
        let page = "<!-- enumerations -->\nas it was\n<!-- /enumerations -->\n";
        folder.write("page.md", page);
        let quiet = "enumerate --op stop --crashes 0 --plant head_without_cas --write page.md";
        assert!(folder.run(quiet).status.success());
        assert_eq!(folder.read("page.md"), page);
    }
}
