//! What outlives the daemon on its machine, for all machines on one host that nothing strikes: their runtimes, which end what they were
//! asked for also when the daemon that asked is dead, and their gateways, which follow the store.
//!
//! A host of its own for each gateway would double the hosts, and turmoil looks at every link for each host on each tick. So the
//! gateways hear the store through the world's model of the links, which has the same cuts as turmoil's.

use std::sync::Arc;
use std::time::Duration;

use proto_core::Outcome;
use proto_core::id::Epoch;
use proto_core::routing::Heard;
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use proto_core::store::Scope;
use sim::invariants::Seen;
use sim::world::feed;
use sim::world::gateway::Link;
use sim::world::runtime::takes;
use tokio::sync::{mpsc, oneshot};

use crate::shared::{Shared, State};

/// The host's name.
pub(crate) const HOST: &str = "outliving";
/// Between two looks of the followers.
const LOOK: Duration = Duration::from_millis(5);
/// How long a follower waits for a heartbeat before it says that the store is away.
const SILENCE: Duration = Duration::from_millis(2500);

/// Something that a runtime is asked for.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) machine: usize,
    pub(crate) request: RuntimeRequest,
    /// The command that it is for.
    pub(crate) by: Option<(Scope, Epoch)>,
    /// Its number among those that change something.
    pub(crate) number: Option<u64>,
    pub(crate) answer: oneshot::Sender<Outcome<RuntimeReply, RuntimeError>>,
}

/// The host.
pub(crate) async fn run(
    shared: Shared,
    mut work: mpsc::UnboundedReceiver<Work>,
) -> turmoil::Result {
    tokio::spawn(follow(shared.clone()));
    while let Some(work) = work.recv().await {
        tokio::spawn(carry_out(shared.clone(), work));
    }
    Ok(())
}

async fn carry_out(shared: Shared, work: Work) {
    tokio::time::sleep(takes(&work.request)).await;
    let outcome = {
        let mut state = shared.lock();
        let Work { machine, request, by, number, .. } = &work;
        let (now, wall) = (state.world.now, state.world.wall(*machine));
        let result = state.world.runtimes[*machine].apply(now, wall, request);
        if let Some(number) = number {
            state.changing.remove(number);
            if result.is_ok() {
                state.see(&Seen::Landed { machine: *machine, request, by: by.as_ref() });
            }
        }
        result.map_or_else(Outcome::Failed, Outcome::Ok)
    };
    // The daemon that asked may be gone.
    let _ = work.answer.send(outcome);
}

async fn follow(shared: Shared) {
    let machines = shared.lock().world.machines.len();
    let mut followers = Vec::new();
    for machine in 0..machines {
        let mut state = shared.lock();
        let said = state.load();
        state.hear(machine, &said);
        followers.push(Follower { machine, heard: state.said.len(), told: false });
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let mut state = shared.lock();
        for follower in &mut followers {
            follower.look(&mut state);
        }
    }
}

struct Follower {
    machine: usize,
    /// How much of what the store said it has heard.
    heard: usize,
    /// It has said that the store is away.
    told: bool,
}

impl Follower {
    fn look(&mut self, state: &mut State) {
        let now = state.world.now;
        let hears = state.world.servers.is_followed(&state.world.network, self.machine);
        match (state.world.gateways[self.machine].link, hears) {
            (Link::Following(_), true) if self.heard == state.said.len() => {}
            (Link::Following(_), true) => {
                for at in self.heard..state.said.len() {
                    let said = Arc::clone(&state.said[at]);
                    state.hear(self.machine, &said);
                }
                self.heard = state.said.len();
            }
            (Link::Following(_), false) => {
                state.world.gateways[self.machine].link = Link::Silent(now);
                self.told = false;
            }
            (Link::Silent(since), false) => {
                if !self.told && now.since(since) >= SILENCE {
                    state.hear(self.machine, &[feed::silence()]);
                    self.told = true;
                }
            }
            (Link::Silent(_), true) => {
                let mut said = feed::heard_again();
                said.extend(state.load());
                state.hear(self.machine, &said);
                self.heard = state.said.len();
                state.world.gateways[self.machine].link = Link::Following(now);
            }
        }
    }
}

impl State {
    fn load(&mut self) -> Vec<Heard> {
        let now = self.world.now;
        self.feed.load(&mut self.world.kv, now)
    }

    fn hear(&mut self, machine: usize, said: &[Heard]) {
        let wall = self.world.wall(machine);
        let mut changed = false;
        for heard in said {
            changed |= self.world.gateways[machine].hear(wall, heard);
        }
        if changed {
            self.see(&Seen::Published { machine });
        }
    }
}
