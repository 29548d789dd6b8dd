//! `make sim-200`: 200 daemons at a coarse tick, a deploy over 20 machines, five crashes (the coordinator's and those of four machines of
//! the deploy), a partition that cuts half of the machines of the deploy off in the middle of an update, and its healing, in the first
//! minute. What waits for a machine that is cut off is given up when the time for the step is over, so the operator asks for the update again.
//!
//! Instances go to the machines whose names sort first and stay there, so the story can say beforehand whom it strikes. Whether it did is
//! looked at when the run is over: a story whose faults miss has shown nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use proto_core::deploy::spec::Strategy;
use proto_core::id::MachineId;
use sim::story::{Action, Asked, Fault, Service, Story, Then, VERSION, What};
use sim_daemon::{Config, Report, Tier};

/// The machine that coordinates the deploy.
const COORDINATOR: usize = 7;
/// The one that coordinates the update.
const NEXT: usize = 8;
/// The one that is asked for the update once more.
const SECOND: usize = 100;
/// How many instances there are, each on a machine of its own.
const INSTANCES: usize = 20;
/// The number of the update among the operations; before it is the deploy, after it the same update again.
const UPDATE: usize = 1;
/// How they end. An update that commits at once was not struck.
const ENDS: [&str; 3] = ["committed", "aborted", "committed"];
const LENGTH: Duration = Duration::from_secs(60);

/// Plays it; whether everything held, the deploys committed, and the faults struck what they were meant to.
pub(crate) fn run(seed: u64, nodes: usize) -> Result<bool, String> {
    // Every operation comes to its end here, so no lease is left that had to run out before the questions at rest.
    let (tick, rest) = (Duration::from_millis(10), Duration::from_secs(10));
    let config = Config { tier: Tier::Turmoil, tick, rest };
    let story = story(seed, nodes);
    let report = crate::tell(&story, config)?;
    for (fault, struck) in &report.struck {
        let names: Vec<_> = struck.machines.iter().copied().map(name).collect();
        let (Fault { at, what, .. }, names) = (&story.faults[*fault], names.join(" "));
        let (class, under_way) = (what.class(), struck.under_way);
        println!("{class} at {at} ms: {under_way} under way, with an instance: [{names}]");
    }
    let missed = missed(&story, &report);
    for what in &missed {
        println!("NOT AS MEANT: {what}");
    }
    Ok(missed.is_empty() && report.violations.is_empty())
}

fn story(seed: u64, nodes: usize) -> Story {
    let second = SECOND % nodes;
    let deploy = |at, machine, image: &str| {
        let replicas = u32::try_from(INSTANCES).expect("few instances");
        let service = Service::new(0, image.to_owned(), replicas, Strategy::BlueGreen);
        let action = Action::Deploy { ns: 0, services: vec![service] };
        Asked { at, machine, action, cancel_after: None, then: Then::Resume, then_on: machine }
    };
    let crash = |at, machine| Fault { at, lasts: 0, what: What::DaemonCrash { machine } };
    // The store is where the first machine is.
    let spared = [0, COORDINATOR, NEXT, second];
    let mut by_name: Vec<_> = (0..nodes).collect();
    by_name.sort_by_key(|machine| name(*machine));
    let others = by_name.split_off(INSTANCES);
    let with: Vec<_> = by_name.into_iter().filter(|machine| !spared.contains(machine)).collect();
    let others = others.into_iter().filter(|machine| !spared.contains(machine));
    // A tenth of the machines is cut off, half of them with instances.
    let (tenth, half) = (nodes / 10, (nodes / 10).div_ceil(2));
    let cut: BTreeSet<_> =
        with.iter().rev().copied().take(half).chain(others.rev().take(tenth - half)).collect();
    let groups = (0..nodes).map(|machine| u8::from(cut.contains(&machine))).collect();
    Story {
        v: VERSION,
        seed,
        nodes,
        servers: 1,
        length: LENGTH.as_millis() as u64,
        request_every: 0,
        used: 0,
        operations: vec![
            deploy(1_000, COORDINATOR, "ready-1500-v1"),
            deploy(18_000, NEXT, "ready-1500-v2"),
            deploy(40_000, second, "ready-1500-v2"),
        ],
        faults: vec![
            Fault { at: 19_500, lasts: 8_000, what: What::Partition { groups } },
            crash(2_500, with[0]),
            // In the middle of the first deploy.
            crash(3_000, COORDINATOR),
            crash(10_500, with[1]),
            crash(20_000, with[2]),
            // Cut off.
            crash(21_500, with[with.len() - 1]),
        ],
        away: None,
        broke: None,
    }
}

/// What was not as the story means it.
fn missed(story: &Story, report: &Report) -> Vec<String> {
    let mut missed = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            missed.push(what);
        }
    };
    must(report.ended == ENDS, format!("the operations ended {:?}", report.ended));
    let last = report.ended_at.iter().max();
    must(last.is_some_and(|at| *at < LENGTH), format!("the last one ended {last:?}"));
    let crashes = story.faults.iter().filter(|fault| fault.what.class() == "daemon_crash").count();
    must(report.crashes as usize == crashes, format!("{} daemons died", report.crashes));
    // What the head says at the end: both deploys have the same machines.
    let services = report.content.values().flat_map(|services| services.values());
    let committed: BTreeSet<&MachineId> = services.flat_map(|service| service.machines()).collect();
    must(committed.len() == INSTANCES, format!("instances are on {} machines", committed.len()));
    let struck = |fault: usize| report.struck.get(&fault).cloned().unwrap_or_default();
    let had = |fault: usize, machine: usize| {
        let ran = struck(fault).machines.contains(&machine);
        ran && committed.iter().any(|id| id.as_str() == name(machine))
    };
    for (n, Fault { at, lasts, what }) in story.faults.iter().enumerate() {
        let under_way = struck(n).under_way;
        match what {
            What::DaemonCrash { machine: COORDINATOR } => {
                must(under_way == 1, format!("at {at} ms: {under_way} operations under way"));
            }
            What::DaemonCrash { machine } => {
                must(had(n, *machine), format!("at {at} ms: none on {}", name(*machine)));
            }
            What::Partition { groups } => {
                let cut = (0..story.nodes).filter(|machine| groups[*machine] == 1);
                let with = cut.filter(|machine| had(n, *machine)).count();
                let meant = (story.nodes / 10).div_ceil(2);
                must(with == meant, format!("{with} of {meant} cut off have an instance"));
                // It is the update that is under way, and it cannot end before its machines are back.
                let update = (report.ended_at[UPDATE - 1].as_millis() as u64)..story.length;
                let healed = Duration::from_millis(at + lasts);
                must(under_way == 1, format!("at {at} ms: {under_way} operations under way"));
                must(update.contains(&story.operations[UPDATE].at), "it was asked too soon".into());
                must(report.ended_at[UPDATE] > healed, "the update ended while cut off".into());
            }
            _ => {}
        }
    }
    missed
}

/// The name of a machine.
fn name(machine: usize) -> String {
    format!("m{}", machine + 1)
}
