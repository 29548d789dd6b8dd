//! `sim-daemon`: plays stories with the daemons of ployzd on turmoil hosts, and compares the tiers.

#![allow(clippy::print_stdout, reason = "a command line tool prints")]

mod compare;
mod two_hundred;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use sim::story::Story;
use sim_daemon::{Config, Report, Tier, play};

/// The driver loop and the API of ployzd on simulated hosts.
#[derive(Debug, Parser)]
#[command(name = "sim-daemon", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a saved story.
    Play {
        /// The story.
        file: PathBuf,
        /// The step of the clock, in milliseconds.
        #[arg(long, default_value_t = 1)]
        tick: u64,
        /// All daemons in one runtime with paused time instead of turmoil: faster, and without faults of the network.
        #[arg(long)]
        paused: bool,
    },
    /// 200 machines, a deploy over 20 of them, five crashes, a partition.
    TwoHundred {
        /// Where all randomness comes from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many machines.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(21..=200))]
        nodes: u16,
    },
    /// The same story in the engine, with paused time and on turmoil: simulated seconds a second. Exits with 1 if something was
    /// broken or the tiers do not come to the same.
    Compare(compare::CompareArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("sim-daemon: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Play { file, tick, paused } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
            let story = Story::read(&text).map_err(|why| format!("{}: {why}", file.display()))?;
            let tier = if paused { Tier::Paused } else { Tier::Turmoil };
            let tick = Duration::from_millis(tick.max(1));
            let config = Config { tier, tick, ..Config::default() };
            tell(&story, config).map(|report| report.violations.is_empty())
        }
        Command::TwoHundred { seed, nodes } => two_hundred::run(seed, usize::from(nodes)),
        Command::Compare(args) => args.run(),
    }
}

/// Plays a story and says what it came to.
fn tell(story: &Story, config: Config) -> Result<Report, String> {
    let began = Instant::now();
    let report = play(story, config).map_err(|error| error.to_string())?;
    let (simulated, took) = (report.simulated.as_secs_f64(), began.elapsed().as_secs_f64());
    println!(
        "{} machines, {simulated:.0} simulated s in {took:.0} s ({:.2} a second), tick {:?}, peak memory {} MiB",
        story.nodes,
        simulated / took,
        config.tick,
        sim::figures::peak_memory() >> 20,
    );
    println!(
        "{} effects, {} daemons died, {} faults, hash {:016x}",
        report.effects, report.crashes, report.faults, report.hash
    );
    for (n, asked) in story.operations.iter().enumerate() {
        let (ended, at) = (report.ended[n], report.ended_at[n].as_secs_f64());
        println!("{} on machine {}: {ended} at {at:.1} s", asked.action.kind(), asked.machine + 1);
    }
    for (invariant, states) in &report.premises {
        println!("{states:8} {invariant}");
    }
    for violation in &report.violations {
        println!("VIOLATION {violation}");
    }
    Ok(report)
}
