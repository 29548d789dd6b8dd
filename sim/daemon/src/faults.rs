//! What turmoil does for each fault of a story.

use std::time::Duration;

use sim::cluster::RESTART_AFTER;
use sim::invariants::rest;
use sim::story::{Story, What};
use sim::world::network::LinkFault;

use crate::play::{Play, Struck, Tier, Todo};
use crate::store;

/// A link fault under way.
#[derive(Debug)]
pub(crate) enum Cut {
    /// Nothing passes between machines of different groups; the store is where the first machine is.
    Groups(Vec<u8>),
    /// What one machine says is not heard by another.
    OneWay(usize, usize),
    /// Nothing of or for this machine passes until it is released; then all of it does.
    Held(usize),
}

/// The classes of this story's faults that this tier has nothing for.
pub(crate) fn not_played(story: &Story, tier: Tier) -> Vec<&'static str> {
    let played = |what: &What| match what {
        What::DaemonCrash { .. } | What::InstanceExit { .. } => true,
        What::DaemonPause { .. } | What::Partition { .. } | What::OneWay { .. } => {
            tier == Tier::Turmoil
        }
        _ => false,
    };
    let others = story.faults.iter().filter(|fault| !played(&fault.what));
    others.map(|fault| fault.what.class()).collect()
}

impl Play<'_> {
    pub(crate) fn begin(&mut self, number: usize) {
        let fault = &self.story.faults[number];
        self.faults += 1;
        match &fault.what {
            What::DaemonCrash { machine } => return self.crash(number, *machine),
            What::InstanceExit { machine, nth } => {
                let mut state = self.shared.lock();
                let there = &state.world.runtimes[*machine];
                let name = there.instances().keys().nth(*nth).cloned();
                let (now, wall) = (state.world.now, state.world.wall(*machine));
                if let Some(name) = name {
                    state.world.runtimes[*machine].exit(now, wall, &name);
                }
                return;
            }
            What::DaemonPause { machine } => {
                self.cuts.insert(number, Cut::Held(*machine));
            }
            What::Partition { groups } => {
                let with_store = groups.first();
                let cut_off = (0..).zip(groups).filter(|(_, group)| Some(*group) != with_store);
                self.strike(number, cut_off.map(|(machine, _)| machine));
                self.cuts.insert(number, Cut::Groups(groups.clone()));
            }
            What::OneWay { from, to } => {
                self.cuts.insert(number, Cut::OneWay(*from, *to));
            }
            other => unreachable!("{} was refused at the beginning", other.class()),
        }
        self.links_changed();
        self.plan(Duration::from_millis(fault.lasts), Todo::End(number));
    }

    pub(crate) fn end(&mut self, number: usize) {
        self.cuts.remove(&number);
        self.links_changed();
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.links_changed();
    }

    /// Notes what a fault strikes, of these machines.
    fn strike(&mut self, number: usize, machines: impl Iterator<Item = usize>) {
        let state = self.shared.lock();
        let world = &state.world;
        let runs = |machine: &usize| {
            world.runtimes[*machine].instances().values().any(|there| there.runs(world.now))
        };
        let machines = machines.filter(runs).collect();
        let struck = Struck { machines, under_way: rest::unfinished(world).len() };
        drop(state);
        self.struck.insert(number, struck);
    }

    /// The daemon dies, and is started again by whoever watches it.
    fn crash(&mut self, number: usize, machine: usize) {
        let name = self.names[machine].clone();
        if !self.stage.crash(machine, &name) {
            return;
        }
        self.strike(number, std::iter::once(machine));
        self.crashes += 1;
        let mut state = self.shared.lock();
        state.boots[machine] += 1;
        state.bus.forget(machine);
        drop(state);
        self.plan(RESTART_AFTER, Todo::Restart(machine));
    }

    pub(crate) fn restart(&mut self, machine: usize) {
        self.stage.restart(machine, &self.names[machine]);
    }

    /// Puts every link into the state that the faults under way ask for, in turmoil and in the model that the gateways hear by.
    fn links_changed(&mut self) {
        let Some(sim) = self.stage.turmoil() else { return };
        let mut state = self.shared.lock();
        state.world.network.heal();
        let hosts = self.names.len();
        // The store comes last: it hears and is heard as the first machine is.
        let host = |at: usize| self.names.get(at).map_or(store::HOST, String::as_str);
        for a in 0..=hosts {
            for b in a + 1..=hosts {
                sim.release(host(a), host(b));
            }
        }
        for cut in self.cuts.values() {
            match cut {
                Cut::Groups(groups) => {
                    let fault = LinkFault::Partition { groups: groups.clone() };
                    state.world.network.begin(fault);
                    let group = |at: usize| groups.get(at % hosts).copied().unwrap_or(0);
                    for a in 0..=hosts {
                        for b in (a + 1..=hosts).filter(|b| group(a) != group(*b)) {
                            sim.partition(host(a), host(b));
                        }
                    }
                }
                Cut::OneWay(from, to) => {
                    state.world.network.begin(LinkFault::OneWay { from: *from, to: *to });
                    sim.partition_oneway(host(*from), host(*to));
                    if *from == 0 {
                        sim.partition_oneway(store::HOST, host(*to));
                    }
                    if *to == 0 {
                        sim.partition_oneway(host(*from), store::HOST);
                    }
                }
                Cut::Held(machine) => {
                    for other in (0..=hosts).filter(|other| other != machine) {
                        sim.hold(host(*machine), host(other));
                    }
                }
            }
        }
    }
}
