//! `ployz-sim`: enumerates, replays, measures itself.

#![allow(clippy::print_stdout, reason = "a command line tool prints")]

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use sim::choice::{self, Choices};
use sim::enumerate::{Settings, enumerate};
use sim::fate::Budget;
use sim::run::{Prepared, Report};
use sim::scenario;

/// Runs the machines of Ployz against a modelled world that is broken on purpose.
#[derive(Debug, Parser)]
#[command(name = "ployz-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every run within a budget.
    Enumerate {
        /// The scenario, or `all`.
        #[arg(long, default_value = "all")]
        op: String,
        #[command(flatten)]
        budget: BudgetArgs,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Ends after so many seconds for each scenario, and says so.
        #[arg(long, default_value_t = 3600)]
        within: u64,
        /// Goes on after a violation, and shows an example of each kind.
        #[arg(long)]
        keep_going: bool,
        /// One JSON object a scenario.
        #[arg(long)]
        json: bool,
        /// Writes a table between the marks of this page.
        #[arg(long)]
        write: Option<std::path::PathBuf>,
    },
    /// One run, drawn from a seed.
    Run {
        /// The scenario.
        #[arg(long)]
        op: String,
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// How many runs, with the seeds that follow.
        #[arg(long, default_value_t = 1)]
        count: u64,
        #[command(flatten)]
        budget: BudgetArgs,
    },
    /// One run again, with everything that happens.
    Replay {
        /// The scenario.
        #[arg(long)]
        op: String,
        /// The choices: `position=answer,…`, or a file that holds them.
        schedule: String,
        #[command(flatten)]
        budget: BudgetArgs,
    },
    /// Plants bugs, one row at a time, and shows what it takes to see them.
    Mutants {
        /// Only rows whose name holds this.
        #[arg(long, default_value = "")]
        only: String,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Ends each enumeration after so many seconds.
        #[arg(long, default_value_t = 600)]
        within: u64,
        /// After how many further effects a late one may land, beside at rest.
        #[arg(long, value_delimiter = ',', default_value = "2")]
        later: Vec<u64>,
        /// Writes the table between the marks of this page.
        #[arg(long)]
        write: Option<std::path::PathBuf>,
    },
    /// The scenarios.
    Scenarios,
}

#[derive(Debug, Clone, Args)]
struct BudgetArgs {
    /// How many daemons die or stand still.
    #[arg(long, default_value_t = 1)]
    crashes: u32,
    /// How many answers are lost, requests fail, messages come twice.
    #[arg(long, default_value_t = 0)]
    faults: u32,
    /// After how many further effects a late one may land, beside at rest.
    #[arg(long, value_delimiter = ',', default_value = "1,3,8")]
    later: Vec<u64>,
}

impl BudgetArgs {
    fn budget(&self) -> Budget {
        Budget::new(self.crashes, self.faults, &self.later)
    }

    /// As on the command line.
    fn text(&self) -> String {
        let later: Vec<_> = self.later.iter().map(ToString::to_string).collect();
        format!("--crashes {} --faults {} --later {}", self.crashes, self.faults, later.join(","))
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ployz-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Scenarios => {
            for scenario in scenario::all() {
                println!(
                    "{:26} {} machine(s)  {}",
                    scenario.name, scenario.machines, scenario.about
                );
            }
            Ok(true)
        }
        Command::Enumerate { op, budget, threads, within, keep_going, json, write } => {
            let within = Duration::from_secs(within);
            let mut good = true;
            let mut table = vec![
                "| scenario | crashes | faults | schedules | violations | seconds |".to_owned(),
                "|---|---|---|---|---|---|".to_owned(),
            ];
            for name in names(&op) {
                let Some(prepared) = prepare(&name)? else {
                    good = false;
                    continue;
                };
                let settings = Settings {
                    budget: budget.budget(),
                    threads,
                    within,
                    stop_at_first: !keep_going,
                    planted: Vec::new(),
                    looking_for: None,
                };
                let found = enumerate(&prepared, &settings);
                good &= found.broken == 0;
                table.push(format!(
                    "| {name} | {} | {} | {}{} | {} | {:.0} |",
                    budget.crashes,
                    budget.faults,
                    found.schedules,
                    if found.complete { "" } else { " (not all)" },
                    found.broken,
                    found.took.as_secs_f64()
                ));
                if json {
                    let object = json!({
                        "scenario": name, "crashes": budget.crashes, "faults": budget.faults,
                        "schedules": found.schedules, "violations": found.broken,
                        "complete": found.complete, "seconds": found.took.as_secs_f64(),
                        "effects": prepared.effects, "most_effects": found.most_effects,
                        "ends": found.ends,
                    });
                    println!("{object}");
                } else {
                    println!(
                        "{name:26} {:>9} schedules  {:>8.1} s  {} violations{}  ends {:?}, {} effects, at most {}",
                        found.schedules,
                        found.took.as_secs_f64(),
                        found.broken,
                        if found.complete { "" } else { " (not complete)" },
                        found.ends,
                        prepared.effects,
                        found.most_effects,
                    );
                }
                for report in found.examples.values() {
                    show(&name, report, &budget);
                }
            }
            if let Some(page) = write {
                write_between(&page, "enumerations", &table)?;
            }
            Ok(good)
        }
        Command::Mutants { only, threads, within, later, write } => {
            mutants(&only, threads, Duration::from_secs(within), &later, write.as_deref())
        }
        Command::Run { op, seed, count, budget } => {
            let Some(prepared) = prepare(&op)? else { return Ok(false) };
            for seed in seed..seed.saturating_add(count) {
                let report = prepared.run(&mut Choices::seeded(seed), budget.budget(), count == 1);
                report.trace.iter().for_each(|line| println!("{line}"));
                if !report.violations.is_empty() {
                    println!("seed {seed}:");
                    show(&op, &report, &budget);
                    return Ok(false);
                }
            }
            println!("{count} run(s), 0 violations");
            Ok(true)
        }
        Command::Replay { op, schedule, budget } => {
            let text = std::fs::read_to_string(&schedule).unwrap_or(schedule);
            let answers = choice::parse(text.trim())?;
            let Some(prepared) = prepare(&op)? else { return Ok(false) };
            let report = prepared.run(&mut Choices::recorded(answers), budget.budget(), true);
            report.trace.iter().for_each(|line| println!("{line}"));
            show(&op, &report, &budget);
            Ok(report.violations.is_empty())
        }
    }
}

