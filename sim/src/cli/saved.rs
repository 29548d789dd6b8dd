//! Files that hold what is to be seen again: a story, or the choices of an enumeration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sim::choice::Choices;
use sim::fate::Budget;
use sim::story::Story;

/// The version of the shape of a [`Schedule`]. Choices are positions in a run, so it rises with each change of what an enumeration offers.
pub(crate) const SCHEDULE_VERSION: u32 = 2;

/// The run of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    /// Shape version: [`SCHEDULE_VERSION`].
    pub(crate) v: u32,
    /// The scenario.
    pub(crate) scenario: String,
    /// How many crashes it allows.
    pub(crate) crashes: u32,
    /// How many faults it allows.
    pub(crate) faults: u32,
    /// How many cancels it allows.
    #[serde(default)]
    pub(crate) cancels: u32,
    /// How many second operators it allows.
    #[serde(default)]
    pub(crate) rivals: u32,
    /// When late effects may land.
    pub(crate) later: Vec<u64>,
    /// The choices: `position=answer,…`.
    pub(crate) choices: String,
}

impl Schedule {
    /// The run in which nothing goes wrong.
    pub(crate) fn nothing_wrong(scenario: &str) -> Self {
        Self {
            v: SCHEDULE_VERSION,
            scenario: scenario.to_owned(),
            crashes: 0,
            faults: 0,
            cancels: 0,
            rivals: 0,
            later: Vec::new(),
            choices: String::new(),
        }
    }

    /// What it allows.
    pub(crate) fn budget(&self) -> Budget {
        let budget = Budget::new(self.crashes, self.faults, &self.later);
        Budget { cancels: self.cancels, rivals: self.rivals, ..budget }
    }

    /// What it allows, in words.
    pub(crate) fn allows(&self) -> serde_json::Value {
        let Self { crashes, faults, cancels, rivals, later, .. } = self;
        json!({"crashes": crashes, "faults": faults, "cancels": cancels, "rivals": rivals, "later": later})
    }
}

/// What a file holds.
#[derive(Debug, Clone)]
pub(crate) enum Saved {
    /// A story.
    Story(Box<Story>),
    /// The run of an enumeration.
    Schedule(Schedule),
}

/// What tells the two apart, whatever else is in the file.
#[derive(Deserialize)]
struct Kind {
    v: Option<u32>,
    scenario: Option<IgnoredAny>,
}

/// No file is larger, in bytes: a story of a million operations.
const LARGEST: u64 = 512 << 20;

pub(crate) fn load(path: &Path) -> Result<Saved, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text));
    let read = read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if read as u64 > LARGEST {
        return Err(format!("{} is larger than any story", path.display()));
    }
    saved(&text).map_err(|why| format!("{}: {}", path.display(), shortened(why)))
}

fn saved(text: &str) -> Result<Saved, String> {
    let kind: Kind = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if kind.scenario.is_none() {
        return Ok(Saved::Story(Box::new(Story::read(text)?)));
    }
    // One of another version may have fields that this build does not know.
    if let Some(v) = kind.v.filter(|v| *v != SCHEDULE_VERSION) {
        return Err(format!("it is of version {v}, this build reads {SCHEDULE_VERSION}"));
    }
    serde_json::from_str(text).map(Saved::Schedule).map_err(|error| error.to_string())
}

/// An error repeats what it does not understand: as much as anybody reads of it, with where it is, which comes last.
fn shortened(why: String) -> String {
    const MOST: usize = 400;
    let chars: Vec<char> = why.chars().collect();
    if chars.len() <= MOST {
        return why;
    }
    let text = |chars: &[char]| chars.iter().collect::<String>();
    format!("{} … {}", text(&chars[..MOST / 2]), text(&chars[chars.len() - MOST / 2..]))
}

/// Choices that were not all asked for show nothing, if nothing broke.
pub(crate) fn fits(path: &Path, schedule: &Schedule, choices: &Choices) -> Result<(), String> {
    choices.misfit().map_or(Ok(()), |why| {
        Err(format!(
            "{}: its choices are not of this build, and what they showed is not to be seen: {why}; \
             `ployz-sim enumerate --op {}` plays all that there are now",
            path.display(),
            schedule.scenario
        ))
    })
}

pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), String> {
    let wrong =
        |error: &dyn std::fmt::Display| format!("{} cannot be written: {error}", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
    }
    let text = serde_json::to_string_pretty(value).map_err(|error| wrong(&error))?;
    std::fs::write(path, text + "\n").map_err(|error| wrong(&error))
}

/// Where the story of a failure is saved.
pub(crate) fn path_of_failure(story: &Story) -> PathBuf {
    let broke = story.broke.as_deref().unwrap_or("nothing");
    let number = broke.split(' ').next().unwrap_or("nothing").to_lowercase();
    PathBuf::from(format!("sim-failures/{number}-seed-{}.json", story.seed))
}
