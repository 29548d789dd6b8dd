//! `make sim-200`: 200 daemons at a coarse tick, a deploy over 20 machines, five crashes (the coordinator's among them), a partition
//! and its healing, in the first minute.

use std::time::Duration;

use proto_core::deploy::spec::Strategy;
use sim::story::{Action, Asked, Fault, Service, Story, Then, VERSION, What};
use sim_daemon::{Config, Tier};

/// The machine that coordinates.
const COORDINATOR: usize = 7;
/// Where the operator resumes.
const SECOND: usize = 100;

/// Plays it; whether everything held and the deploys committed.
pub(crate) fn run(seed: u64, nodes: usize) -> Result<bool, String> {
    // Both operations end as committed here, so no lease is left that had to run out before the questions at rest.
    let (tick, rest) = (Duration::from_millis(10), Duration::from_secs(10));
    let config = Config { tier: Tier::Turmoil, tick, rest };
    let story = story(seed, nodes);
    let report = crate::tell(&story, config)?;
    let committed = report.ended.iter().all(|ended| *ended == "committed");
    if !committed {
        println!("NOT COMMITTED: {:?}", report.ended);
    }
    Ok(committed && report.violations.is_empty() && report.crashes >= 5)
}

fn story(seed: u64, nodes: usize) -> Story {
    let deploy = |at, machine, image: &str| {
        let service = Service {
            s: 0,
            image: image.to_owned(),
            replicas: 20,
            strategy: Strategy::BlueGreen,
            names: Vec::new(),
        };
        let action = Action::Deploy { ns: 0, services: vec![service] };
        let then_on = SECOND % nodes;
        Asked { at, machine, action, cancel_after: None, then: Then::Resume, then_on }
    };
    let crash = |at, machine| Fault { at, lasts: 0, what: What::DaemonCrash { machine } };
    // A tenth of the machines, the last ones; the store is with the others.
    let groups = (0..nodes).map(|machine| u8::from(machine >= nodes - nodes / 10)).collect();
    Story {
        v: VERSION,
        seed,
        nodes,
        servers: 1,
        length: 60_000,
        request_every: 0,
        operations: vec![
            deploy(1_000, COORDINATOR, "ready-1500-v1"),
            deploy(25_000, COORDINATOR + 1, "ready-1500-v2"),
        ],
        faults: vec![
            crash(2_500, 1),
            // In the middle of the first deploy.
            crash(3_000, COORDINATOR),
            crash(10_500, 2),
            crash(26_500, 3),
            crash(28_000, 4),
            Fault { at: 27_000, lasts: 8_000, what: What::Partition { groups } },
        ],
        broke: None,
    }
}
