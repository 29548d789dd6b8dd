//! `enumerate`: every run of a scenario within a budget.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sim::enumerate::{Found, Settings, enumerate};
use sim::run::{Prepared, Report};
use sim::scenario;

use super::json;
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
    /// Writes a table between the marks of this page, unless something broke or not every run was made.
    #[arg(long)]
    write: Option<PathBuf>,
    /// The name of the marks.
    #[arg(long, default_value = "enumerations")]
    mark: String,
    #[command(flatten)]
    plant: Plant,
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
            let Some(prepared) = prepare(&name, self.json)? else {
                good = false;
                continue;
            };
            let settings = Settings {
                budget: self.schedule(&name, String::new()).budget(),
                threads: self.threads,
                within: Duration::from_secs(self.within),
                stop_at_first: !self.keep_going,
                merge: !self.each,
                planted: self.plant.bugs(),
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
            let saved = found.examples.values().map(|report| self.save(&name, report));
            let saved: Result<Vec<Saved>, String> = saved.collect();
            let examples = saved.as_deref().unwrap_or_default();
            if self.json {
                say!("{}", self.to_json(&prepared, &found, computed, examples));
            } else {
                print(&prepared, &found, computed, examples);
            }
            // What was broken is said in any case, also where its choices cannot be saved.
            saved?;
        }
        // Not after each scenario: half a table is no better than the one that is there.
        if let Some(page) = &self.write {
            super::write_if(good && self.plant.is_empty(), page, &self.mark, &table)?;
        }
        Ok(good)
    }

    fn schedule(&self, scenario: &str, choices: String) -> Schedule {
        Schedule {
            v: saved::SCHEDULE_VERSION,
            scenario: scenario.to_owned(),
            crashes: self.crashes,
            faults: self.faults,
            cancels: self.cancels,
            rivals: self.rivals,
            later: self.later.clone(),
            choices,
        }
    }

    /// Saves a run that broke something.
    fn save(&self, name: &str, report: &Report) -> Result<Saved, String> {
        let broke = report.violations.first().map_or("nothing", |violation| violation.invariant);
        let rule = broke.to_lowercase().replace(' ', "-");
        let file = PathBuf::from(format!("sim-failures/{rule}-{name}.json"));
        saved::save(&file, &self.schedule(name, report.schedule()))?;
        Ok(Saved { replay: super::replay_of(&file, &self.plant), file })
    }

    fn to_json(
        &self,
        prepared: &Prepared,
        found: &Found,
        cpu_seconds: f64,
        saved: &[Saved],
    ) -> Value {
        let violations = found.examples.values().enumerate().flat_map(|(n, report)| {
            report.violations.iter().map(move |violation| {
                let mut all = json::violation(violation);
                all["trace_hash"] = json!(json::hash(report.hash));
                all["file"] = json!(saved.get(n).map(|saved| &saved.file));
                all["replay"] = json!(saved.get(n).map(|saved| &saved.replay));
                all
            })
        });
        json!({
            "scenario": prepared.scenario.name,
            "nodes": prepared.scenario.machines,
            "seconds": found.took.as_secs_f64(),
            "cpu_seconds": cpu_seconds,
            "budget": self.schedule(prepared.scenario.name, String::new()).allows(),
            "schedules": found.schedules,
            "made_to_the_end": found.ended,
            "met_another": found.met,
            "states": found.states,
            "complete": found.complete,
            "effects": prepared.effects,
            "most_effects": found.most_effects,
            "ends": found.ends,
            "broken": found.broken,
            "violations": violations.collect::<Vec<_>>(),
        })
    }
}

/// A run that broke something.
struct Saved {
    /// Where its choices are.
    file: PathBuf,
    /// What to type to see it again.
    replay: String,
}

fn print(prepared: &Prepared, found: &Found, cpu_seconds: f64, saved: &[Saved]) {
    say!(
        "{:26} {:>9} schedules ({} made to the end, {} met another)  {:>8.1} s, {cpu_seconds:.1} of CPU  {} violations{}  ends {:?}, {} effects, at most {}",
        prepared.scenario.name,
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
    for (n, report) in found.examples.values().enumerate() {
        report.violations.iter().for_each(|violation| say!("  VIOLATION {violation}"));
        saved.get(n).iter().for_each(|saved| say!("  {}", saved.replay));
    }
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

/// The scenario with what comes before it done; `None`: it breaks something even with nothing going wrong, and that was said.
pub(crate) fn prepare(name: &str, json: bool) -> Result<Option<Prepared>, String> {
    let Some(scenario) = scenario::by_name(name) else {
        return Err(format!("there is no scenario {name:?}; `ployz-sim scenarios` lists them"));
    };
    let machines = scenario.machines;
    match Prepared::new(scenario) {
        Ok(prepared) => Ok(Some(prepared)),
        Err(report) if json => {
            let nothing_wrong = Schedule::nothing_wrong(name);
            say!("{}", json::of_schedule(&nothing_wrong, machines, &report, None));
            Ok(None)
        }
        Err(report) => {
            say!("{name}: with nothing going wrong:");
            for line in &report.trace.lines {
                say!("{}", line.in_columns(machines));
            }
            report.violations.iter().for_each(|violation| say!("  VIOLATION {violation}"));
            Ok(None)
        }
    }
}
