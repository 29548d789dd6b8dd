//! The story of a cluster that nobody asks for anything: some deploys at the beginning, then daemons and machines that die and links that
//! are cut, for hours.

use std::time::Duration;

use proto_core::deploy::spec::Strategy;
use proto_core::random::Random;

use super::{Action, Asked, Fault, Pinned, Service, Story, Then, VERSION, What};

/// How long the deploys have; then nobody asks for anything. Leases and the records of tries are gone by then.
pub const DEPLOYED_WITHIN: Duration = Duration::from_secs(600);
/// Between two faults anywhere in the cluster, on average.
const FAULT_EVERY: Duration = Duration::from_secs(60);
/// No partition and no power cut is longer.
const LONGEST: Duration = Duration::from_secs(600);
/// How many services of several instances there are, each in a namespace of its own.
const SPREAD: u32 = 8;
/// How many there are beside them of one instance, on machines all over the cluster: there instances exit.
const LONE: u32 = 24;
/// No service has more instances.
const MOST_REPLICAS: usize = 20;

/// Draws the story of so many machines and so long a quiet time.
#[must_use]
pub fn idle(seed: u64, nodes: usize, quiet: Duration) -> Story {
    let mut random = Random::new(seed);
    let mut below = |bound: u64| random.below(bound.max(1));
    let begins = millis(DEPLOYED_WITHIN);
    let servers: usize = if nodes < 3 { 1 } else { 3 };
    let length = begins + millis(quiet);
    let replicas = u32::try_from(nodes.min(MOST_REPLICAS)).expect("twenty at most");
    let deploy = |ns: u32| {
        let (image, strategy) = ("ready-300-v1".to_owned(), Strategy::Rolling);
        let machine = ns as usize % nodes;
        let service = match ns.checked_sub(SPREAD) {
            None => Service::new(0, image, replicas, strategy),
            Some(lone) => {
                let pinned = Some(Pinned::To(home(lone as usize, nodes)));
                Service { pinned, ..Service::new(0, image, 1, strategy) }
            }
        };
        let action = Action::Deploy { ns, services: vec![service] };
        let at = 1000 + u64::from(ns) * 15_000;
        Asked { at, machine, action, cancel_after: None, then: Then::Resume, then_on: machine }
    };
    let mut faults = Vec::new();
    let mut at = begins;
    loop {
        at += 1 + below(2 * millis(FAULT_EVERY));
        if at >= length {
            break;
        }
        let machine = index(below(nodes as u64));
        let what = match below(10) {
            0..=3 => What::DaemonCrash { machine },
            4 | 5 => What::Reboot { machine },
            6 => {
                let lone = index(below(LONE.into()));
                What::InstanceExit { machine: home(lone, nodes), nth: 0 }
            }
            // Only the store talks to everybody while nobody asks for anything.
            7 if nodes > servers => {
                let server = index(below(servers as u64));
                let other = servers + machine % (nodes - servers);
                let (from, to) = if below(2) == 0 { (server, other) } else { (other, server) };
                What::OneWay { from, to }
            }
            _ => {
                // One machine alone, or some on each side.
                let alone = below(2) == 0;
                let mut side = |other| if alone { other == machine } else { below(2) == 0 };
                What::Partition { groups: (0..nodes).map(|other| u8::from(side(other))).collect() }
            }
        };
        faults.push(Fault { at, lasts: 500 + below(millis(LONGEST)), what });
    }
    Story {
        v: VERSION,
        seed,
        nodes,
        servers,
        length,
        request_every: 1000,
        used: 0,
        operations: (0..SPREAD + LONE).map(deploy).collect(),
        faults,
        away: None,
        broke: None,
    }
}

/// The machine of one of the services that have one instance.
fn home(lone: usize, nodes: usize) -> usize {
    lone * nodes / LONE as usize
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("hours, not ages")
}

fn index(below: u64) -> usize {
    usize::try_from(below).expect("below a number of machines")
}
