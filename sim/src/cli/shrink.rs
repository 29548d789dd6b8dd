//! `shrink`, and what every command does with the story of a failure: it is saved, and made as small as it gets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sim::invariants::Violation;
use sim::play::survived;
use sim::shrink::shrink;
use sim::story::Story;

use super::plant::Plant;
use super::saved::{self, Saved};
use super::{json, run};

/// As long may it take to make the story of a failure small.
const WITHIN: Duration = Duration::from_secs(60);

/// The story of a failure, made small and saved.
#[derive(Debug, Clone)]
pub(crate) struct Small {
    before: Size,
    now: Size,
    /// How many stories were played for it.
    runs: u32,
    file: PathBuf,
    /// What to type to see it again.
    pub(crate) replay: String,
}

/// What there is less of in a smaller story.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: usize,
    operations: usize,
    faults: usize,
}

/// Saves the story of a failure as it was played; where.
pub(crate) fn save(story: &Story, violation: &Violation) -> Result<PathBuf, String> {
    let story = Story { broke: Some(violation.invariant.to_owned()), ..story.clone() };
    let path = saved::path_of_failure(&story);
    saved::save(&path, &story)?;
    Ok(path)
}

/// Saves the story of a failure and makes it small.
pub(crate) fn failure(
    story: &Story,
    violation: &Violation,
    plant: &Plant,
) -> Result<Small, String> {
    // First as it is: to make it small may take long, and may be ended.
    let path = save(story, violation)?;
    let (_, small) = in_place(&path, story, WITHIN, plant)?;
    small.ok_or_else(|| format!("{} breaks nothing when it is played again", path.display()))
}

/// `shrink`: makes a story small, in place; whether it breaks nothing.
pub(crate) fn command(
    path: &Path,
    within: Duration,
    json: bool,
    plant: &Plant,
) -> Result<bool, String> {
    let Saved::Story(story) = saved::load(path)? else {
        return Err(format!("{} holds no story: enumerations are small already", path.display()));
    };
    let (story, small) = in_place(path, &story, within, plant)?;
    let began = Instant::now();
    let report = plant.around(|| survived(&story, false));
    let seconds = began.elapsed().as_secs_f64();
    if json {
        let replay = small.as_ref().map(|small| small.replay.as_str());
        let mut all = json::of_story(&story, &report, seconds, replay);
        all["shrunk"] = small.as_ref().map_or(Value::Null, Small::to_json);
        say!("{all}");
    } else if let Some(small) = &small {
        run::print_report(&story, &report, seconds);
        say!("{}", small.in_words());
    } else {
        say!("it breaks nothing, and is left as it is");
    }
    Ok(small.is_none())
}

/// The smallest story, and what became of it; `None`: it breaks nothing, and nothing was written.
fn in_place(
    path: &Path,
    story: &Story,
    within: Duration,
    plant: &Plant,
) -> Result<(Story, Option<Small>), String> {
    let shrunk = plant.around(|| quietly(|| shrink(story, within)));
    if !shrunk.breaks {
        return Ok((shrunk.story, None));
    }
    saved::save(path, &shrunk.story)?;
    let small = Small {
        before: Size::of(story),
        now: Size::of(&shrunk.story),
        runs: shrunk.runs,
        file: path.to_owned(),
        replay: super::replay_of(path, plant),
    };
    Ok((shrunk.story, Some(small)))
}

/// Without a word on standard error from each story that panics.
fn quietly<T>(body: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = body();
    std::panic::set_hook(hook);
    done
}

impl Small {
    /// What was left, and how to see it again.
    pub(crate) fn in_words(&self) -> String {
        let Size { nodes, operations, faults } = self.now;
        let (before, runs) = (self.before, self.runs);
        format!(
            "shrunk from {}, {} and {} to {}, {} and {} in {}\n  {}",
            counted(before.nodes, "machine"),
            counted(before.operations, "operation"),
            counted(before.faults, "fault"),
            nodes,
            operations,
            faults,
            counted(runs as usize, "run"),
            self.replay
        )
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "before": self.before.to_json(), "now": self.now.to_json(), "runs": self.runs, "file": self.file,
        })
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Size {
    fn of(story: &Story) -> Self {
        let (operations, faults) = (story.operations.len(), story.faults.len());
        Self { nodes: story.nodes, operations, faults }
    }

    fn to_json(self) -> Value {
        let Self { nodes, operations, faults } = self;
        json!({"nodes": nodes, "operations": operations, "faults": faults})
    }
}