#[cfg(not(feature = "mutants"))]
fn mutants(
    _: &str,
    _: usize,
    _: Duration,
    _: &[u64],
    _: Option<&std::path::Path>,
) -> Result<bool, String> {
    Err("this build has no bugs to plant: build it with `--features mutants`".to_owned())
}

#[cfg(feature = "mutants")]
fn mutants(
    only: &str,
    threads: usize,
    within: Duration,
    later: &[u64],
    write: Option<&std::path::Path>,
) -> Result<bool, String> {
    use sim::measure::{Measured, Row, measure, name, rows, scenarios};
    let scenarios = scenarios()?;
    let none =
        Row { planted: Vec::new(), remark: "nothing planted", masked: true, looking_for: None };
    let all = std::iter::once(none).chain(rows());
    let mut good = true;
    let mut table = vec![
        "| planted | seen by | crashes | faults | in | schedules | |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in all.filter(|row| row.planted.is_empty() || name(row).contains(only)) {
        let Measured { caught, schedules, took } =
            measure(&row, &scenarios, later, within, threads);
        good &= caught.is_some() != row.masked;
        let planted = if row.planted.is_empty() { "nothing".to_owned() } else { name(&row) };
        let line = match &caught {
            Some(caught) => {
                let (crashes, faults) = caught.needed;
                let by = caught.violation.invariant;
                format!(
                    "| {planted} | {by} | {crashes} | {faults} | {} | {schedules} | {} |",
                    caught.scenario, row.remark
                )
            }
            None => format!("| {planted} | 0 violations | | | | {schedules} | {} |", row.remark),
        };
        println!("{line} {:.1} s", took.as_secs_f64());
        if let Some(caught) = &caught {
            println!("    {} '{}'", caught.violation, caught.report.schedule());
        }
        table.push(line);
    }
    if let Some(page) = write {
        write_between(page, "mutants", &table)?;
    }
    Ok(good)
}

/// Puts lines between the marks of a page, in place of what was there.
fn write_between(page: &std::path::Path, mark: &str, lines: &[String]) -> Result<(), String> {
    let text = std::fs::read_to_string(page).map_err(|error| error.to_string())?;
    let (begin, end) = (format!("<!-- {mark} -->"), format!("<!-- /{mark} -->"));
    let parts = text
        .split_once(&begin)
        .and_then(|(head, rest)| rest.split_once(&end).map(|(_, tail)| (head, tail)));
    let Some((head, tail)) = parts else {
        return Err(format!("{} has no marks {begin} and {end}", page.display()));
    };
    let text = format!("{head}{begin}\n{}\n{end}{tail}", lines.join("\n"));
    std::fs::write(page, text).map_err(|error| error.to_string())
}

fn names(op: &str) -> Vec<String> {
    if op == "all" {
        return scenario::all().iter().map(|scenario| scenario.name.to_owned()).collect();
    }
    op.split(',').map(str::to_owned).collect()
}

fn prepare(name: &str) -> Result<Option<Prepared>, String> {
    let Some(scenario) = scenario::by_name(name) else {
        return Err(format!("there is no scenario {name:?}; `ployz-sim scenarios` lists them"));
    };
    match Prepared::new(scenario) {
        Ok(prepared) => Ok(Some(prepared)),
        Err(report) => {
            println!("{name}: with nothing going wrong:");
            report.trace.iter().for_each(|line| println!("{line}"));
            report.violations.iter().for_each(|violation| println!("  {violation}"));
            Ok(None)
        }
    }
}

fn show(name: &str, report: &Report, budget: &BudgetArgs) {
    for violation in &report.violations {
        println!("  {violation}");
    }
    if !report.violations.is_empty() {
        let text = budget.text();
        println!("  ployz-sim replay --op {name} {text} '{}'", report.schedule());
    }
}
