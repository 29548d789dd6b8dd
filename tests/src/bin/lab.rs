//! Runs scenarios on real parts: `lab [SCENARIO…]`, all of them without a name. Ends with 1 if a check failed.

use std::process::ExitCode;

use clap::Parser as _;
use tests::docker::TestDocker;
use tests::lab::{Extent, LabImage, Parts, Report, RuntimeParts, SCENARIOS, Scenario, run, say};

/// Scenarios on real parts.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Which; all of them by default, as by `one-machine`.
    scenarios: Vec<String>,
    /// Says what there is.
    #[arg(long)]
    list: bool,
    /// What runs the workloads.
    #[arg(long, value_enum, default_value = "auto")]
    runtime: Runtime,
    /// Runs the short form, as `cargo test` does.
    #[arg(long)]
    short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Runtime {
    /// Docker where there is an engine or one can be started, else processes.
    Auto,
    /// A Docker engine, or nothing.
    Docker,
    /// Processes of the host.
    Process,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for scenario in SCENARIOS {
            say(&format!("{:18} {}", scenario.name, scenario.shows));
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match choose(&args.scenarios) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("there is no scenario {unknown}; --list names them");
            return ExitCode::from(2);
        }
    };
    let mut parts = match Parts::find() {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let docker = match args.runtime {
        Runtime::Process => None,
        Runtime::Auto | Runtime::Docker => TestDocker::connect_or_start(),
    };
    if docker.is_none() && args.runtime == Runtime::Docker {
        return ExitCode::from(2);
    }
    let image = match docker.as_ref().map(|docker| LabImage::build(docker, &parts.app)).transpose()
    {
        Ok(image) => image,
        Err(error) => {
            eprintln!("the image of the workload: {error:#}");
            return ExitCode::from(2);
        }
    };
    if let (Some(docker), Some(image)) = (&docker, &image) {
        let socket = docker.socket().to_owned();
        parts.runtime = RuntimeParts::Docker { socket, image: image.name.clone() };
    }
    let extent = if args.short { Extent::Short } else { Extent::Full };
    let mut report = Report::default();
    for scenario in chosen {
        run(scenario, &parts, extent, &mut report).await;
    }
    for failure in report.failures() {
        say(failure);
    }
    say(&format!("{} passed, {} failed", report.passed(), report.failures().len()));
    if report.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>, &String> {
    let mut chosen = Vec::new();
    for name in names {
        if name == "one-machine" {
            chosen.extend(SCENARIOS);
        } else {
            chosen.push(SCENARIOS.iter().find(|scenario| scenario.name == name).ok_or(name)?);
        }
    }
    if names.is_empty() {
        chosen.extend(SCENARIOS);
    }
    Ok(chosen)
}
