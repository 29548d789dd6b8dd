//! `replay`: a saved file, played again.

use std::path::Path;
use std::time::Instant;

use sim::choice::{self, Choices};
use sim::play::survived;

use super::plant::Plant;
use super::saved::{self, Saved};
use super::{enumerate, json, run};

/// Plays a file again with every line of what happens; whether nothing broke.
pub(crate) fn replay(path: &Path, json: bool, plant: &Plant) -> Result<bool, String> {
    let again = super::replay_of(path, plant);
    match saved::load(path)? {
        Saved::Story(story) => {
            let began = Instant::now();
            let report = plant.around(|| survived(&story, !json));
            let took = began.elapsed().as_secs_f64();
            let good = report.violations.is_empty();
            let again = (!good).then_some(again.as_str());
            if json {
                say!("{}", json::of_story(&story, &report, took, again));
            } else {
                for line in &report.lines {
                    say!("{}", line.in_columns(story.nodes));
                }
                run::print_report(&story, &report, took);
                again.iter().for_each(|again| say!("  {again}"));
            }
            Ok(good)
        }
        Saved::Schedule(schedule) => {
            let answers = choice::parse(&schedule.choices)?;
            let Some(prepared) = enumerate::prepare(&schedule.scenario, json)? else {
                return Ok(false);
            };
            let mut choices = Choices::recorded(answers);
            let report = plant.around(|| prepared.run(&mut choices, schedule.budget(), !json));
            let good = report.violations.is_empty();
            let again = (!good).then_some(again.as_str());
            if good {
                saved::fits(path, &schedule, &choices)?;
            }
            let machines = prepared.scenario.machines;
            if json {
                say!("{}", json::of_schedule(&schedule, machines, &report, again));
            } else {
                for line in &report.trace.lines {
                    say!("{}", line.in_columns(machines));
                }
                report.violations.iter().for_each(|violation| say!("  VIOLATION {violation}"));
                again.iter().for_each(|again| say!("  {again}"));
            }
            Ok(good)
        }
    }
}
