//! What outlives every daemon: the world of the engine tier's models, what is on the machines' disks, and the invariants that look on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto_core::daemon::{Effect, EffectId, EffectKind};
use proto_core::id::{InstanceName, OperationId};
use proto_core::routing::Heard;
use proto_core::store::Write;
use proto_core::time::{Time, UnixTime};
use sim::invariants::{Invariants, Seen};
use sim::world::World;
use sim::world::bus::Bus;
use sim::world::feed::Feed;

use crate::net::{self, Net};
use crate::operator::Answer;

/// All hosts share it. One thread runs them all, one after the other, so the lock is never waited for.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    /// How its hosts reach each other.
    pub(crate) net: Net,
}

/// See the file's page.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) world: World,
    pub(crate) invariants: Invariants,
    /// Counts the starts of each machine's daemon.
    pub(crate) boots: Vec<u32>,
    /// The commands that nodes have and have not answered.
    pub(crate) bus: Bus,
    /// Changes that a runtime is at: machine, run of the daemon that asked, instance.
    pub(crate) changing: BTreeMap<u64, (usize, u32, InstanceName)>,
    /// What the store told its followers, in order, from the beginning.
    pub(crate) said: Vec<Arc<Vec<Heard>>>,
    /// What loads read.
    pub(crate) feed: Feed,
    /// Under which handle a daemon took what operators asked, by its number.
    pub(crate) handles: BTreeMap<u64, u64>,
    /// What operators were answered, by the number of what they asked.
    pub(crate) answers: BTreeMap<u64, Answer>,
    /// How many effects the nodes put out.
    pub(crate) effects: u64,
    numbers: u64,
}

impl Shared {
    pub(crate) fn new(world: World, net: Net) -> Self {
        let machines = world.machines.len();
        let state = State {
            world,
            invariants: Invariants::of_a_story(),
            boots: vec![0; machines],
            bus: Bus::default(),
            changing: BTreeMap::new(),
            said: Vec::new(),
            feed: Feed::default(),
            handles: BTreeMap::new(),
            answers: BTreeMap::new(),
            effects: 0,
            numbers: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), net }
    }

    /// The state, with its clock where the calling host's clock is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(elapsed) = net::elapsed() {
            state.set_now(elapsed);
        }
        state
    }

    /// The names of the machines' hosts.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().world.machines.iter().map(ToString::to_string).collect()
    }
}

impl State {
    /// Hosts take turns within a tick, so the clocks of two of them may be a tick apart; this one never goes back.
    pub(crate) fn set_now(&mut self, elapsed: Duration) {
        self.world.now = self.world.now.max(Time::ZERO + elapsed);
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn see(&mut self, seen: &Seen<'_>) {
        self.invariants.see(seen, &self.world);
    }

    /// The world may have changed.
    pub(crate) fn look(&mut self) {
        self.invariants.look(&self.world);
    }

    /// A daemon wants this done.
    pub(crate) fn issued(
        &mut self,
        machine: usize,
        operation: Option<OperationId>,
        kind: EffectKind,
    ) {
        self.effects += 1;
        let effect = Effect { id: EffectId(self.effects), operation, kind };
        self.invariants.see(&Seen::Issued { machine, effect: &effect }, &self.world);
    }
}

/// On whose behalf a batch is: its record, or its lease, says so.
pub(crate) fn on_behalf(writes: &[Write]) -> Option<OperationId> {
    let record =
        writes.iter().find_map(|write| write.key.as_str().strip_prefix("op.")?.parse().ok());
    record.or_else(|| {
        let operation = writes.iter().find_map(|write| write.value.get("operation")?.as_str());
        operation.and_then(|operation| operation.parse().ok())
    })
}

/// The wall clock of every host: right, and from the engine tier's beginning on.
pub(crate) fn wall() -> UnixTime {
    let elapsed = net::elapsed().unwrap_or_default();
    sim::world::clock::Clock::default().wall(Time::ZERO + elapsed)
}
