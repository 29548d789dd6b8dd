//! `enumerate`: every run of a scenario within a budget.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use sim::enumerate::{Settings, enumerate};
use sim::fate::Budget;
use sim::run::{Prepared, Report};
use sim::scenario;

use super::plant::Plant;
use super::saved::{self, Schedule};

/// As much of each kind as may go wrong in one run: what has so many effects is no longer told from what goes round in circles.
const MOST: i64 = 8;

/// What is enumerated.
#[derive(Debug, Clone, Args)]
pub(crate) struct EnumerateArgs {
    /// The scenario, several with commas between them, `all` (on one machine and two), or `pairs` (each kind of operation on two).
    #[arg(long, default_value = "all")]
    op: String,
    /// How many daemons die or stand still.
    #[arg(long, default_value_t = 1, value_parser = parse_budget())]
    crashes: u32,
    /// How many answers are lost, requests fail, messages come twice.
    #[arg(long, default_value_t = 0, value_parser = parse_budget())]
    faults: u32,
    /// How often the operator cancels, at any effect.
    #[arg(long, default_value_t = 0, value_parser = parse_budget())]
    cancels: u32,
    /// How often a second operator resumes or aborts, on the other machine, at any effect while the first waits for an answer.
    #[arg(long, default_value_t = 0, value_parser = parse_budget())]
    rivals: u32,
    /// After how many further effects a late one may land, beside at rest.
    #[arg(long, value_delimiter = ',', default_value = "1,3,8")]
    later: Vec<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = super::parse_threads)]
    threads: usize,
    /// Ends after so many seconds for each scenario, says so, and exits with 1 as not every run was made.
    #[arg(long, default_value_t = 3600)]
    within: u64,
    /// Makes every run to its end, also those that come to a state where another has been.
    #[arg(long)]
    each: bool,
    /// Goes on after a violation, and shows an example of each kind.
    #[arg(long)]
    keep_going: bool,
    /// One JSON object a scenario.
    #[arg(long)]
    json: bool,
    /// Writes a table between the marks of this page.
    #[arg(long)]
    write: Option<PathBuf>,
    /// The name of the marks.
    #[arg(long, default_value = "enumerations")]
    mark: String,
}

fn parse_budget() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(0..=MOST)
}

impl EnumerateArgs {
    pub(crate) fn run(&self) -> Result<bool, String> {
        if let Some(page) = &self.write {
            super::around(page, &self.mark)?;
        }
        let mut good = true;
        let mut table = vec![
            "| scenario | effects | crashes | faults | cancels | second operators | schedules | made to the end | met another | violations | seconds | CPU seconds |"
                .to_owned(),
            "|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
        ];
        for name in names(&self.op) {
            let Some(prepared) = prepare(&name)? else {
                good = false;
                continue;
            };
            let settings = Settings {
                budget: self.budget(),
                threads: self.threads,
                within: Duration::from_secs(self.within),
                stop_at_first: !self.keep_going,
                merge: !self.each,
                planted: Vec::new(),
                looking_for: None,
            };
            let before = super::cpu_seconds();
            let found = enumerate(&prepared, &settings);
            let computed = super::cpu_seconds() - before;
            good &= found.broken == 0 && found.complete;
            table.push(format!(
                "| {name} | {} | {} | {} | {} | {} | {}{} | {} | {} | {} | {:.0} | {computed:.0} |",
                prepared.effects,
                self.crashes,
                self.faults,
                self.cancels,
                self.rivals,
                found.schedules,
                if found.complete { "" } else { " (not all)" },
                found.ended,
                found.met,
                found.broken,
                found.took.as_secs_f64()
            ));
            let examples = found.examples.values().map(|report| self.save(&name, report));
            let examples = examples.collect::<Result<Vec<_>, _>>()?;
            if self.json {
                let object = json!({
                    "scenario": name, "crashes": self.crashes, "faults": self.faults,
                    "cancels": self.cancels, "rivals": self.rivals,
                    "schedules": found.schedules, "ended": found.ended, "met": found.met,
                    "states": found.states, "violations": found.broken, "cpu_seconds": computed,
                    "complete": found.complete, "seconds": found.took.as_secs_f64(),
                    "effects": prepared.effects, "most_effects": found.most_effects,
                    "ends": found.ends, "examples": examples,
                });
                say!("{object}");
            } else {
                say!(
                    "{name:26} {:>9} schedules ({} made to the end, {} met another)  {:>8.1} s, {computed:.1} of CPU  {} violations{}  ends {:?}, {} effects, at most {}",
                    found.schedules,
                    found.ended,
                    found.met,
                    found.took.as_secs_f64(),
                    found.broken,
                    if found.complete { "" } else { " (not complete)" },
                    found.ends,
                    prepared.effects,
                    found.most_effects,
                );
                for example in &examples {
                    example.violations.iter().for_each(|violation| say!("  {violation}"));
                    say!("  {}", example.replay);
                }
            }
            // After each, as the next may take long.
            if let Some(page) = &self.write {
                super::write_between(page, &self.mark, &table)?;
            }
        }
        Ok(good)
    }

    fn budget(&self) -> Budget {
        let budget = Budget::new(self.crashes, self.faults, &self.later);
        Budget { cancels: self.cancels, rivals: self.rivals, ..budget }
    }

    /// Saves a run that broke something.
    fn save(&self, name: &str, report: &Report) -> Result<Example, String> {
        let broke = report.violations.first().map_or("nothing", |violation| violation.invariant);
        let rule = broke.to_lowercase().replace(' ', "-");
        let path = PathBuf::from(format!("sim-failures/{rule}-{name}.json"));
        let schedule = Schedule {
            v: saved::SCHEDULE_VERSION,
            scenario: name.to_owned(),
            crashes: self.crashes,
            faults: self.faults,
            cancels: self.cancels,
            rivals: self.rivals,
            later: self.later.clone(),
            choices: report.schedule(),
        };
        saved::save(&path, &schedule)?;
        Ok(Example {
            violations: report.violations.iter().map(ToString::to_string).collect(),
            trace_hash: format!("{:016x}", report.hash),
            replay: super::replay_of(&path, &Plant::default()),
            file: path,
        })
    }
}

/// A run that broke something.
#[derive(Debug, Serialize)]
struct Example {
    violations: Vec<String>,
    trace_hash: String,
    /// Where its choices are.
    file: PathBuf,
    /// What to type to see it again.
    replay: String,
}

fn names(op: &str) -> Vec<String> {
    if op == "pairs" {
        return scenario::pairs().iter().map(|scenario| scenario.name.to_owned()).collect();
    }
    if op == "all" {
        return scenario::all().iter().map(|scenario| scenario.name.to_owned()).collect();
    }
    op.split(',').map(str::to_owned).collect()
}

pub(crate) fn prepare(name: &str) -> Result<Option<Prepared>, String> {
    let Some(scenario) = scenario::by_name(name) else {
        return Err(format!("there is no scenario {name:?}; `ployz-sim scenarios` lists them"));
    };
    let machines = scenario.machines;
    match Prepared::new(scenario) {
        Ok(prepared) => Ok(Some(prepared)),
        Err(report) => {
            say!("{name}: with nothing going wrong:");
            for line in &report.trace.lines {
                say!("{}", line.in_columns(machines));
            }
            report.violations.iter().for_each(|violation| say!("  {violation}"));
            Ok(None)
        }
    }
}
