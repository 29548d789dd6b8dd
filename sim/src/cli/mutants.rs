//! `mutants`: bugs planted on purpose, and what it takes to see them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use proto_core::mutant::Mutant;
use serde_json::{Value, json};
use sim::invariants::Violation;
use sim::measure::{CaughtInStory, InStories, Measured, Row, StoryRow};
use sim::measure::{in_stories, measure, name, rows, scenarios, story_rows};
use sim::story::Story;

use super::plant::Plant;
use super::saved::{self, Schedule};
use super::{around, json, write_if};

/// What is planted, and where it is looked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct MutantsArgs {
    /// Only rows whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = super::parse_threads)]
    threads: usize,
    /// Ends each enumeration after so many seconds.
    #[arg(long, default_value_t = 600)]
    within: u64,
    /// After how many further effects a late one may land, beside at rest.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    later: Vec<u64>,
    /// Instead: plays at most so many stories with each bug, until one shows it.
    #[arg(long)]
    stories: Option<u64>,
    /// With `--stories`: saves the story that showed each bug in this folder, and says how to see it again.
    #[arg(long, requires = "stories", value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
    /// Writes the table between the marks of this page, unless a bug was not seen.
    #[arg(long)]
    write: Option<PathBuf>,
}

fn named(row: &Row) -> String {
    if row.planted.is_empty() { "nothing".to_owned() } else { name(&row.planted) }
}

impl MutantsArgs {
    pub(crate) fn run(&self) -> Result<bool, String> {
        if !cfg!(feature = "mutants") {
            return Err(super::NO_BUGS.to_owned());
        }
        match self.stories {
            Some(most) => self.in_stories(most),
            None => self.enumerated(),
        }
    }

    fn is_whole(&self) -> Result<(), String> {
        if self.write.is_some() && !self.only.is_empty() {
            return Err("a page has the whole table: leave out --only, or --write".to_owned());
        }
        Ok(())
    }

    /// Plants each bug and makes every run within a budget that grows until one shows it.
    fn enumerated(&self) -> Result<bool, String> {
        let scenarios = scenarios()?;
        let none =
            Row { planted: Vec::new(), remark: "nothing planted", masked: true, looking_for: None };
        self.is_whole()?;
        if let Some(page) = &self.write {
            around(page, "mutants")?;
        }
        let wanted = |row: &Row| named(row).contains(&self.only);
        let all: Vec<_> = std::iter::once(none).chain(rows()).filter(wanted).collect();
        if all.is_empty() {
            return Err(format!("no row's name holds {:?}", self.only));
        }
        let mut good = true;
        let mut table = vec![
            "| planted | seen by | crashes | faults | in | schedules | |".to_owned(),
            "|---|---|---|---|---|---|---|".to_owned(),
        ];
        let within = Duration::from_secs(self.within);
        for row in all {
            let measured = measure(&row, &scenarios, &self.later, within, self.threads);
            good &= measured.caught.is_some() != row.masked;
            let line = enumerated_line(&row, &measured);
            if self.json {
                say!("{}", self.enumerated_json(&row, &measured));
            } else {
                say!("{line} {:.1} s", measured.took.as_secs_f64());
                if let Some(caught) = &measured.caught {
                    say!("    {} '{}'", caught.violation, caught.report.schedule());
                }
            }
            table.push(line);
        }
        if let Some(page) = &self.write {
            write_if(good, page, "mutants", &table)?;
        }
        Ok(good)
    }

