//! `ployz-sim`: plays stories, sweeps, enumerates, replays, shrinks, explains, and measures itself.

#![allow(clippy::print_stdout, reason = "a command line tool prints")]

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cli::say;

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
        /// Instead: plays at most so many stories with each bug, until one shows it.
        #[arg(long)]
        stories: Option<u64>,
        /// Writes the table between the marks of this page.
        #[arg(long)]
        write: Option<PathBuf>,
    },
    /// The scenarios that can be enumerated.
    Scenarios,
    /// The rare states that a thorough sweep must reach.
    Marks,
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
        Command::Run(args) => args.run(),
        Command::Idle(args) => args.run(),
        Command::Sweep(args) => args.run(),
        Command::Enumerate(args) => args.run(),
        Command::Replay { file, json } => cli::explain::replay(&file, json),
        Command::Explain(args) => args.run(),
        Command::Shrink { file, within } => {
            cli::explain::shrink(&file, Duration::from_secs(within))
        }
        Command::Mutants { only, threads, stories: Some(most), write, .. } => {
            cli::mutants::in_stories(&only, most, threads, write.as_deref())
        }
        Command::Mutants { only, threads, within, later, write, .. } => {
            let within = Duration::from_secs(within);
            cli::mutants::mutants(&only, threads, within, &later, write.as_deref())
        }
        Command::Scenarios => {
            for scenario in sim::scenario::all().into_iter().chain(sim::scenario::pairs()) {
                say!("{:26} {} machine(s)  {}", scenario.name, scenario.machines, scenario.about);
            }
            Ok(true)
        }
        Command::Marks => {
            sim::marks::ALL.iter().for_each(|mark| say!("{mark}"));
            Ok(true)
        }
    }
}
