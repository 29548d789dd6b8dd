//! The same workload in the engine tier and in the daemon tier: how many simulated seconds each makes a second.

use std::path::Path;
use std::time::{Duration, Instant};

use proto_core::deploy::spec::Strategy;
use sim::story::{Action, Asked, Fault, Service, Story, Then, VERSION, What};
use sim_daemon::Config;

/// Prints the table, and writes it between the marks `compare` of a page.
pub(crate) fn run(nodes: &[usize], write: Option<&Path>) -> Result<bool, String> {
    let mut lines = vec![
        "| machines | engine | turmoil, tick 10 ms | turmoil, tick 1 ms |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    lines.iter().for_each(|line| println!("{line}"));
    let mut fine = true;
    for &nodes in nodes {
        let story = story(nodes);
        let (engine, ended) = engine(&story)?;
        let mut line = format!("| {nodes} | {engine:.0} |");
        for tick in [10, 1] {
            // What takes longer than some minutes says nothing more.
            if nodes * nodes > 3000 * tick {
                line += " not measured |";
                continue;
            }
            let (speed, here) = daemons(&story, Duration::from_millis(tick as u64))?;
            fine &= here == ended;
            line += &format!(" {speed:.2} |");
        }
        println!("{line}");
        lines.push(line);
    }
    if let Some(page) = write {
        sim::figures::write_between(page, "compare", &lines)?;
    }
    Ok(fine)
}

fn engine(story: &Story) -> Result<(f64, Vec<&'static str>), String> {
    let began = Instant::now();
    let report = sim::play::play(story, false);
    match report.violations.first() {
        Some(violation) => Err(violation.to_string()),
        None => {
            let speed = report.simulated_seconds as f64 / began.elapsed().as_secs_f64();
            Ok((speed, report.ended))
        }
    }
}

fn daemons(story: &Story, tick: Duration) -> Result<(f64, Vec<&'static str>), String> {
    let began = Instant::now();
    let config = Config { tick, rest: Duration::from_secs(35) };
    let report = sim_daemon::play(story, config).map_err(|error| error.to_string())?;
    match report.violations.first() {
        Some(violation) => Err(violation.to_string()),
        None => {
            let speed = report.simulated.as_secs_f64() / began.elapsed().as_secs_f64();
            Ok((speed, report.ended))
        }
    }
}

/// A minute with a deploy and an update on three machines, one crash and one partition.
fn story(nodes: usize) -> Story {
    let deploy = |at, image: &str| {
        let strategy = Strategy::Rolling;
        let service = Service { s: 0, image: image.to_owned(), replicas: 3, strategy };
        let action = Action::Deploy { ns: 0, services: vec![service] };
        Asked { at, machine: 0, action, cancel_after: None, then: Then::Resume, then_on: 1 }
    };
    let groups = (0..nodes).map(|machine| u8::from(machine + 1 == nodes)).collect();
    Story {
        v: VERSION,
        seed: 1,
        nodes,
        servers: 1,
        length: 60_000,
        request_every: 0,
        operations: vec![deploy(1_000, "ready-1000-v1"), deploy(20_000, "ready-1500-v2")],
        faults: vec![
            Fault { at: 22_000, lasts: 0, what: What::DaemonCrash { machine: 0 } },
            Fault { at: 45_000, lasts: 5_000, what: What::Partition { groups } },
        ],
        broke: None,
    }
}
