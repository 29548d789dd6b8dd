//! `replay`, `shrink`, `explain`: what a saved file says, again.

use std::path::Path;
use std::time::Duration;

use sim::choice::{self, Choices};
use sim::play::play;
use sim::shrink::shrink as make_small;

use super::saved::{self, Saved};

/// Plays a file again with every line of what happens; whether nothing broke.
pub(crate) fn replay(path: &Path, json: bool) -> Result<bool, String> {
    match saved::load(path)? {
        Saved::Story(story) => {
            let report = play(&story, true);
            if json {
                println!("{}", super::run::to_json(&story, &report, 0.0));
            } else {
                for line in &report.lines {
                    println!("{}", line.in_columns(story.nodes));
                }
                super::run::print_report(&story, &report, f64::NAN);
            }
            Ok(report.violations.is_empty())
        }
        Saved::Schedule(schedule) => {
            let answers = choice::parse(&schedule.choices)?;
            let Some(prepared) = super::enumerate::prepare(&schedule.scenario)? else {
                return Ok(false);
            };
            let budget = schedule.budget();
            let report = prepared.run(&mut Choices::recorded(answers), budget, true);
            report.trace.iter().for_each(|line| println!("{line}"));
            report.violations.iter().for_each(|violation| println!("  VIOLATION {violation}"));
            Ok(report.violations.is_empty())
        }
    }
}

/// Makes a story small, in place.
pub(crate) fn shrink(path: &Path, within: Duration) -> Result<bool, String> {
    let Saved::Story(story) = saved::load(path)? else {
        return Err(format!("{} holds no story: enumerations are small already", path.display()));
    };
    let shrunk = make_small(&story, within);
    println!(
        "{} machines, {} operations, {} faults; now {}, {}, {} ({} runs)",
        story.nodes,
        story.operations.len(),
        story.faults.len(),
        shrunk.story.nodes,
        shrunk.story.operations.len(),
        shrunk.story.faults.len(),
        shrunk.runs
    );
    saved::save(path, &shrunk.story)?;
    Ok(shrunk.story.broke.is_none())
}
