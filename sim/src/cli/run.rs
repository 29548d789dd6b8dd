//! `run`: one story, drawn from a seed.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::Value;
use sim::choice::Choices;
use sim::play::{Report, survived};
use sim::story::{Profile, Shape, Story, draw};

use super::plant::Plant;
use super::shrink::{self, Small};
use super::{json, saved};

/// What a run is drawn from.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// How many machines: 1 to 200.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=200))]
    nodes: u16,
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// How many operations. By default one for each six seconds.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    ops: Option<u32>,
    /// How many minutes operators and faults are at work.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=44_640))]
    minutes: u64,
    /// Which faults.
    #[arg(long, value_enum, default_value = "swarm")]
    faults: Profile,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Prints what happens, a line each.
    #[arg(long, conflicts_with = "json")]
    trace: bool,
    /// Writes the story to this file, whether it breaks something or not.
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    plant: Plant,
}

impl RunArgs {
    pub(crate) fn run(&self) -> Result<bool, String> {
        let nodes = usize::from(self.nodes);
        let length = self.minutes * 60_000;
        let operations = self.ops.map_or(length / 6000, u64::from);
        let operations = usize::try_from(operations).expect("at most a million");
        let shape = Shape { nodes, operations, length, profile: self.faults };
        let story = draw(&mut Choices::seeded(self.seed), self.seed, shape);
        if let Some(path) = &self.save {
            saved::save(path, &story)?;
        }
        let began = Instant::now();
        let report = self.plant.around(|| survived(&story, self.trace));
        let took = began.elapsed().as_secs_f64();
        if !self.json {
            for line in &report.lines {
                say!("{}", line.in_columns(story.nodes));
            }
            print_report(&story, &report, took);
        }
        let broke = report.violations.first();
        let small = broke.map(|broke| shrink::failure(&story, broke, &self.plant)).transpose();
        if self.json {
            let small = small.as_ref().ok().and_then(Option::as_ref);
            let replay = small.map(|small| small.replay.as_str());
            let mut all = json::of_story(&story, &report, took, replay);
            all["shrunk"] = small.map_or(Value::Null, Small::to_json);
            say!("{all}");
        }
        // What was broken is said in any case, also where its story cannot be saved.
        if let Some(small) = small? {
            super::aside(self.json, &small.in_words());
        }
        Ok(broke.is_none())
    }
}

pub(crate) fn print_report(story: &Story, report: &Report, seconds: f64) {
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = report.simulated_seconds as f64 / seconds;
    say!(
        "seed {}: {} machines, {} servers of the store, {} simulated seconds in {seconds:.2} s ({rate:.0} a second), {} events, {} effects, peak {} MB",
        story.seed,
        story.nodes,
        story.servers,
        report.simulated_seconds,
        report.events,
        report.effects,
        super::peak_memory() >> 20,
    );
    for (kind, outcomes) in &report.outcomes.0 {
        let all: Vec<_> = outcomes.iter().map(|(name, count)| format!("{name} {count}")).collect();
        say!("  {kind:15} {}", all.join(", "));
    }
    let faults: Vec<_> = report.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
    say!("  faults          {}", if faults.is_empty() { "none".into() } else { faults.join(", ") });
    let requests = &report.requests;
    say!(
        "  requests        {} served, {} failed, {} without a route",
        requests.served,
        requests.failed,
        requests.unrouted
    );
    say!("  trace hash      {:016x}", report.trace_hash);
    for violation in &report.violations {
        say!("  VIOLATION {violation}");
    }
    if report.violations.is_empty() {
        say!("  0 violations");
    }
}
