//! The same story in three tiers, in one run: the engine's pure nodes, the daemons in one runtime with paused time, the daemons on turmoil.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto_core::deploy::spec::Strategy;
use serde::Serialize;
use sim::figures;
use sim::invariants::Violation;
use sim::invariants::rest::Content;
use sim::story::{Action, Asked, Fault, Service, Story, Then, VERSION, What};
use sim_daemon::{Config, Tier};

/// The step of turmoil's clock, and how often the invariants look with paused time.
const TICK: Duration = Duration::from_millis(10);
/// Every lease of the story is given back, so the rest before the questions at the end can be short.
const REST: Duration = Duration::from_secs(5);

/// What is compared.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// Numbers of machines.
    #[arg(long, value_delimiter = ',', default_value = "3,50,200", value_parser = clap::value_parser!(u16).range(3..=200))]
    nodes: Vec<u16>,
    /// How long the story is, in simulated seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(30..))]
    seconds: u64,
    /// One JSON array, an object a row.
    #[arg(long)]
    json: bool,
    /// Writes the table between the marks `compare` of this page.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// A tier's run of the story.
#[derive(Debug, Serialize)]
struct Row {
    tier: &'static str,
    nodes: usize,
    /// How long the story is. Neither this nor the next counts the rest and the questions at the end.
    simulated_seconds: u64,
    /// How long it took.
    seconds: f64,
    simulated_seconds_a_second: f64,
    /// The most memory that the process had during the whole run.
    peak_memory_bytes: u64,
    ended: Vec<&'static str>,
}

impl CompareArgs {
    /// Prints the table, or writes it; whether every tier came to the same.
    pub(crate) fn run(&self) -> Result<bool, String> {
        let (mut rows, mut fine) = (Vec::new(), true);
        for &nodes in &self.nodes {
            let story = story(usize::from(nodes), self.seconds * 1000);
            let engine = Played::by_the_engine(&story);
            fine &= engine.is_fine();
            self.add(&mut rows, engine.row(&story));
            for tier in [Tier::Paused, Tier::Turmoil] {
                let daemons = Played::by_daemons(&story, tier)?;
                fine &= daemons.is_fine() && daemons.is_as(&engine);
                self.add(&mut rows, daemons.row(&story));
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?);
        }
        match &self.write {
            Some(page) if fine => write(page, &rows).map(|()| true),
            _ => Ok(fine),
        }
    }

    fn add(&self, rows: &mut Vec<Row>, row: Row) {
        if !self.json {
            println!("{}", row.line());
        }
        rows.push(row);
    }
}

/// What a run came to, whatever the tier.
struct Played {
    tier: &'static str,
    nodes: usize,
    took: Duration,
    peak_memory: u64,
    ended: Vec<&'static str>,
    content: Content,
    violations: Vec<Violation>,
}

impl Played {
    fn by_the_engine(story: &Story) -> Self {
        figures::reset_peak_memory();
        let report = sim::play::play(story, false);
        Self {
            tier: "engine",
            nodes: story.nodes,
            took: report.story_took,
            peak_memory: figures::peak_memory(),
            ended: report.ended,
            content: report.content,
            violations: report.violations,
        }
    }

    fn by_daemons(story: &Story, tier: Tier) -> Result<Self, String> {
        figures::reset_peak_memory();
        let config = Config { tier, tick: TICK, rest: REST };
        let report = sim_daemon::play(story, config).map_err(|error| error.to_string())?;
        Ok(Self {
            tier: tier.name(),
            nodes: story.nodes,
            took: report.story_took,
            peak_memory: figures::peak_memory(),
            ended: report.ended,
            content: report.content,
            violations: report.violations,
        })
    }

    /// Whether nothing was broken. What was is printed.
    fn is_fine(&self) -> bool {
        for violation in &self.violations {
            eprintln!("{}, {} machines: VIOLATION {violation}", self.tier, self.nodes);
        }
        self.violations.is_empty()
    }

    /// Whether the operations ended the same and the heads are the same. What differs is printed.
    fn is_as(&self, engine: &Self) -> bool {
        let (who, nodes) = (self.tier, self.nodes);
        if self.ended != engine.ended {
            eprintln!("{who}, {nodes} machines: {:?}; the engine: {:?}", self.ended, engine.ended);
        }
        if self.content != engine.content {
            eprintln!(
                "{who}, {nodes} machines: {:?}; the engine: {:?}",
                self.content, engine.content
            );
        }
        self.ended == engine.ended && self.content == engine.content
    }

    fn row(&self, story: &Story) -> Row {
        let (simulated, seconds) = (story.length / 1000, self.took.as_secs_f64());
        Row {
            tier: self.tier,
            nodes: self.nodes,
            simulated_seconds: simulated,
            seconds,
            simulated_seconds_a_second: simulated as f64 / seconds,
            peak_memory_bytes: self.peak_memory,
            ended: self.ended.clone(),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let rate = self.simulated_seconds_a_second;
        let digits = if rate < 10.0 { 2 } else { 0 };
        format!(
            "| {} | {} | {} | {:.3} | {rate:.digits$} | {} MiB |",
            self.tier,
            self.nodes,
            self.simulated_seconds,
            self.seconds,
            self.peak_memory_bytes >> 20,
        )
    }
}

fn write(page: &Path, rows: &[Row]) -> Result<(), String> {
    let mut lines = vec![
        "| tier | machines | simulated s | s | simulated s a second | peak memory |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(rows.iter().map(Row::line));
    figures::write_between(page, "compare", &lines)
}

/// A deploy and an update with three replicas, a daemon that dies and comes back, and a scale that is asked of that one, each when the
/// one before is over in every tier. No fault of the network: there is none with paused time. `length` is in milliseconds.
fn story(nodes: usize, length: u64) -> Story {
    let asked = |at, machine, action| {
        let then_on = 1 % nodes;
        Asked { at, machine, action, cancel_after: None, then: Then::Resume, then_on }
    };
    let deploy = |image: &str| {
        let service = Service::new(0, image.to_owned(), 3, Strategy::Rolling);
        Action::Deploy { ns: 0, services: vec![service] }
    };
    let crash = What::DaemonCrash { machine: 1 % nodes };
    Story {
        v: VERSION,
        seed: 1,
        nodes,
        servers: 1,
        length,
        request_every: 0,
        used: 0,
        operations: vec![
            asked(500, 0, deploy("ready-300-v1")),
            asked(10_000, 0, deploy("ready-300-v2")),
            asked(23_000, 1 % nodes, Action::Scale { ns: 0, s: 0, replicas: 2 }),
        ],
        faults: vec![Fault { at: 20_500, lasts: 0, what: crash }],
        away: None,
        broke: None,
    }
}
