//! `ployz-sim`: plays stories, sweeps, enumerates, replays, shrinks, explains, and measures itself.

#![allow(clippy::print_stdout, reason = "a command line tool prints")]

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cli::say;
use serde_json::json;

/// A simulated second is mostly small values that come and go.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the machines of Ployz against a modelled world that is broken on purpose.
#[derive(Debug, Parser)]
#[command(name = "ployz-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a story that is drawn from a seed: operators, clients and faults on a cluster of whole nodes.
    Run(cli::run::RunArgs),
    /// Deploys something and then asks for nothing, for hours, while daemons and machines die and links are cut. Exits with 1 if a node
    /// writes, commands or changes anything in that time.
    Idle(cli::idle::IdleArgs),
    /// Plays many stories, one a seed.
    Sweep(cli::sweep::SweepArgs),
    /// Makes every run of a scenario within a budget of crashes and faults.
    Enumerate(cli::enumerate::EnumerateArgs),
    /// Plays a saved file again, with every line of what happens.
    Replay {
        /// The file: a story, or the choices of an enumeration.
        file: PathBuf,
        /// One JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        plant: cli::plant::Plant,
    },
    /// Plays a saved file again and tells it to people: one line a change of state with a column a machine, faults and what
    /// broke marked. Or as a page, or as JSON. Exits with 1 if something broke.
    Explain(cli::explain::ExplainArgs),
    /// Makes the story of a failure as small as it gets, in place.
    Shrink {
        /// The file.
        file: PathBuf,
        /// Ends after so many seconds.
        #[arg(long, default_value_t = 300)]
        within: u64,
        /// One JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        plant: cli::plant::Plant,
    },
    /// Plants bugs, one row at a time, and shows what it takes to see them.
    Mutants(cli::mutants::MutantsArgs),
    /// The scenarios that can be enumerated.
    Scenarios {
        /// One JSON object each.
        #[arg(long)]
        json: bool,
    },
    /// The rare states that a thorough sweep must reach.
    Marks {
        /// A JSON array of their names.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) if cli::is_written() => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Ok(true) => ExitCode::from(2),
        Err(error) => {
            eprintln!("ployz-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Run(args) => args.run(),
        Command::Idle(args) => args.run(),
        Command::Sweep(args) => args.run(),
        Command::Enumerate(args) => args.run(),
        Command::Replay { file, json, plant } => cli::replay::replay(&file, json, &plant),
        Command::Explain(args) => args.run(),
        Command::Shrink { file, within, json, plant } => {
            cli::shrink::command(&file, Duration::from_secs(within), json, &plant)
        }
        Command::Mutants(args) => args.run(),
        Command::Scenarios { json } => {
            for scenario in sim::scenario::all().into_iter().chain(sim::scenario::pairs()) {
                let (name, machines, about) = (scenario.name, scenario.machines, scenario.about);
                if json {
                    say!("{}", json!({"scenario": name, "nodes": machines, "about": about}));
                } else {
                    say!("{name:26} {machines} machine(s)  {about}");
                }
            }
            Ok(true)
        }
        Command::Marks { json: true } => {
            say!("{}", json!(sim::marks::ALL.as_slice()));
            Ok(true)
        }
        Command::Marks { json: false } => {
            sim::marks::ALL.iter().for_each(|mark| say!("{mark}"));
            Ok(true)
        }
    }
}
