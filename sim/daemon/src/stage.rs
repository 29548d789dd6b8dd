//! Where the hosts of a story run: each in a runtime of its own on turmoil's clock, or all in one whose time is paused.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use turmoil::{Builder, Sim};

use crate::net;
use crate::operator::{self, Question};
use crate::outliving::{self, Work};
use crate::play::{Config, Error, Tier};
use crate::shared::Shared;
use crate::{machine, store};

/// What the hosts' clocks say at the beginning, in seconds since 1970.
const EPOCH: u64 = 1_800_000_000;

/// The hosts.
pub(crate) enum Stage {
    /// On turmoil.
    Turmoil(Sim<'static>),
    /// In one runtime.
    Paused(Paused),
}

impl Stage {
    /// Starts all hosts of a story.
    pub(crate) fn new(
        seed: u64,
        config: Config,
        shared: &Shared,
        asked: mpsc::UnboundedReceiver<Question>,
    ) -> Self {
        match config.tier {
            Tier::Turmoil => Self::Turmoil(on_turmoil(seed, config, shared, asked)),
            Tier::Paused => Self::Paused(Paused::new(shared.clone(), asked)),
        }
    }

    /// How long the story has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Turmoil(sim) => sim.elapsed(),
            Self::Paused(paused) => paused.elapsed,
        }
    }

    /// Lets everything happen that happens within the next tick.
    pub(crate) fn step(&mut self, tick: Duration) -> Result<(), Error> {
        match self {
            Self::Turmoil(sim) => sim.step().map(drop).map_err(Error::Host),
            Self::Paused(paused) => paused.step(tick),
        }
    }

    /// Kills a machine's daemon; whether it ran.
    pub(crate) fn crash(&mut self, machine: usize, name: &str) -> bool {
        match self {
            Self::Turmoil(sim) => {
                let ran = sim.is_host_running(name);
                if ran {
                    sim.crash(name);
                }
                ran
            }
            Self::Paused(paused) => paused.crash(machine),
        }
    }

    /// Starts a machine's daemon again.
    pub(crate) fn restart(&mut self, machine: usize, name: &str) {
        match self {
            Self::Turmoil(sim) => sim.bounce(name),
            Self::Paused(paused) => paused.start(machine),
        }
    }

    /// Turmoil, if that is where the hosts are: only there has the network faults.
    pub(crate) fn turmoil(&mut self) -> Option<&mut Sim<'static>> {
        match self {
            Self::Turmoil(sim) => Some(sim),
            Self::Paused(_) => None,
        }
    }
}

fn on_turmoil(
    seed: u64,
    config: Config,
    shared: &Shared,
    asked: mpsc::UnboundedReceiver<Question>,
) -> Sim<'static> {
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(EPOCH))
        .simulation_duration(Duration::MAX)
        .tick_duration(config.tick)
        .min_message_latency(config.tick)
        .max_message_latency(3 * config.tick)
        .tcp_capacity(1024)
        .build();
    let (work, to_do) = mpsc::unbounded_channel();
    sim.client(operator::HOST, operator::run(shared.clone(), asked));
    sim.client(outliving::HOST, outliving::run(shared.clone(), to_do));
    let state = shared.clone();
    sim.host(store::HOST, move || store::run(state.clone()));
    for (at, name) in shared.names().into_iter().enumerate() {
        let (state, work) = (shared.clone(), work.clone());
        sim.host(name.as_str(), move || machine::run(at, state.clone(), work.clone()));
    }
    sim
}

/// All hosts in one runtime of one thread, whose clock goes on to what comes next when there is nothing left to do.
pub(crate) struct Paused {
    shared: Shared,
    runtime: Runtime,
    began: Instant,
    elapsed: Duration,
    work: mpsc::UnboundedSender<Work>,
    machines: BTreeMap<usize, JoinHandle<String>>,
    /// The hosts that nothing strikes.
    others: Vec<JoinHandle<String>>,
}

impl Paused {
    fn new(shared: Shared, asked: mpsc::UnboundedReceiver<Question>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime that needs nothing of the system");
        let (work, to_do) = mpsc::unbounded_channel();
        let others = vec![
            spawn(&runtime, store::run(shared.clone())),
            spawn(&runtime, operator::run(shared.clone(), asked)),
            spawn(&runtime, outliving::run(shared.clone(), to_do)),
        ];
        let began = runtime.block_on(async { Instant::now() });
        let machines = BTreeMap::new();
        let elapsed = Duration::ZERO;
        let names = shared.names().len();
        let mut paused = Self { shared, runtime, began, elapsed, work, machines, others };
        (0..names).for_each(|machine| paused.start(machine));
        paused
    }

    fn start(&mut self, machine: usize) {
        let run = machine::run(machine, self.shared.clone(), self.work.clone());
        self.machines.insert(machine, spawn(&self.runtime, run));
    }

    fn crash(&mut self, machine: usize) -> bool {
        let there = self.machines.remove(&machine);
        there.inspect(JoinHandle::abort).is_some()
    }

    fn step(&mut self, tick: Duration) -> Result<(), Error> {
        let until = self.elapsed + tick;
        net::set_began(Some(self.began));
        // A timer is made within the runtime whose clock it is on.
        self.runtime.block_on(async { sleep_until(self.began + until).await });
        net::set_began(None);
        self.elapsed = until;
        let hosts = self.machines.values_mut().chain(&mut self.others);
        match hosts.into_iter().find(|host| host.is_finished()) {
            None => Ok(()),
            Some(host) => {
                let why = self.runtime.block_on(host).unwrap_or_else(|error| error.to_string());
                Err(Error::Host(why.into()))
            }
        }
    }
}

/// Runs a host's program, which is not to end; why it did.
fn spawn(
    runtime: &Runtime,
    program: impl Future<Output = turmoil::Result> + Send + 'static,
) -> JoinHandle<String> {
    runtime.spawn(async {
        match program.await {
            Ok(()) => "it ended".to_owned(),
            Err(error) => error.to_string(),
        }
    })
}