    /// Plants each bug and plays stories until one shows it.
    fn in_stories(&self, most: u64) -> Result<bool, String> {
        let wanted = |row: &StoryRow| name(&row.planted).contains(&self.only);
        let wanted: Vec<_> = story_rows().into_iter().filter(wanted).collect();
        if wanted.is_empty() {
            return Err(format!("no row's name holds {:?}", self.only));
        }
        self.is_whole()?;
        if let Some(page) = &self.write {
            around(page, "mutants-in-stories")?;
        }
        let next = AtomicUsize::new(0);
        let lines = Mutex::new(vec![(String::new(), true); wanted.len()]);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = wanted.get(at) else { return };
                        let found = in_stories(row, most);
                        let line = story_line(row, &found);
                        let saved = self.saved(row, &found);
                        let replay = saved.as_ref().ok().cloned().flatten();
                        if self.json {
                            say!("{}", story_json(row, &found, replay.as_deref()));
                        } else {
                            say!("{line} {:.1} s", found.took.as_secs_f64());
                            replay.iter().for_each(|replay| say!("    {replay}"));
                        }
                        let mut lines = lines.lock().expect("no thread panics with it");
                        lines[at] = (line, found.caught.is_some() && saved.is_ok());
                        if let Err(why) = saved {
                            eprintln!("ployz-sim: {why}");
                        }
                    }
                });
            }
        });
        let lines = lines.into_inner().expect("every thread has ended");
        let good = lines.iter().all(|(_, caught)| *caught);
        if let Some(page) = &self.write {
            let mut table = vec![
                "| planted | machines | stories until caught | seed | seen by |".to_owned(),
                "|---|---|---|---|---|".to_owned(),
            ];
            table.extend(lines.into_iter().map(|(line, _)| line));
            write_if(good, page, "mutants-in-stories", &table)?;
        }
        Ok(good)
    }
}

impl MutantsArgs {
    /// Saves the story that showed the bugs of a row, if that is wanted; how to see it again.
    fn saved(&self, row: &StoryRow, found: &InStories) -> Result<Option<String>, String> {
        let (Some(folder), Some(caught)) = (&self.save, &found.caught) else {
            return Ok(None);
        };
        let path = folder.join(format!("{}.json", name(&row.planted).replace(" + ", "-and-")));
        let broke = Some(caught.violation.invariant.to_owned());
        let story = Story { broke, ..caught.story.clone() };
        saved::save(&path, &story)?;
        Ok(Some(super::replay_of(&path, &Plant::these(&row.planted))))
    }

    fn enumerated_json(&self, row: &Row, measured: &Measured) -> Value {
        let caught = measured.caught.as_ref().map(|caught| {
            let schedule = Schedule {
                crashes: caught.needed.0,
                faults: caught.needed.1,
                later: self.later.clone(),
                choices: caught.report.schedule(),
                ..Schedule::nothing_wrong(caught.scenario)
            };
            let run = json::of_schedule(&schedule, caught.nodes, &caught.report, None);
            seen_by(run, &caught.violation)
        });
        json!({
            "planted": planted(&row.planted), "remark": row.remark, "masked": row.masked,
            "schedules": measured.schedules, "seconds": measured.took.as_secs_f64(),
            "caught": caught,
        })
    }
}

/// The run that showed a bug, with the rule that counts: it may have broken others too.
fn seen_by(mut run: Value, violation: &Violation) -> Value {
    run["seen_by"] = json::violation(violation);
    run
}

fn planted(bugs: &[Mutant]) -> Vec<String> {
    bugs.iter().map(|bug| name(&[*bug])).collect()
}

fn enumerated_line(row: &Row, measured: &Measured) -> String {
    let (planted, schedules) = (named(row), measured.schedules);
    let Some(caught) = &measured.caught else {
        return format!("| {planted} | 0 violations | | | | {schedules} | {} |", row.remark);
    };
    let (crashes, faults) = caught.needed;
    let by = caught.violation.invariant;
    let scenario = caught.scenario;
    let remark = row.remark;
    format!("| {planted} | {by} | {crashes} | {faults} | {scenario} | {schedules} | {remark} |")
}

fn story_line(row: &StoryRow, found: &InStories) -> String {
    let (name, (from, to)) = (name(&row.planted), row.nodes);
    let head = format!("| {name} | {from}–{to} |");
    match &found.caught {
        Some(CaughtInStory { story, violation, .. }) => {
            format!("{head} {} | {} | {} |", found.stories, story.seed, violation.invariant)
        }
        None => format!("{head} none of {} | | |", found.stories),
    }
}

fn story_json(row: &StoryRow, found: &InStories, replay: Option<&str>) -> Value {
    let caught = found.caught.as_ref().map(|caught| {
        let CaughtInStory { story, violation, report, took } = caught;
        seen_by(json::of_story(story, report, took.as_secs_f64(), replay), violation)
    });
    json!({
        "planted": planted(&row.planted), "nodes": row.nodes, "stories": found.stories,
        "seconds": found.took.as_secs_f64(), "caught": caught,
    })
}
