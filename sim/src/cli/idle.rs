//! `idle`: hours in which nobody asks for anything.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use sim::play::{Quiet, Report, idle};
use sim::story::{DEPLOYED_WITHIN, Story, idle as drawn};

use super::plant::Plant;
use super::{json, run};

/// How large a cluster is left alone, and for how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct IdleArgs {
    /// How many machines: 1 to 200.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=200))]
    nodes: u16,
    /// For how many hours nobody asks for anything.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=744))]
    hours: u64,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Writes what it came to between the marks `idle` of this page, unless something broke.
    #[arg(long)]
    write: Option<PathBuf>,
    #[command(flatten)]
    plant: Plant,
}

impl IdleArgs {
    pub(crate) fn run(&self) -> Result<bool, String> {
        if let Some(page) = &self.write {
            super::around(page, "idle")?;
        }
        let quiet = Duration::from_secs(self.hours * 3600);
        let story = drawn(self.seed, usize::from(self.nodes), quiet);
        let began = Instant::now();
        let (report, quiet) = self.plant.around(|| idle(&story, DEPLOYED_WITHIN));
        let took = began.elapsed().as_secs_f64();
        let good = report.violations.is_empty();
        let again = (!good).then(|| self.again());
        if self.json {
            let mut all = json::of_story(&story, &report, took, again.as_deref());
            all["quiet"] = json!(quiet);
            say!("{all}");
        } else {
            run::print_report(&story, &report, took);
            say!("{}", in_words(&story, &report, &quiet));
        }
        if let Some(again) = again {
            super::aside(self.json, &format!("  {again}"));
        }
        if let Some(page) = &self.write {
            super::write_if(
                good && self.plant.is_empty(),
                page,
                "idle",
                &[in_words(&story, &report, &quiet)],
            )?;
        }
        Ok(good)
    }

    /// What to type to see it again. Not `replay` of its story: that asks nothing about the quiet time.
    fn again(&self) -> String {
        let Self { nodes, hours, seed, plant, .. } = self;
        let planted = plant.words();
        super::again(&format!("idle --nodes {nodes} --hours {hours} --seed {seed}{planted}"))
    }
}

fn in_words(story: &Story, report: &Report, quiet: &Quiet) -> String {
    let faults: Vec<_> = report.faults.iter().map(|(name, n)| format!("{n} {name}")).collect();
    format!(
        "Seed {}: {} machines, {} services, then {} simulated seconds in which nobody asked for anything, with {}: {} store writes, {} commands, \
         {} changes of runtimes, {} effects of any kind; {} requests served and {} failed; {} violations; {:.0} s.",
        story.seed,
        story.nodes,
        story.operations.len(),
        quiet.seconds,
        faults.join(", "),
        quiet.writes,
        quiet.commands,
        quiet.changes,
        quiet.effects,
        report.requests.served,
        report.requests.failed,
        report.violations.len(),
        report.story_took.as_secs_f64(),
    )
}
